"""The KV cache as blocks: who owns which block. No tensors here."""

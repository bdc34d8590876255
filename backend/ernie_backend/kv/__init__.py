"""The KV cache as blocks: which request owns which block. No tensors here."""

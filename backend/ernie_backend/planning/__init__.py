"""How much memory there is, and what of it the KV cache gets."""

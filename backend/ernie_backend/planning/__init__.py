"""How much memory a model takes, and how much of the rest the KV cache gets."""

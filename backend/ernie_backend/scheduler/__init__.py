"""What the next engine step computes: policy only, no tensors."""

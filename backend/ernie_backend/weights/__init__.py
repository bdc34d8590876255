"""Checkpoints: from files on disk to the weights that a model requests by role."""

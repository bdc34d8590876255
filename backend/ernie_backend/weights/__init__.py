"""Checkpoints: from files on disk to the weights a model asks for by role."""

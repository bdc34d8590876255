"""Ranks that share one model: each is a process with its own worker; rank 0 is the engine."""

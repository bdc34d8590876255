"""Whether a backend computes here what the NumPy reference does, and how fast: ``doctor --selfcheck``."""

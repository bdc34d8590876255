"""Whether a backend computes here what the NumPy reference does, and how fast: ``doctor --selfcheck``."""

NOT_STARTED_STATUS = 3
"""Exit status of the process if the backend cannot be used here; the reason is the last line of its errors."""

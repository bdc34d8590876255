"""The tritonserver of one ``serve``."""

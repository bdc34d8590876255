"""``settings``: what the engine can be set to, each with its kind, default and meaning in one place."""

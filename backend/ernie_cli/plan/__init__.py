"""``plan``: how much memory a model needs."""

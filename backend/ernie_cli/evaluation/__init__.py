"""``eval``: sets of questions, their client, and the report."""

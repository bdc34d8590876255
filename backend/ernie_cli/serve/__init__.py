"""``serve``: its command, what it starts, and what it does about faults."""

"""Child processes, their signals, ports and files."""

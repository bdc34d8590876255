"""The commands of ernie-triton: they start, watch and end the processes that do the work."""

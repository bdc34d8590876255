"""Makes quantized checkpoints of float ones, in FastDeploy's layout."""

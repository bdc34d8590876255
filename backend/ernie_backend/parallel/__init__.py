"""Several ranks that share one model: rank 0 is the engine, the others follow its steps."""

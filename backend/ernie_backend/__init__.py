"""The engine side: models, weights, scheduling and everything that runs in the engine process."""

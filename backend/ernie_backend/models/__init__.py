"""The model files: each reads like the paper and only calls ops."""

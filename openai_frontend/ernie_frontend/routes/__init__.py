"""One module for each endpoint: read, translate, ask Triton, translate back."""

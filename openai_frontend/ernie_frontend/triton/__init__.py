"""Triton over gRPC: clients, the tensors of a request, and which models are served."""

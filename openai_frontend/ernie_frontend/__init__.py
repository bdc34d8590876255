"""The OpenAI frontend: HTTP and SSE in, Triton gRPC out.

It runs as its own process, without model code: it gets a model's description by a ``control`` request. Of this
project it imports only ``ernie_wire``.
"""

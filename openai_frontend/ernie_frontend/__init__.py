"""The OpenAI frontend: HTTP and SSE in, Triton gRPC out.

A process of its own that holds no model code: what it needs to know of a model it asks with a ``control``
request. It imports ``ernie_wire`` only, never the backend, the stub or the kernels.
"""

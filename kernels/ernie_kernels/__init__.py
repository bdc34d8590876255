"""The kernels of ernie-triton: one interface (``api``), three implementations.

``reference`` is the golden model (NumPy, float32, never optimised), ``cpu`` the C++ kernels, ``paddle``
compositions of Paddle ops, for Kunlunxin XPUs. This package imports nothing of ours and must not know what a
request, a tokenizer or a checkpoint is.
"""

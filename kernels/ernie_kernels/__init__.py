"""The kernels of ernie-triton: one interface (``api``), three implementations.

``reference`` is the golden model (NumPy, float32, never optimised), ``cpu`` the C++ kernels, ``paddle``
compositions of Paddle ops, for Kunlunxin XPUs.
"""

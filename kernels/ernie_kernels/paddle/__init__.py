"""The ops as compositions of Paddle's own, for Kunlunxin XPUs; importing this package imports Paddle.

Only ops of the KL3 list (``kl3_ops.json``) are used, because Paddle silently runs any other on the CPU. No XPU
was available: the same compositions are checked on Paddle's CPU place.
"""

from ernie_kernels.paddle.ops import PaddleOps

__all__ = ["PaddleOps"]

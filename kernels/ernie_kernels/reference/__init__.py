"""The golden model: ops in NumPy float32, composed of small functions that read like the paper.

Never optimised.
"""

from ernie_kernels.reference.ops import ReferenceOps

__all__ = ["ReferenceOps"]

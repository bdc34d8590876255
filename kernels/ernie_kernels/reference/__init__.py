"""The golden model: ops in NumPy float32, composed of small functions that read like the paper.

Never optimised; must not know any other backend.
"""

from ernie_kernels.reference.ops import ReferenceOps

__all__ = ["ReferenceOps"]

"""The C++ kernels behind the ops interface.

``CpuOps`` uses the best instruction set of this processor unless one is named, by its argument or by the
environment variable ``ERNIE_CPU_ISA`` (``scalar``, ``avx2``, ``avx2-vnni``, ``avx512``, ``avx512-vnni``,
``avx512-bf16``, ``avx512-amx``; ``avx512-lowered`` is the AVX-512 code on AVX2 registers, for tests).
"""

from ernie_kernels.cpu.ops import ISA_VARIABLE, CpuOps, instruction_sets

__all__ = ["ISA_VARIABLE", "CpuOps", "instruction_sets"]

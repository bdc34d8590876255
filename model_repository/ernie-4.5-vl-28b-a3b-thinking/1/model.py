"""The entry's model: Triton imports this file; the code is in the package ernie_stub."""

from ernie_stub.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]

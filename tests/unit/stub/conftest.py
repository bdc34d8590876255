"""Gives ernie_stub the module that Triton provides inside its Python stub."""

import sys

from fakes import triton_python_backend_utils

sys.modules.setdefault("triton_python_backend_utils", triton_python_backend_utils)

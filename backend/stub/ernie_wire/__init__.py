"""The contract between the OpenAI frontend, the Triton stub and the engine process.

Everything that crosses a process boundary is defined here, once: tensor names (``tensors``), sampling
parameters (``sampling``), the messages of the stub and the engine (``messages``), their form (``codec``) and
framing (``frames``) on a socket, and the errors (``errors``). This package imports nothing of ours and must
not know who calls it: no Triton, no HTTP, no model.
"""

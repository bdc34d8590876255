"""The contract between the OpenAI frontend, the Triton stub and the engine process.

Everything that crosses a process boundary is defined here, once: tensor names (``tensors``), sampling
parameters (``sampling``), what a model entry says of itself (``status``), the messages of the stub and the
engine (``messages``), their way over a socket (``codec``, ``frames``, ``channel``) and the errors
(``errors``). This package imports nothing of ours and must not know who calls it: no Triton, no HTTP, no model.
"""

"""The contract between the OpenAI frontend, the Triton stub and the engine process.

Everything that crosses a process boundary is defined here, once: tensor names (``tensors``), sampling
parameters (``sampling``), the status of a model entry (``status``), the messages of the stub and the engine
(``messages``), their transport over a socket (``codec``, ``frames``, ``channel``) and the errors (``errors``).
"""

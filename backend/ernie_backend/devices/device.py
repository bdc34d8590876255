"""The devices that a plan is made for: how much memory one has, and how much of it the model cannot use."""

from __future__ import annotations

from dataclasses import dataclass, replace

GIB = 1 << 30
P800_BYTES = 96 * GIB
"""Public listings of xpu-smi show 98,304 MiB for a P800; no card was available."""
_P800_RUNTIME_BYTES = 2 * GIB
"""For Paddle's runtime, its workspaces and the buffers of the communication: assumed, not measured."""
_CPU_RUNTIME_BYTES = 128 << 20
"""What an engine process holds before the first weight: Python, NumPy, the kernels, stacks of threads."""
_CPU_GROUP_BYTES = 320 << 20
"""For Paddle, through which ranks on CPUs communicate; measured."""


@dataclass(frozen=True)
class Device:
    """One of the devices that share a model.

    Attributes:
        name: for messages.
        memory_bytes: of one device; that of all ranks together if ``is_shared``.
        value_bytes: of an activation; at most, where ops differ.
        runtime_bytes: taken in addition to weights, activations and KV cache.
        group_bytes: taken in addition where ranks share a model.
        takes_experts_at_once: whether all experts of a layer are computed at once, not in turn.
        has_int8_head: whether quantized weights have an int8 output head; else it stays bfloat16.
        is_shared: whether the ranks share one memory, as on a CPU.
        int4_bits: bits of an int4 code in memory.
        casts_w4a8: whether W4A8 matrices become float32 for every product, one at a time.
        attends_in_blocks: whether attention is composed of products (``ernie_kernels.attention_blocks``), which
            takes memory for scores and contexts.
        has_sequence_rotary: whether models that see have a rotary table for each sequence of a step, or, where
            these do not fit their pairs, composed attention.
        is_assumed: whether the memory is a default, neither measured nor given.
    """

    name: str
    memory_bytes: int
    value_bytes: int
    runtime_bytes: int
    group_bytes: int
    takes_experts_at_once: bool
    has_int8_head: bool
    is_shared: bool
    int4_bits: int = 4
    casts_w4a8: bool = False
    attends_in_blocks: bool = False
    has_sequence_rotary: bool = False
    is_assumed: bool = False


def p800(memory_bytes: int | None = None) -> Device:
    """Return a Kunlunxin P800 with kernels for every format, as FastDeploy has them."""
    return Device(
        name="P800",
        memory_bytes=P800_BYTES if memory_bytes is None else memory_bytes,
        value_bytes=2,
        runtime_bytes=_P800_RUNTIME_BYTES,
        group_bytes=0,
        takes_experts_at_once=True,
        has_int8_head=False,
        is_shared=False,
        has_sequence_rotary=True,
        is_assumed=memory_bytes is None,
    )


def composed_p800(memory_bytes: int | None = None) -> Device:
    """Return a P800 with the composed Paddle ops, the slow fallback, which holds more: a byte for an int4 code.

    Results are bfloat16 between ops and float32 inside some; 4 bytes for each are a bound, not a measurement.
    """
    return replace(
        p800(memory_bytes),
        name="P800 (composed ops, the slow fallback)",
        value_bytes=4,
        takes_experts_at_once=False,
        int4_bits=8,
        casts_w4a8=True,
        attends_in_blocks=True,
        has_sequence_rotary=False,
    )


def cpu(memory_bytes: int) -> Device:
    """Return this machine's CPU, or the CPUs of the machines whose memory this is."""
    return Device(
        name="CPU",
        memory_bytes=memory_bytes,
        value_bytes=4,
        runtime_bytes=_CPU_RUNTIME_BYTES,
        group_bytes=_CPU_GROUP_BYTES,
        takes_experts_at_once=False,
        has_int8_head=True,
        is_shared=True,
    )

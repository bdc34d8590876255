"""The backends: one record each of all that depends on what computes.

    ops         how they are made, alone or joined to other ranks; only the chosen backend is imported
    step        its default number of tokens
    memory      the device that a plan assumes
    activation  how it can round activations, and does by default; the output head's format
    device      how to detect that this machine has one
    sampling    what samples tokens from logits

A new backend is an implementation of ``ernie_kernels.api.Ops`` and a record here; no other file depends on
which one it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ernie_backend.devices import xpu_ops
from ernie_backend.devices.device import Device, composed_p800, cpu, p800
from ernie_backend.devices.host import usable_cores
from ernie_backend.devices.kunlunxin import VISIBLE_DEVICES, check_xpu_host, read_xpu_host
from ernie_backend.errors import StartError
from ernie_kernels.api import Ops
from ernie_kernels.communicator import Communicator, ProcessGroupConfig
from ernie_kernels.fastdeploy.limits import why_refused
from ernie_kernels.formats import ActivationType
from ernie_kernels.needs import Needs
from ernie_kernels.sampling import TokenSampler

if TYPE_CHECKING:
    from ernie_kernels.cpu import CpuOps

CPU_PROMPT_TOKENS = 256
"""Prompt tokens of a step on a CPU: the fewest that cost little speed, since running streams wait for each step
(docs/performance.md has the measurement)."""
CARD_STEP_TOKENS = 2048
AUTO = "auto"


class HostReport(NamedTuple):
    """What a machine says of itself as a host of some ranks, asked once.

    Attributes:
        notices: for the user.
        card_bytes: least free memory among the ranks' cards; None: unknown, or there are none.
    """

    notices: tuple[str, ...] = ()
    card_bytes: int | None = None


@dataclass(frozen=True)
class Backend:
    """An implementation of the ops, and what the engine must know of it.

    Attributes:
        name: its value of ``--device``.
        make_ops: returns the ops of a rank, from its threads and its way to the others; None: it is alone.
        planned_device: returns what memory is planned for, from the bytes that the hosts have free, and those
            of one card; None: as many as a card has.
        step_tokens: returns the default of ``max_num_batched_tokens``, from ``max_num_seqs``.
        activations: how it can round the inputs of products.
        default_activation: returns how it does unless the user chooses, from the quantization.
        has_int8_head: whether quantization includes the output head.
        has_grouped_int4: whether it computes int4 weights with a scale for each group of inputs (wint4_all).
        token_sampler: returns what samples tokens from logits on the host, from the ops.
        instruction_set: returns the one in use, where it is the machine's; None: the same everywhere.
        why_refused: returns what its ops lack of a service's needs, with the way out; None: nothing.
        fallback_device: returns the card with the ops that are used where the better ones are not installed,
            from its bytes; None: there are no others.
        nodes: pattern of the device files in /dev of a card; None: it needs none.
        variable: environment variable by which a user chooses cards.
        check_host: returns what this machine says as the host of so many ranks; StartError: it cannot be.
        free_bytes: returns the least free memory among the cards of so many ranks, for a plan; None: unknown.
        card_free_bytes: returns the free memory of the card that ops compute on, now; None: they have none.
    """

    name: str
    make_ops: Callable[[int, ProcessGroupConfig | None], Ops]
    planned_device: Callable[[int, int | None], Device]
    step_tokens: Callable[[int], int]
    activations: tuple[ActivationType, ...]
    default_activation: Callable[[str | None], ActivationType]
    token_sampler: Callable[[Ops], TokenSampler]
    has_int8_head: bool = True
    has_grouped_int4: bool = True
    instruction_set: Callable[[], str] | None = None
    why_refused: Callable[[Needs], str | None] = lambda _: None
    fallback_device: Callable[[int | None], Device] | None = None
    nodes: str | None = None
    variable: str | None = None
    check_host: Callable[[int], HostReport] = lambda _: HostReport()
    free_bytes: Callable[[int], int | None] = lambda _: None
    card_free_bytes: Callable[[Ops], int | None] = lambda _: None

    def create_ops(self, threads: int, group: ProcessGroupConfig | None = None) -> Ops:
        """Return the ops, joined to those of the other ranks if there is a group.

        Raises:
            StartError: the backend cannot be imported, finds no device, or does not find the other ranks.
        """
        try:
            return self.make_ops(threads, group)
        except (ImportError, OSError, RuntimeError) as error:
            raise StartError(f"device {self.name} cannot be used: {error}") from error

    @property
    def kernels(self) -> str:
        """What computes: ranks that differ in it compute other bits."""
        return self.name if self.instruction_set is None else f"{self.name} {self.instruction_set()}"


def find_backend(
    requested: str, environment: Mapping[str, str] = os.environ, device_nodes: Path = Path("/dev")
) -> tuple[Backend, str | None]:
    """Return the backend for one of ``DEVICES``, and a notice for the user or None.

    ``auto`` is the one whose card is in this machine, unless the user's choice of cards is none; else the CPU.
    """
    if requested != AUTO:
        return BACKENDS[requested], None
    for backend in BACKENDS.values():
        chosen = None if backend.variable is None else environment.get(backend.variable)
        if backend.nodes is not None and any(device_nodes.glob(backend.nodes)):
            if chosen is None or chosen.strip():
                return backend, None
            hidden = f"which hides this machine's {backend.name.upper()}s"
            return CPU, f"{backend.variable} is empty, {hidden}: using the CPU; unset it to use them"
        if chosen:
            missing = backend.name.upper()
            return CPU, f"{backend.variable} is set, but this machine has no {missing}: using the CPU"
    return CPU, None


def planned_xpu(environment: Mapping[str, str] = os.environ, device_nodes: Path = Path("/dev")) -> Backend:
    """Return the XPU that a plan is for: this machine's, or, if it has none, one with FastDeploy's ops.

    Raises:
        StartError: the user's choice of ops is none.
    """
    has_cards = any(device_nodes.glob(str(XPU.nodes)))
    is_elsewhere = not has_cards and xpu_ops.chosen_ops(environment) != xpu_ops.COMPOSED
    return _FASTDEPLOY_XPU if is_elsewhere else XPU


def _cpu_ops(threads: int, group: ProcessGroupConfig | None) -> CpuOps:
    from ernie_kernels.cpu import ISA_VARIABLE, CpuOps

    communicator = None if group is None else _host_communicator(group)
    try:
        return CpuOps(threads, communicator=communicator)
    except ValueError as error:
        raise StartError(f"{ISA_VARIABLE} cannot be used: {error}") from error


def _reference_ops(_: int, group: ProcessGroupConfig | None) -> Ops:
    from ernie_kernels.reference import ReferenceOps

    return ReferenceOps(None if group is None else _host_communicator(group))


def _check_xpu(ranks: int) -> HostReport:
    host = read_xpu_host()
    return HostReport(check_xpu_host(host, ranks), host.free_bytes(ranks))


def _host_communicator(group: ProcessGroupConfig) -> Communicator[Any]:
    try:
        from ernie_kernels.paddle.process_group import join_host_group
    except ImportError as error:
        raise StartError(f"several ranks need Paddle ({error}); install ernie-triton[paddle]") from error
    return join_host_group(group)


def _samples_itself(ops: Ops) -> TokenSampler:
    return cast(TokenSampler, ops)


def _cpu_sampler(_: Ops) -> TokenSampler:
    from ernie_kernels.cpu import CpuOps

    return CpuOps(usable_cores())


def _cpu_instruction_set() -> str:
    return _cpu_ops(1, None).instruction_set


def _cpu_step_tokens(max_num_seqs: int) -> int:
    """Return the prompts' tokens and one for each request that decodes."""
    return CPU_PROMPT_TOKENS + max_num_seqs


_CPU_ACTIVATIONS = (
    ActivationType.INT16,
    ActivationType.INT8,
    ActivationType.FLOAT32,
    ActivationType.BFLOAT16,
)
_FAST_INT8 = ("avx2-vnni", "avx512-vnni", "avx512-bf16")
_TILES = "avx512-amx"


def _cpu_activation(quantization: str | None) -> ActivationType:
    """Return int8 for quantized weights where the processor multiplies it faster, else the careful int16.

    docs/quantization.md has what it costs in accuracy, docs/performance.md what it gains.
    """
    if quantization is None:
        return ActivationType.INT16
    instruction_set = _cpu_instruction_set()
    # Tiles make int16 the faster one, except for weights with scales of groups, which are not made in them.
    is_fast = quantization == "wint4_all" if instruction_set == _TILES else instruction_set in _FAST_INT8
    return ActivationType.INT8 if is_fast else ActivationType.INT16


CPU = Backend(
    name="cpu",
    make_ops=_cpu_ops,
    planned_device=lambda host_bytes, _: cpu(host_bytes),
    step_tokens=_cpu_step_tokens,
    activations=_CPU_ACTIVATIONS,
    default_activation=_cpu_activation,
    token_sampler=_samples_itself,
    instruction_set=_cpu_instruction_set,
)
REFERENCE = Backend(
    name="reference",
    make_ops=_reference_ops,
    planned_device=lambda host_bytes, _: cpu(host_bytes),
    step_tokens=_cpu_step_tokens,
    activations=_CPU_ACTIVATIONS,
    default_activation=lambda _: ActivationType.INT16,
    token_sampler=_samples_itself,
)
XPU = Backend(
    name="xpu",
    make_ops=xpu_ops.make_ops,
    planned_device=xpu_ops.planned_device,
    step_tokens=lambda _: CARD_STEP_TOKENS,
    activations=(ActivationType.BFLOAT16,),
    default_activation=lambda _: ActivationType.BFLOAT16,
    has_int8_head=False,
    has_grouped_int4=False,
    token_sampler=_cpu_sampler,
    why_refused=xpu_ops.why_refused,
    fallback_device=composed_p800,
    nodes="xpu[0-9]*",
    variable=VISIBLE_DEVICES,
    check_host=_check_xpu,
    free_bytes=lambda ranks: read_xpu_host().free_bytes(ranks),
    card_free_bytes=xpu_ops.card_free_bytes,
)
_FASTDEPLOY_XPU = replace(XPU, planned_device=lambda _, card: p800(card), why_refused=why_refused)
"""An XPU of a machine where FastDeploy's ops are installed, as docs/xpu.md sets it up."""
BACKENDS: Mapping[str, Backend] = {backend.name: backend for backend in (CPU, XPU, REFERENCE)}
DEVICES = (AUTO, *BACKENDS)
"""The values of ``--device``."""

"""The rows of the comparison: what is measured, who takes turns, which ratio is the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OURS, OURS_BF16 = "ernie-triton wint8", "ernie-triton bf16"
OURS_21B, OURS_21B_INT4 = "ernie-triton wint4", "ernie-triton wint4_all"
LLAMA, LLAMA_BF16, LLAMA_21B = "llama.cpp Q8_0", "llama.cpp BF16", "llama.cpp Q4_0"
VLLM, OPENVINO = "vLLM bf16", "OpenVINO int8"
OUR_SERVER, LLAMA_SERVER, VLLM_SERVER = "ernie-triton serve wint8", "llama-server Q8_0", "vLLM API server bf16"


@dataclass(frozen=True)
class Row:
    """One line of the tables.

    Attributes:
        name: of the file with its samples, and what ``--only`` selects by its beginning.
        kind: ``decode``, ``prefill`` or ``overhead`` of an engine; ``http`` of a server.
        size: sequences of a batch, tokens of a prompt, clients.
        contenders: who takes turns; the first is ours.
        steps: of a decode sample; requests of a client.
        targets: least ratio to a peer's median.
    """

    name: str
    kind: str
    size: int
    contenders: tuple[str, ...]
    steps: int = 0
    targets: Mapping[str, float] = field(default_factory=dict)


_PEERS = (OURS, LLAMA, VLLM, OPENVINO)
_BF16 = (OURS_BF16, LLAMA_BF16, VLLM)
_21B = (OURS_21B, OURS_21B_INT4, LLAMA_21B)
_SERVERS = (OUR_SERVER, LLAMA_SERVER, VLLM_SERVER)

ENGINE_ROWS = (
    Row("decode 1", "decode", 1, _PEERS, 64, {LLAMA: 1.5}),
    Row("decode 4", "decode", 4, _PEERS, 32),
    Row("decode 16", "decode", 16, _PEERS, 32, {OPENVINO: 1.4, LLAMA: 3.0}),
    Row("decode 64", "decode", 64, _PEERS, 24, {VLLM: 1.3, LLAMA: 3.5}),
    Row("prefill 128", "prefill", 128, _PEERS),
    Row("prefill 512", "prefill", 512, _PEERS, 0, {VLLM: 1.6, LLAMA: 3.0}),
    Row("prefill 2048", "prefill", 2048, _PEERS, 0, {VLLM: 1.6, LLAMA: 4.0}),
    Row("bf16 decode 1", "decode", 1, _BF16, 48, {LLAMA_BF16: 1.3}),
    Row("bf16 prefill 512", "prefill", 512, _BF16, 0, {VLLM: 1.0}),
    Row("overhead 1", "overhead", 1, (OURS,), 64),
    Row("overhead 16", "overhead", 16, (OURS,), 32),
    Row("overhead 64", "overhead", 64, (OURS,), 16),
)
"""Of the 0.3B shape: all contenders are in memory at once and take turns."""
ROWS_21B = (
    Row("21b decode 1", "decode", 1, _21B, 24),
    Row("21b decode 16", "decode", 16, _21B, 12),
    Row("21b prefill 512", "prefill", 512, _21B, 0, {LLAMA_21B: 3.5}),
)
"""Of the 21B-A3B shape: one contender at a time fits in memory."""
SERVER_ROWS = (
    Row("http 1", "http", 1, _SERVERS, 4),
    Row("http 8", "http", 8, _SERVERS, 2),
    Row("http 32", "http", 32, _SERVERS, 2, {VLLM_SERVER: 1.6, LLAMA_SERVER: 3.5}),
)
HTTP_PROMPT, HTTP_ANSWER = 128, 128
"""Tokens of a request's prompt and of its answer."""
START_ROW, LOOKUP_ROW, KERNELS_ROW = "start", "lookup", "kernels"
"""Rows with a program of their own."""

"""The goldens of the oracle checkpoints: what an independent float32 implementation computed.

Four prompts (rows) of 1, 5, 12 and 23 tokens; last logits and 32 greedy tokens for each, and where there are
experts, those that every token went to. Row 2 also has every hidden state: the embeddings and the residual
stream after each layer, the final norm and all logits.

    dense    3 layers, tied head
    moe      5 layers, the first and the last one dense; 16 experts, 6 for a token, 2 shared; tied head
    moe300b  6 layers, experts in 3 and 5; 8 experts, 4 for a token
    moe_tp   3 layers, the first one dense; 4 experts, 2 for a token; all sizes divide by 4

Two families have named cases, most of them with images and videos, instead of rows:

    vl_moe        4 layers, the first one dense; 8 experts for text and 8 narrower for media, 3 for a token
    paddleocr_vl  3 layers, dense

``dense_compressed.npz`` has the rows of dense with positions divided by ``COMPRESSION_RATIO``, as computed by
transformers 5.24 in float32: Ernie4_5ForCausalLM with rope_parameters of type linear and this factor.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_kernels.routing import Routing
from support.checkpoints.paddle_layout import write_paddle_twin
from support.paths import DATA

MEDIA_FAMILIES = (("vl_moe", "hf"), ("vl_moe", "paddle"), ("paddleocr_vl", "hf"))
"""Families with images and videos, in the layouts that they come in."""
MOE_FAMILIES = ("moe", "moe300b", "moe_tp")
FAMILIES = ("dense", *MOE_FAMILIES)
LAYOUTS = ("hf", "paddle")
DIRECTORIES = {"hf": DATA / "dense", "paddle": DATA / "dense-Paddle"}
"""The dense checkpoint in both layouts."""
LOGITS_TOLERANCE = 1e-3
MOVED_CODE_TOLERANCE = 0.02
"""What one code of an int8 input or of a cached number is worth after the matrix behind it; 0.005 was seen."""
HIDDEN_TOLERANCE = 5e-4
ROUTER_TOLERANCE = 1e-5
DETAILED_ROW = 2
COMPRESSION_RATIO = 2.5

_WRITTEN = tempfile.TemporaryDirectory(prefix="ernie-twins-")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class GoldenRow:
    """One prompt: ``logits`` float32 ``[V]`` of its last token, ``greedy`` the 32 tokens after it."""

    prompt: list[int]
    logits: Floats
    greedy: list[int]


@dataclass(frozen=True)
class GoldenDetails:
    """Row 2 at every token: hidden ``[layers + 1, 12, H]``, final_norm ``[12, H]``, logits ``[12, V]``."""

    hidden: Floats
    final_norm: Floats
    logits: Floats


@dataclass(frozen=True)
class MediaPrompt:
    """A prompt of P tokens, of which M stand for media.

    Attributes:
        tokens: their ids.
        positions: int32 ``[3, P]``: time, height, width.
        is_media: bool ``[P]``: the token's embedding is a row of ``media``.
        is_vision: bool ``[P]``: the token goes to the experts of media.
        media: float32 ``[M, H]``, the embeddings of media, in the order of their tokens.
    """

    tokens: list[int]
    positions: NDArray[np.int32]
    is_media: NDArray[np.bool_]
    is_vision: NDArray[np.bool_]
    media: Floats


@dataclass(frozen=True)
class GoldenCase:
    """A prompt, the logits of its last token, and 32 greedy tokens.

    ``hidden`` float32 ``[layers + 1, P, H]`` and ``final_norm`` ``[P, H]``, of every token, are of some cases.
    ``placeholder_logits``: the logits if only placeholders go to the experts of media, as in FastDeploy.
    """

    prompt: MediaPrompt
    logits: Floats
    greedy: list[int]
    hidden: Floats | None
    final_norm: Floats | None
    placeholder_logits: Floats | None


@cache
def checkpoint(family: str, layout: str = "hf") -> Path:
    """The directory of a checkpoint."""
    if layout == "hf":
        return DATA / family
    directory = DATA / f"{family}-Paddle"
    if not directory.exists():
        directory = Path(_WRITTEN.name) / family
        directory.mkdir()
        write_paddle_twin(DATA / family, directory)
    return directory


def golden_rows(family: str = "dense") -> list[GoldenRow]:
    with np.load(DATA / f"{family}.npz") as arrays:
        return [
            GoldenRow(
                arrays[f"row{row}.input_ids"].tolist(),
                arrays[f"row{row}.logits_last"],
                arrays[f"row{row}.greedy"].tolist(),
            )
            for row in range(4)
        ]


def golden_details(family: str = "dense") -> GoldenDetails:
    with np.load(DATA / f"{family}.npz") as arrays:
        row = f"row{DETAILED_ROW}."
        return GoldenDetails(arrays[row + "hidden"], arrays[row + "final_norm"], arrays[row + "logits"])


def golden_cases(family: str) -> dict[str, GoldenCase]:
    """Return the cases of ``vl_moe`` or ``paddleocr_vl``, by name."""
    with np.load(DATA / f"{family}.npz") as arrays:
        names = dict.fromkeys(name.split(".")[0] for name in arrays.files)
        return {name: _case(arrays, f"{name}.") for name in names}


def _case(arrays: Mapping[str, NDArray[Any]], case: str) -> GoldenCase:
    tokens = arrays[case + "input_ids"]
    nothing = np.zeros(len(tokens), np.int8)
    kinds = arrays.get(case + "mm_token_type_ids", nothing)
    kind_of = {1: "image_embeds", 2: "video_embeds"}
    media = np.zeros((len(tokens), 64), np.float32)
    for kind in set(kinds.tolist()) - {0}:
        media[kinds == kind] = arrays[case + kind_of[kind]]
    return GoldenCase(
        MediaPrompt(
            tokens.tolist(),
            arrays[case + "position_ids"],
            kinds != 0,
            arrays.get(case + "moe_mm_token_type_ids", nothing) != 0,
            media[kinds != 0],
        ),
        arrays[case + "logits_last"],
        arrays[case + "greedy"].tolist(),
        arrays.get(case + "hidden"),
        arrays.get(case + "final_norm"),
        arrays.get(case + "logits_last_placeholder_only_routing"),
    )


def golden_routing(family: str, row: int) -> list[Routing]:
    """Where each layer with experts sends the tokens of a prompt."""
    with np.load(DATA / f"{family}.npz") as arrays:
        chosen, weights = arrays[f"row{row}.router_sel"], arrays[f"row{row}.router_w"]
    return [Routing(*layer) for layer in zip(chosen.astype(np.int32), weights, strict=True)]


def max_difference(found: Floats, expected: Floats) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max())


def assert_rows_agree(found: Floats, expected: Floats) -> None:
    """Check that rows agree to ``LOGITS_TOLERANCE``, but for one row of them to ``MOVED_CODE_TOLERANCE``.

    What is rounded inside an op may differ in its last bit from what the oracle rounds; a number on the border
    of two codes then has the other one. Of all models, backends and layers here that was one row.
    """
    assert found.shape == expected.shape
    differences = np.sort(np.abs(found - expected).max(axis=1))
    assert differences[:-1].max() <= LOGITS_TOLERANCE
    assert differences[-1] <= MOVED_CODE_TOLERANCE


def assert_rounded_rows_agree(found: Floats, expected: Floats) -> None:
    """Check rows of attention whose queries and weights were rounded to bfloat16, eight bits."""
    assert max_difference(found, expected) <= 2**-7 * np.abs(expected).max()


def cosine(found: Floats, expected: Floats) -> float:
    """The smallest cosine of two matrices' rows."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    return float(((a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))).min())

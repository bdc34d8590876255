"""The rows of FastDeploy's table for the P800 (model, format, cards, options), and Triton entries made of them.

The entries name no weights: those are looked for in ``$ERNIE_MODEL_ROOT/<entry>``, and without them an
entry loads as unconfigured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ernie_cli.flags.parameters import engine_parameters
from ernie_cli.presets.released import ReleasedModel, released_model


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: of the row, unique.
        hub_id: the model's id in the row's command.
        options: the flags of the command that decide memory, with their values.
        cards: how many it takes.
        model: what is known of the model's sizes.
        others: further settings of the engine in the command.
    """

    name: str
    hub_id: str
    options: Mapping[str, str]
    cards: int
    model: ReleasedModel
    others: Mapping[str, str] = field(default_factory=dict)


def _row(
    hub_name: str,
    quantization: str,
    thousands: int,
    cards: int,
    max_num_seqs: int,
    more: Mapping[str, str] | None = None,
    others: Mapping[str, str] | None = None,
) -> Row:
    """Return a row; ``thousands`` of tokens are ``--max-model-len``, ``more`` are further options."""
    model = released_model(hub_name)
    assert model is not None  # noqa: S101 - the two tables are one package's
    options = {
        "--max-model-len": str(thousands * 1024),
        "--max-num-seqs": str(max_num_seqs),
        **({} if quantization == "bf16" else {"--quantization": quantization}),
        **({"--tensor-parallel-size": str(cards)} if hub_name != "PaddleOCR-VL" else {}),
        **(more or {}),
    }
    family = model.name.removesuffix("-W4A8C8-TP4").lower()
    name = f"{family}-{quantization}-{thousands}k" + (f"-tp{cards}" if cards > 1 else "")
    return Row(name, f"PaddlePaddle/{hub_name}", options, cards, model, others or {})


_300B, _21B, _0_3B = "ERNIE-4.5-300B-A47B-Paddle", "ERNIE-4.5-21B-A3B-Paddle", "ERNIE-4.5-0.3B-Paddle"
_W4A8C8 = "ERNIE-4.5-300B-A47B-W4A8C8-TP4-Paddle"
_UTILIZATION = "--gpu-memory-utilization"
_90 = {_UTILIZATION: "0.9"}
_MEDIA, _THINKING, _CALLS = "--mm-processor-kwargs", "--reasoning-parser", "--tool-call-parser"
_VL = {"--limit-mm-per-prompt": '{"image": 10, "video": 3}', _THINKING: "ernie-45-vl"}
_VL_THINKING = {_THINKING: "ernie-45-vl-thinking", _CALLS: "ernie-45-vl-thinking"}
_SHORT_VIDEOS = {_MEDIA: '{"video_max_frames": 30}'}
_LARGE_PICTURES = {_MEDIA: '{"image_max_pixels": 12845056}'}
_LONG_STEPS = {"--max-num-batched-tokens": "16384", _UTILIZATION: "0.8"}
_ALL = (
    _row(_300B, "wint8", 32, 8, 64, _90),
    _row(_300B, "wint4", 32, 4, 64, _90),
    _row(_300B, "wint4", 32, 8, 64, {_UTILIZATION: "0.95"}),
    _row(_300B, "wint4", 128, 8, 64, _90),
    _row(_21B, "bf16", 32, 1, 128, _90),
    _row(_21B, "wint8", 32, 1, 128, _90),
    _row(_21B, "wint4", 32, 1, 128, _90),
    _row(_21B, "bf16", 128, 1, 128, _90),
    _row(_21B, "wint8", 128, 1, 128, _90),
    _row(_21B, "wint4", 128, 1, 128, _90),
    _row(_0_3B, "bf16", 32, 1, 128, _90),
    _row(_0_3B, "wint8", 32, 1, 128, _90),
    _row(_0_3B, "bf16", 128, 1, 128, _90),
    _row(_0_3B, "wint8", 128, 1, 128, _90),
    _row(_W4A8C8, "w4a8", 32, 4, 64, _90),
    _row("ERNIE-4.5-VL-28B-A3B-Paddle", "wint8", 32, 1, 10, _SHORT_VIDEOS, _VL),
    _row("ERNIE-4.5-VL-424B-A47B-Paddle", "wint8", 32, 8, 8, {**_SHORT_VIDEOS, _UTILIZATION: "0.7"}, _VL),
    _row("PaddleOCR-VL", "bf16", 16, 1, 256, _LONG_STEPS),
    _row("ERNIE-4.5-VL-28B-A3B-Thinking", "wint8", 128, 1, 32, _LARGE_PICTURES, _VL_THINKING),
)
ROWS: Mapping[str, Row] = {row.name: row for row in _ALL}
ENTRIES: Mapping[str, str] = {
    "ernie-4.5-0.3b": "ernie-4.5-0.3b-wint8-32k",
    "ernie-4.5-21b-a3b": "ernie-4.5-21b-a3b-wint4-32k",
    "ernie-4.5-300b-a47b": "ernie-4.5-300b-a47b-wint4-32k-tp4",
    "ernie-4.5-300b-a47b-w4a8c8-tp4": "ernie-4.5-300b-a47b-w4a8-32k-tp4",
    "ernie-4.5-vl-28b-a3b": "ernie-4.5-vl-28b-a3b-wint8-32k",
    "ernie-4.5-vl-28b-a3b-thinking": "ernie-4.5-vl-28b-a3b-thinking-wint8-128k",
    "ernie-4.5-vl-424b-a47b": "ernie-4.5-vl-424b-a47b-wint8-32k-tp8",
    "paddleocr-vl-0.9b": "paddleocr-vl-bf16-16k",
}
"""Entry of a model -> its row: the recommended one of 32K where there are several."""


def entry_parameters(entry: str) -> dict[str, str]:
    """Return the parameters in the config.pbtxt of an entry."""
    row = ROWS[ENTRIES[entry]]
    return engine_parameters({**row.options, **row.others})

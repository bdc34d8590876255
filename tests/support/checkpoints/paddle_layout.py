"""A checkpoint of the HF layout, written in the Paddle layout: the twin of the oracle's own twins.

One oracle checkpoint is large, so only its HF layout is kept here; its twin is written when a test needs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.checkpoints.safetensors_writer import read_tensors, write_shards

Tensors = dict[str, NDArray[Any]]


def tensors_of(directory: Path) -> Tensors:
    """All tensors of a checkpoint; bfloat16 as uint16 bits."""
    return {
        name: values
        for path in sorted(directory.glob("*.safetensors"))
        for name, values in read_tensors(path).items()
    }


def in_paddle_layout(tensors: Tensors) -> Tensors:
    """Fuse q, k, v and gate, up; transpose all matrices but the lookup table and the router's bias."""
    twins: Tensors = {}
    for name, values in tensors.items():
        twin = name.replace("model.", "ernie.", 1)
        if name.endswith("q_proj.weight"):
            parts = [tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            twins[twin.replace("q_proj", "qkv_proj")] = np.concatenate(parts).T
        elif name.endswith("gate_proj.weight"):
            parts = [values, tensors[name.replace("gate_proj", "up_proj")]]
            twins[twin.replace("gate_proj", "up_gate_proj")] = np.concatenate(parts).T
        elif not name.endswith(("k_proj.weight", "v_proj.weight", "up_proj.weight")):
            is_plain = values.ndim == 1 or name.endswith(("embed_tokens.weight", "correction_bias"))
            twins[twin] = values if is_plain else values.T
    return twins


def write_paddle_twin(source: Path, target: Path) -> None:
    """Write the twin of the checkpoint ``source`` into ``target``, with the config as Paddle writes it."""
    write_shards(target, in_paddle_layout(tensors_of(source)), 1)
    config = json.loads((source / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope["rope_theta"], "torch_dtype": config.pop("dtype")}
    (target / "config.json").write_text(json.dumps(config))

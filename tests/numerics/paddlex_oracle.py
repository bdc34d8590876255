"""A second oracle of PaddleOCR-VL: the implementation in the PyPI package paddlex, on Paddle's CPU place.

    python3 -m venv W && W/bin/pip install paddlepaddle==3.3.1 paddlex==3.7.2 einops
    W/bin/python tests/numerics/paddlex_oracle.py tests/data/paddleocr_vl tests/data/paddleocr_vl.npz \
        tests/data/paddleocr_vl_paddlex.npz

It reads prompts and images of the goldens (made by transformers), computes everything else, and stores for each
case the embeddings of its images, the three-axis positions of its prompt, and the last token's logits.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddlex.inference.models.doc_vlm.modeling.paddleocr_vl._config import PaddleOCRVLConfig
from paddlex.inference.models.doc_vlm.modeling.paddleocr_vl._paddleocr_vl import (
    PaddleOCRVLForConditionalGeneration,
)
from PIL import Image

PATCH = 14


def read_tensors(path: Path) -> dict[str, Any]:
    """Return the tensors of a safetensors file with bfloat16 and float32 numbers, as float32."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8:start]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        stored = content[start + begin : start + end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(stored, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(stored, np.float32)
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def load_model(directory: Path) -> Any:
    """Return the model of a checkpoint in the HF layout."""
    config = json.loads((directory / "config.json").read_text())
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text.pop("model_type")
    sections = {"type": "default", "rope_type": "default", "mrope_section": rope["mrope_section"]}
    tokens = {name: value for name, value in config.items() if name.endswith("_token_id")}
    model = PaddleOCRVLForConditionalGeneration(
        PaddleOCRVLConfig(
            vision_config=config["vision_config"],
            rope_theta=rope["rope_theta"],
            rope_scaling=sections,
            **text,
            **tokens,
        )
    )
    stored = read_tensors(directory / "model.safetensors")
    for name, parameter in model.state_dict().items():
        if "packing_position_embedding" in name or "vision_model.head" in name:
            continue  # neither is used
        values = _fused(name, stored)
        is_table = "embed" in name
        parameter.set_value(values if is_table or values.ndim != 2 else np.ascontiguousarray(values.T))
    model.eval()
    return model


def _fused(name: str, stored: dict[str, Any]) -> Any:
    """Return a tensor by PaddleX's name, ``[outputs, inputs]``: some are several of the checkpoint's."""
    for whole, parts in (
        ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
        ("up_gate_proj", ("gate_proj", "up_proj")),
    ):
        if f".{whole}." in name:
            return np.concatenate([stored[name.replace(whole, part)] for part in parts])
    return stored[name]


def patches_of(image: Any, height: int, width: int) -> Any:
    """Return the normalized patches ``[height * width, 3, PATCH, PATCH]`` of an image."""
    resized = Image.fromarray(image).resize((PATCH * width, PATCH * height), Image.Resampling.BICUBIC)
    values = (np.asarray(resized, np.float32) / 255 - np.float32(0.5)) / np.float32(0.5)
    patches = values.reshape(height, PATCH, width, PATCH, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(patches.reshape(height * width, 3, PATCH, PATCH))


def encode(model: Any, image: Any, grid: list[int]) -> Any:
    """Return the embeddings of an image, ``[tokens, hidden size]``.

    PaddleX's attention over patches does not keep images apart on the CPU place, so there is one at a time.
    """
    count = grid[1] * grid[2]
    outputs = model.visual(
        pixel_values=paddle.to_tensor(patches_of(image, grid[1], grid[2]))[None],
        image_grid_thw=[tuple(grid)],
        position_ids=paddle.arange(count),
        vision_return_embed_list=True,
        interpolate_pos_encoding=True,
        sample_indices=paddle.zeros([count], "int64"),
        cu_seqlens=paddle.to_tensor([0, count], "int32"),
        return_pooler_output=False,
        use_rope=True,
        window_size=-1,
    )
    (embedded,) = model.mlp_AR(outputs.last_hidden_state, [tuple(grid)])
    return embedded


def run_case(model: Any, arrays: Any, case: str) -> dict[str, Any]:
    """Return what the model makes of a case."""
    ids = paddle.to_tensor(arrays[f"{case}.input_ids"].astype(np.int64))[None]
    embedded, mask = model.model.embed_tokens(ids).numpy(), paddle.ones_like(ids)
    grids, results = None, {}
    if f"{case}.image_grid_thw" in arrays:
        grids = arrays[f"{case}.image_grid_thw"].astype(np.int64)
        images = [encode(model, arrays[f"{case}.image{i}"], grid) for i, grid in enumerate(grids.tolist())]
        results["image_embeds"] = paddle.concat(images).numpy()
        embedded[ids.numpy() == model.config.image_token_id] = results["image_embeds"]
        grids = paddle.to_tensor(grids)
    positions, _ = model.get_rope_index(ids, grids, None, None, mask)
    logits = model(
        inputs_embeds=paddle.to_tensor(embedded),
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
        return_dict=True,
    ).logits
    results["position_ids"] = positions[:, 0].numpy().astype(np.int32)
    results["logits_last"] = logits[0, -1].numpy()
    return results


def main() -> None:
    """Run every case of the goldens and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("goldens", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    paddle.set_device("cpu")
    arrays = np.load(arguments.goldens)
    model, results = load_model(arguments.checkpoint), {}
    with paddle.no_grad():
        for case in sorted({name.split(".")[0] for name in arrays.files}):
            for name, values in run_case(model, arrays, case).items():
                results[f"{case}.{name}"] = values
                expected = arrays[f"{case}.{name}"]
                difference = np.abs(values - expected).max()
                sys.stdout.write(f"{case}.{name}: {difference:.1e} apart from transformers\n")
    np.savez_compressed(arguments.output, **results)


if __name__ == "__main__":
    main()

"""The goldens of both vision towers, by every backend and in every layout; cut anywhere, and in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from ernie_backend.models.base import Model
from ernie_backend.models.vision import transformer
from ernie_kernels.api import Ops
from ernie_kernels.formats import ActivationType
from numerics.backends import BACKENDS, CPU_BACKENDS, make_ops, to_host
from numerics.generation import generate, load, prompt_logits
from numerics.golden import LOGITS_TOLERANCE, MEDIA_FAMILIES, Floats, golden_cases, max_difference
from numerics.golden import checkpoint as checkpoint_of
from numerics.resized_images import resized
from support.paths import DATA

EMBEDDINGS_TOLERANCE = 5e-5
CHECKPOINTS = ("vl_moe", "vl_moe-Paddle", "paddleocr_vl")
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of ERNIE-4.5-VL; PaddleOCR-VL's are 0.5."""


@dataclass(frozen=True)
class Medium:
    """One image or video of a case: its normalized pixels and grid, and its rows of the golden embeddings."""

    name: str
    pixels: Floats
    grid: tuple[int, int, int]
    embeddings: Floats
    hidden: Floats | None


@cache
def media(family: str) -> tuple[Medium, ...]:
    """Every image and video of all cases."""
    arrays = dict(np.load(DATA / f"{family}.npz"))
    found: list[Medium] = []
    for name in arrays:
        case, _, kind = name.rpartition(".")
        if kind in ("image_embeds", "video_embeds"):
            found += of_case(arrays, case, kind.removesuffix("_embeds"), family)
    return tuple(found)


def of_case(arrays: dict[str, Any], case: str, kind: str, family: str) -> Iterator[Medium]:
    embeddings = arrays[f"{case}.{kind}_embeds"]
    hidden = arrays.get(f"{case}.vision_hidden") if kind == "image" else None
    tokens = patches = 0
    for index, (frames, height, width) in enumerate(arrays[f"{case}.{kind}_grid_thw"].tolist()):
        images = list(resized(family, case, f"{kind}{index}"))
        images += images[-1:] * (frames - len(images))
        is_ocr = family == "paddleocr_vl"
        pixels = np.concatenate([patches_of(image, height, width, is_ocr=is_ocr) for image in images])
        sums = arrays.get(f"{case}.pixel_values{'' if kind == 'image' else '_videos'}_rowsum")
        if sums is not None:
            np.testing.assert_allclose(pixels.sum(1), sums[patches : patches + len(pixels)], atol=2e-3)
        count = max(1, frames // 2) * height * width // 4
        yield Medium(
            f"{case} {kind} {index}",
            pixels,
            (frames, height, width),
            embeddings[tokens : tokens + count],
            None if hidden is None else hidden[patches : patches + len(pixels)],
        )
        tokens, patches = tokens + count, patches + len(pixels)


def patches_of(image: Any, height: int, width: int, *, is_ocr: bool) -> Floats:
    """The patches of a resized image as both preprocessors make them, from their description alone."""
    mean, deviation = ((0.5,) * 3, (0.5,) * 3) if is_ocr else (MEAN, DEVIATION)
    values = (np.asarray(image, np.float32) / 255 - np.array(mean, np.float32)) / np.array(
        deviation, np.float32
    )
    if is_ocr:
        patches = values.reshape(height, 14, width, 14, 3).transpose(0, 2, 4, 1, 3)
    else:
        patches = values.reshape(height // 2, 2, 14, width // 2, 2, 14, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    return np.ascontiguousarray(patches.reshape(height * width, -1), np.float32)


def encode(model: Model, ops: Any, medium: Medium) -> tuple[Floats, int]:
    """The embeddings, and in how many pieces of work they were computed."""
    results: list[Any] = []

    def collect() -> Iterator[None]:
        assert model.vision is not None
        results.append((yield from model.vision.encode(ops.upload_rows(medium.pixels), medium.grid)))

    pieces = sum(1 for _ in collect())
    return to_host(results[0]), pieces


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_embeddings(backend: str, checkpoint: str) -> None:
    ops = make_ops(backend)
    model = load(DATA / checkpoint, ops)
    for medium in media(checkpoint.removesuffix("-Paddle")):
        found, _ = encode(model, ops, medium)
        assert found.shape == medium.embeddings.shape
        assert np.abs(found - medium.embeddings).max() <= EMBEDDINGS_TOLERANCE, medium.name


class Concatenations:
    """``Ops`` that keeps what was concatenated: first of all the tower's last norm."""

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self.hidden: list[Floats] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def concatenate(self, parts: Sequence[Any]) -> Any:
        joined = self._ops.concatenate(parts)
        self.hidden.append(to_host(joined))
        return joined


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_hidden_states(backend: str, checkpoint: str) -> None:
    ops = Concatenations(make_ops(backend))
    model = load(DATA / checkpoint, ops)
    for medium in media(checkpoint.removesuffix("-Paddle")):
        if medium.hidden is None:
            continue
        ops.hidden.clear()
        encode(model, ops, medium)
        assert np.abs(ops.hidden[0] - medium.hidden).max() <= EMBEDDINGS_TOLERANCE, medium.name


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cuts_change_no_bit(backend: str, checkpoint: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = make_ops(backend)
    model = load(DATA / checkpoint, ops, dtype, activation=ActivationType.INT16)
    *_, medium = media(checkpoint.removesuffix("-Paddle"))
    whole, few = encode(model, ops, medium)
    monkeypatch.setattr(transformer, "_MOST_SCORES", 1)
    monkeypatch.setattr(transformer, "_SMALLEST_BLOCK", 7)
    cut, many = encode(model, ops, medium)
    assert many > 2 * few
    np.testing.assert_array_equal(cut.view(np.uint32), whole.view(np.uint32))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_bfloat16_is_close(backend: str, checkpoint: str) -> None:
    ops = make_ops(backend)
    model = load(DATA / checkpoint, ops, "bfloat16", activation=ActivationType.INT16)
    for medium in media(checkpoint.removesuffix("-Paddle")):
        found, _ = encode(model, ops, medium)
        difference = np.linalg.norm(found - medium.embeddings, axis=1)
        assert (difference <= 0.03 * np.linalg.norm(medium.embeddings, axis=1)).all(), medium.name


@pytest.mark.parametrize("backend", BACKENDS)
def test_tower_and_decoder_against_a_second_oracle(backend: str) -> None:
    """Embeddings of our tower in our decoder, and what PaddleX makes of the same images and prompts."""
    ops = make_ops(backend)
    model = load(DATA / "paddleocr_vl", ops)
    expected = np.load(DATA / "paddleocr_vl_paddlex.npz")
    for name, case in golden_cases("paddleocr_vl").items():
        of_images = [medium for medium in media("paddleocr_vl") if medium.name.startswith(f"{name} ")]
        prompt = case.prompt
        if of_images:
            embeddings = np.concatenate([encode(model, ops, medium)[0] for medium in of_images])
            assert max_difference(embeddings, expected[f"{name}.image_embeds"]) <= EMBEDDINGS_TOLERANCE
            prompt = replace(prompt, media=embeddings)
        np.testing.assert_array_equal(prompt.positions, expected[f"{name}.position_ids"])
        logits = prompt_logits(model, ops, prompt)
        assert max_difference(logits[-1], expected[f"{name}.logits_last"]) <= LOGITS_TOLERANCE


@pytest.mark.parametrize(
    ("checkpoint", "grid", "complaint"),
    [
        ("vl_moe", (3, 4, 4), "3 frames"),
        ("vl_moe", (1, 3, 4), "3 x 4"),
        ("paddleocr_vl", (2, 4, 4), "2 frames"),
        ("paddleocr_vl", (1, 4, 5), "4 x 5"),
    ],
)
def test_impossible_grids_are_refused(checkpoint: str, grid: tuple[int, int, int], complaint: str) -> None:
    ops = make_ops("reference")
    vision = load(DATA / checkpoint, ops).vision
    assert vision is not None
    with pytest.raises(ValueError, match=complaint):
        next(vision.encode(ops.upload_rows(np.zeros((48, 588), np.float32)), grid))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("family", "layout"), MEDIA_FAMILIES)
def test_from_pixels_to_answers(backend: str, family: str, layout: str) -> None:
    ops, cases = make_ops(backend), golden_cases(family)
    model = load(checkpoint_of(family, layout), ops)
    encoded: dict[str, list[Floats]] = {name: [] for name in cases}
    for medium in media(family):
        encoded[medium.name.split()[0]].append(encode(model, ops, medium)[0])
    prompts = [
        replace(case.prompt, media=np.concatenate([*encoded[name], case.prompt.media[:0]]))
        for name, case in cases.items()
    ]
    generated, logits = generate(model, ops, prompts, 32, chunk=9)
    assert max_difference(logits, np.stack([case.logits for case in cases.values()])) <= LOGITS_TOLERANCE
    assert generated == [case.greedy for case in cases.values()]

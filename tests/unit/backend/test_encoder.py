"""The encoder: pieces of work, parts of videos, normalized pixels, and what is kept."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ernie_backend.request.media import MediaItem, MediaSpan
from ernie_backend.request.step_plan import ScheduledChunk, SchedulePlan
from ernie_backend.runner.encoder import PART_PATCHES, Encoder, MediaRows, Normalization, media_rows_of
from ernie_kernels.reference import ReferenceOps
from fakes.media import make_item

MEAN, STD = (0.5, 0.25, 0.0), (0.5, 0.2, 1.0)
WIDTH = 4


class SumTower:
    """A tower whose tokens are sums over its patches: of four patches, or of eight in pairs of frames.

    Attributes:
        grids: that it was given.
        num_pieces: pieces of work of each call.
    """

    def __init__(self, num_pieces: int = 3) -> None:
        self.grids: list[tuple[int, int, int]] = []
        self.num_pieces = num_pieces

    def encode(
        self, pixels: NDArray[np.float32], grid: tuple[int, int, int]
    ) -> Generator[None, None, NDArray[Any]]:
        """See ``VisionTower``."""
        self.grids.append(grid)
        for _ in range(self.num_pieces):
            yield
        frames, height, width = grid
        assert len(pixels) == frames * height * width
        per_token = pixels.reshape(-1, min(frames, 2), height * width // 4, 4 * pixels.shape[1])
        sums = per_token.sum(axis=(1, 3)).reshape(-1, 1)
        return np.repeat(sums, WIDTH, axis=1)


def _encoder(tower: SumTower) -> Encoder:
    return Encoder(tower, ReferenceOps(), Normalization(MEAN, STD))


def _encoded(encoder: Encoder, item: MediaItem) -> NDArray[np.float32]:
    encoder.start(item)
    while not encoder.advance():
        pass
    rows: NDArray[np.float32] = encoder.rows([MediaRows(item.digest, 0, item.num_tokens)])
    return rows


def _video(frames: int, height: int, width: int) -> MediaItem:
    patches = np.random.default_rng(frames).integers(0, 256, (frames * height * width, 12), np.uint8)
    return MediaItem("video", patches, (frames, height, width), frames * height * width // 8, b"v" * 32)


@given(st.integers(0, 2**32 - 1))
def test_pixels_are_normalized_channel_by_channel(seed: int) -> None:
    patches = make_item(seed, 2).patches
    by_channel = patches.reshape(len(patches), 3, 4) / 255
    expected = (by_channel - np.array(MEAN)[:, None]) / np.array(STD)[:, None]
    found = Normalization(MEAN, STD).normalized(patches)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.reshape(patches.shape), rtol=1e-6, atol=1e-7)


def test_each_call_does_one_piece_of_the_work() -> None:
    encoder = _encoder(SumTower(num_pieces=3))
    encoder.start(make_item(1, 2))
    # The pixels are brought to the device, three pieces, and what is left after the last of them.
    assert [encoder.advance() for _ in range(5)] == [False, False, False, False, True]
    with pytest.raises(ValueError, match="no medium"):
        encoder.advance()


@pytest.mark.parametrize(("frames", "height", "width"), [(2, 4, 4), (10, 16, 16), (6, 64, 64), (180, 2, 4)])
def test_a_video_is_encoded_in_parts_of_pairs_of_frames_with_the_same_result(
    frames: int, height: int, width: int
) -> None:
    video, tower, whole = _video(frames, height, width), SumTower(), SumTower()
    found = _encoded(_encoder(tower), video)
    assert sum(grid[0] for grid in tower.grids) == frames
    assert all(t % 2 == 0 and t * h * w <= max(PART_PATCHES, 2 * h * w) for t, h, w in tower.grids)
    at_once: list[NDArray[np.float32]] = []

    def encode() -> Generator[None, None, None]:
        pixels = Normalization(MEAN, STD).normalized(video.patches)
        at_once.append((yield from whole.encode(pixels, video.grid)))

    for _ in encode():
        pass
    np.testing.assert_array_equal(found, at_once[0])


def test_rows_come_from_the_media_that_a_plan_names_in_its_order() -> None:
    encoder, items = _encoder(SumTower()), [make_item(seed, 3) for seed in (1, 2)]
    outputs = [_encoded(encoder, item) for item in items]
    spans = (MediaSpan(1, 0, 2, first_row=1), MediaSpan(0, 4, 1))
    digests = (items[1].digest, items[0].digest)
    chunk = ScheduledChunk("r", (9,) * 5, 0, (0, 1), 0, media=spans, digests=digests)
    rows = encoder.rows(media_rows_of(SchedulePlan((chunk,))))
    np.testing.assert_array_equal(rows, np.concatenate([outputs[1][1:3], outputs[0][:1]]))


def test_what_is_dropped_is_gone_finished_or_not() -> None:
    encoder, items = _encoder(SumTower()), [make_item(seed, 3) for seed in (1, 2)]
    _encoded(encoder, items[0])
    encoder.start(items[1])
    encoder.advance()
    encoder.drop([item.digest for item in items])
    for item in items:
        with pytest.raises(KeyError):
            encoder.rows([MediaRows(item.digest, 0, 1)])
    with pytest.raises(ValueError, match="no medium"):
        encoder.advance()


class _FailingTower(SumTower):
    def encode(
        self, pixels: NDArray[np.float32], grid: tuple[int, int, int]
    ) -> Generator[None, None, NDArray[Any]]:
        yield
        raise MemoryError("too large")


def test_after_a_fault_the_encoder_takes_the_next_medium() -> None:
    tower, item = SumTower(), make_item(1, 2)
    encoder = Encoder(_FailingTower(), ReferenceOps(), Normalization(MEAN, STD))
    encoder.start(item)
    assert [encoder.advance() for _ in range(2)] == [False, False]
    with pytest.raises(MemoryError):
        encoder.advance()
    with pytest.raises(KeyError):
        encoder.rows([MediaRows(item.digest, 0, 1)])
    encoder._tower = tower
    assert len(_encoded(encoder, item)) == 2

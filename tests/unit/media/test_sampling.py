"""Which frames are taken of a video: check values of FastDeploy's rules, and what holds for all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ernie_backend.media.families import PixelLimits
from ernie_backend.media.options import VideoOptions
from ernie_backend.media.sampling import frame_indices

DEFAULTS = VideoOptions(PixelLimits(234416, 937664), 2.0, None, 16, 180, "leading")


def indices(num_frames: int, rate: float, **changes: Any) -> list[int]:
    return frame_indices(num_frames, rate, DEFAULTS._replace(**changes))


@pytest.mark.parametrize(
    ("seconds", "rate", "count", "first", "last"),
    [
        (5, 30, 16, [0, 9, 18, 28], 140),
        (10, 25, 20, [0, 12, 25, 38], 238),
        (60, 30, 120, [0, 15, 30], 1785),
        (200, 24, 180, [0, 26, 53, 80], 4773),
    ],
)
def test_defaults(seconds: int, rate: int, count: int, first: list[int], last: int) -> None:
    found = indices(seconds * rate, rate)
    assert (len(found), found[: len(first)], found[-1]) == (count, first, last)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"target_frames": 4}, [0, 25, 50, 75]),
        ({"target_frames": 4, "sample": "middle"}, [12, 37, 62, 87]),
        ({"target_frames": 1}, [0]),
        ({"fps": 1.0, "min_frames": 1}, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]),
        ({"fps": 1.0, "min_frames": 1, "sample": "middle"}, [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]),
        ({"fps": 4.0, "max_frames": 3, "min_frames": 1}, [0, 33, 66]),
    ],
)
def test_of_ten_seconds_at_ten_frames_each(changes: Any, expected: list[int]) -> None:
    assert indices(100, 10, **changes) == expected


@given(
    st.integers(1, 200_000),
    st.floats(0.01, 240),
    st.floats(1e-3, 1e300),
    st.none() | st.integers(1, 180),
    st.sampled_from(["leading", "middle", "rand"]),
    st.integers(1, 16),
)
@example(1, 1.0, 1.0, None, "rand", 1)  # its time is nearer to a second frame, which there is not
def test_indices_rise_within_the_video_and_the_limit(
    num_frames: int, rate: float, fps: float, target: int | None, sample: str, least: int
) -> None:
    changes = {"fps": fps, "target_frames": target, "sample": sample, "min_frames": least}
    found = indices(num_frames, rate, **changes)
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] < num_frames
    assert len(found) <= 181
    assert found == indices(num_frames, rate, **changes)
    if target is not None:
        assert len(found) == len(set(found)) == min(target, num_frames)

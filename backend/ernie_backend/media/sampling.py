"""Which frames of a video are taken, by FastDeploy's rules: by rate, or a number of them spread over all."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ernie_backend.media.options import VideoOptions

_SEED = 0  # of ``rand``: the same video gives the same frames, so that it is found in caches


def frame_indices(num_frames: int, rate: float, options: VideoOptions) -> list[int]:
    """Return the indices of the frames to take, rising.

    Args:
        num_frames: of the video.
        rate: its frames of a second, on average.
        options: what is asked for. With ``fps`` there are ``int(duration * fps)`` frames, of which fewer than
            ``min_frames`` or more than ``max_frames`` become that number, spread over the video.
    """
    if options.target_frames is not None:
        return _spread(num_frames, options.target_frames, options.sample)
    by_rate = int(min(num_frames / rate * options.fps, options.max_frames + 1.0))
    bounded = min(max(by_rate, options.min_frames), options.max_frames)
    if bounded != by_rate:
        return _spread(num_frames, bounded, options.sample)
    return _at_rate(num_frames, rate, options.fps, options.sample)


def _spread(num_frames: int, wanted: int, sample: str) -> list[int]:
    """Return one frame of each of ``wanted`` intervals of equal length; all frames if there are fewer."""
    borders = np.linspace(0, num_frames, min(wanted, num_frames) + 1).astype(int).tolist()
    generator = random.Random(_SEED)  # noqa: S311 - no secret
    choose: Mapping[str, Callable[[int, int], int]] = {
        "leading": lambda first, _: first,
        "middle": lambda first, last: (first + last) // 2,
        "rand": generator.randint,
    }
    return [choose[sample](first, end - 1) for first, end in pairwise(borders)]


def _at_rate(num_frames: int, rate: float, fps: float, sample: str) -> list[int]:
    """Return the frames nearest to times that are ``1 / fps`` seconds apart."""
    duration, gap = num_frames / rate, 1 / fps
    seconds: NDArray[np.float64] = np.arange(0, duration, gap)
    if sample != "leading":
        seconds = np.arange(gap / 2, duration + gap / 2, gap)
    if sample == "rand":
        seconds += (np.random.default_rng(_SEED).random(len(seconds)) - 0.5) * gap
    indices = np.around(seconds * rate).astype(int)
    return sorted(int(index) for index in indices[indices < num_frames]) or [num_frames - 1]

"""The frames of a video by their number, in the order in which they are shown, from its packets."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from fractions import Fraction
from typing import Protocol

import numpy as np

from ernie_wire.errors import InvalidValue

MAX_FRAMES = 1 << 22
"""Of a file: a day and a half at 30 frames of a second; they take 128 MiB here."""

_MAX_KEYS_BACK = 64
"""Key frames that are looked at for a frame; in a sound file it is one of the last two."""


class Packet(Protocol):
    """A packet of a video as PyAV has it."""

    @property
    def pts(self) -> int | None:
        """When its frame is shown, in units of the stream."""
        ...

    @property
    def is_keyframe(self) -> bool:
        """Whether its frame can be decoded without another one."""
        ...

    @property
    def is_discard(self) -> bool:
        """Whether its frame is not shown."""
        ...


class FrameTable:
    """Which packet a frame begins with, and when frames are shown.

    Where packets have no times, or two have the same one, frames are numbered as the decoder returns them, and
    it has to begin with the first.

    Args:
        packets: of the video, in the order of the file, which is that of decoding.
        is_timed: whether their times are those of their frames; AVI has only times of decoding.

    Raises:
        InvalidValue: there are none, or too many.
    """

    def __init__(self, packets: Iterable[Packet], *, is_timed: bool) -> None:
        times, numbers = array("q"), array("q")  # of the frames that are shown
        self._keys, self._key_times = array("q"), array("q")
        for number, packet in enumerate(packets):
            time = 0 if packet.pts is None else packet.pts
            is_timed = is_timed and packet.pts is not None
            if packet.is_keyframe:
                self._keys.append(number)
                self._key_times.append(time)
            if not packet.is_discard:
                times.append(time)
                numbers.append(number)
            if len(times) > MAX_FRAMES:
                raise InvalidValue(f"the video has more than {MAX_FRAMES} frames; send a part of it", "media")
        if not times:
            raise InvalidValue("the video has no frames", "media")
        self.num_frames = len(times)
        order = np.argsort(times)
        self._times = np.array(times)[order]
        self._packets = np.array(numbers)[order]
        self._has_times = is_timed and bool((np.diff(self._times) > 0).all())

    def rate(self, tick: Fraction, declared: Fraction | None) -> Fraction:
        """Return the frames of a second, on average.

        Args:
            tick: seconds of a unit of time.
            declared: by the file; it counts if there are no times, or if it is near to what they say, which are
                rounded.
        """
        seconds = int(self._times[-1] - self._times[0]) * tick if self._has_times else Fraction(0)
        measured = (self.num_frames - 1) / seconds if seconds > 0 else None
        if measured is None:
            return declared or Fraction(1)
        is_near = declared is not None and abs(declared - measured) * 100 <= measured
        return declared if declared is not None and is_near else measured

    def first_packet(self, index: int) -> int:
        """Return the number of the packet with which decoding begins: that of the key frame before a frame."""
        if not self._has_times:
            return 0
        last = bisect_right(self._keys, self._packets[index])
        for place in reversed(range(max(0, last - _MAX_KEYS_BACK), last)):
            if self._key_times[place] <= self._times[index]:  # not a key frame that is shown after it
                return self._keys[place]
        return 0

    def index(self, time: int | None, previous: int) -> int:
        """Return the index of a decoded frame: by its time, else the one after the previous."""
        if time is None or not self._has_times:
            return previous + 1
        return min(int(np.searchsorted(self._times, time)), self.num_frames - 1)

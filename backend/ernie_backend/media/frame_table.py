"""The frames of a video by their number, in the order in which they are shown, from its packets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from fractions import Fraction
from typing import Protocol

import numpy as np

from ernie_wire.errors import InvalidValue

MAX_FRAMES = 1 << 22
"""Of a file: a day and a half at 30 frames of a second; their times take 64 MiB."""


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
        times: list[int | None] = []
        packet_numbers: list[int] = []  # of the frames that are shown
        self._keys: list[int] = []
        self._key_times: list[int] = []
        for number, packet in enumerate(packets):
            if packet.is_keyframe and packet.pts is not None:
                self._keys.append(number)
                self._key_times.append(packet.pts)
            if not packet.is_discard:
                times.append(packet.pts)
                packet_numbers.append(number)
            if len(times) > MAX_FRAMES:
                raise InvalidValue(f"the video has more than {MAX_FRAMES} frames; send a part of it", "media")
        if not times:
            raise InvalidValue("the video has no frames", "media")
        self.num_frames = len(times)
        known = [time for time in times if time is not None]
        self._has_times = is_timed and len(set(known)) == len(times)
        order = np.argsort(known) if self._has_times else np.arange(0)
        self._times = np.array(known, np.int64)[order]
        self._packets = np.array(packet_numbers, np.int64)[order]

    def rate(self, tick: Fraction, declared: Fraction | None) -> Fraction:
        """Return the frames of a second, on average.

        Args:
            tick: seconds of a unit of time.
            declared: by the file; it counts if there are no times, or if it is near to what they say, which are
                rounded.
        """
        seconds = int(self._times[-1] - self._times[0]) * tick if len(self._times) > 1 else Fraction(0)
        measured = (self.num_frames - 1) / seconds if seconds > 0 else None
        if measured is None:
            return declared or Fraction(1)
        is_near = declared is not None and abs(declared - measured) * 100 <= measured
        return declared if declared is not None and is_near else measured

    def first_packet(self, index: int) -> int:
        """Return the number of the packet with which decoding begins: that of the key frame before a frame."""
        if not self._has_times:
            return 0
        place = bisect_right(self._keys, self._packets[index]) - 1
        while place >= 0 and self._key_times[place] > self._times[index]:
            place -= 1
        return self._keys[place] if place >= 0 else 0

    def index(self, time: int | None, previous: int) -> int:
        """Return the index of a decoded frame: by its time, else the one after the previous."""
        if time is None or not self._has_times:
            return previous + 1
        return min(int(np.searchsorted(self._times, time)), self.num_frames - 1)

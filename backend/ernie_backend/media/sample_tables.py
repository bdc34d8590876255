"""The frames that an MP4 or MOV file announces, before FFmpeg makes a table of them.

A track can announce any number of frames in 20 bytes, and a file can have many tracks; FFmpeg takes 70 bytes of
memory for a frame. A frame has at least a byte, so a sound file announces no more than it has bytes. Where such
boxes may be, FFmpeg is lenient; so they are looked for wherever there are no frames (``mdat``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from ernie_wire.errors import InvalidValue

MAX_ANNOUNCED = 4 << 20
"""Of any file: some old codecs of audio count samples, which are smaller than a byte."""
MAX_BOXES = 200_000
"""Outermost ones: two for each fragment."""
_OTHERS = (b"\x1aE\xdf\xa3", b"RIFF", b"FLV", b"GIF8", b"OggS", b"G", b"0&\xb2u")
_TRACK = re.compile(rb"stsz.{4}(.{4})(.{4})", re.DOTALL)
"""Bytes of each frame, or 0 if a table of them follows, and the number of frames."""
_FRAGMENT = re.compile(rb"trun.{4}()(.{4})", re.DOTALL)


def check_sample_tables(data: bytes) -> None:
    """Check that a file does not announce more frames than it can have.

    Raises:
        InvalidValue: it does.
    """
    if data.startswith(_OTHERS) and not data[4:8].isalpha():
        return
    has_fragments = b"tfhd" in data  # otherwise trun is the beginning of a word in some text
    patterns = (_TRACK, _FRAGMENT) if has_fragments else (_TRACK,)
    num_bytes = 0
    for begin, end in _boxes_without_frames(data):
        for size, number in chain.from_iterable(each.findall(data, begin, end) for each in patterns):
            num_bytes += max(1, int.from_bytes(size, "big")) * int.from_bytes(number, "big")
            if num_bytes > max(len(data), MAX_ANNOUNCED):
                raise InvalidValue("the video announces more frames than the file has bytes", "media")
        if data.find(b"cmov", begin, end) >= 0:
            raise InvalidValue("the video's tables are compressed; convert it to a usual MP4", "media")


def _boxes_without_frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the outermost boxes, except those of frames."""
    begin = 0
    for _ in range(MAX_BOXES):
        if begin + 8 > len(data):
            return
        size, kind = int.from_bytes(data[begin : begin + 4], "big"), data[begin + 4 : begin + 8]
        if size == 1:  # it stands after the type
            size = int.from_bytes(data[begin + 8 : begin + 16], "big")
        end = min(len(data), begin + size) if size >= 8 else len(data)
        if kind != b"mdat":
            yield begin, end
        begin = end
    raise InvalidValue(f"the video has more than {MAX_BOXES} boxes; send a part of it", "media")

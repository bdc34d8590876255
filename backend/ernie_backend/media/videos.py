"""The file of a video to the frames that are taken of it; PyAV, and so FFmpeg, reads it.

A file is demuxed twice, which is cheap: once to number its frames in the order in which they are shown, once to
decode those that are needed, each from the key frame before it. Nothing depends on how well a container seeks.
The memory is that of one packet and of the decoder; a deadline bounds the time.
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from io import BytesIO
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ernie_backend.media.frame_table import FrameTable
from ernie_backend.media.images import unreadable
from ernie_backend.media.sample_tables import check_sample_tables
from ernie_wire.errors import InvalidValue

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

MAX_FRAME_PIXELS = 4096 * 4096
"""A decoder keeps up to 17 frames of 1.5 bytes for a pixel: 408 MiB."""
MAX_BLOCK_BYTES = 160 << 20
"""Of an array of FFmpeg: a frame of 8 bytes for a pixel, or a table of 7 million frames. A small file can
announce any number of them, and each takes 70 bytes."""
MAX_SECONDS = 60.0
"""For reading and decoding a file."""
TOLERANCE = 10
"""Nearer frames than this take the place of one that cannot be read; at both ends, nearer than twice of it."""
_DEMUXERS = "mov,matroska,avi,mpegts,mpeg,flv,gif,ogg,asf,mpegvideo,h264,hevc,m4v,ivf"
"""Formats that hold a video. Playlists, with which FFmpeg opens other files and URLs, are not among them."""
_OPTIONS = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "", "max_pixels": str(MAX_FRAME_PIXELS)}


@dataclass(frozen=True)
class ReadFrame:
    """A frame of a video.

    Attributes:
        place: among those that were wanted.
        index: of the frame that was read.
        image: in RGB, upright.
    """

    place: int
    index: int
    image: Image.Image


@dataclass(frozen=True)
class _Decoded:
    index: int
    frame: VideoFrame


_Wanted = list[tuple[int, int]]
"""Places and indices of frames."""


class Video:
    """A video in memory.

    Args:
        data: the file.
        clock: tells seconds, for the deadline.

    Attributes:
        num_frames: number of frames.
        rate: frames of a second, on average.

    Raises:
        InvalidValue: it is not a video that can be read.
    """

    def __init__(self, data: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._av = _pyav()
        check_sample_tables(data)
        self._data = data
        self._clock = clock
        self._end = clock() + MAX_SECONDS
        with self._open() as container:
            stream = _video_stream(container)
            is_timed = container.format.name != "avi" or not stream.codec_context.has_b_frames
            self._frames = FrameTable(self._packets(container, stream), is_timed=is_timed)
            self.rate = float(self._frames.rate(Fraction(stream.time_base or 1), stream.average_rate))
        self.num_frames = self._frames.num_frames

    def read(self, wanted: Sequence[int]) -> Iterator[ReadFrame]:
        """Decode frames; the nearest, or of two the former, takes the place of one that cannot be read.

        Args:
            wanted: their indices, rising.

        Yields:
            A frame for each place in ``wanted``; those that are replaced may come last.

        Raises:
            InvalidValue: a frame and those next to it cannot be read, or the deadline passed.
        """
        missing = list(enumerate(wanted))
        for margin in (0, 2 * TOLERANCE):
            if missing:
                missing = yield from self._read(missing, margin)
        if missing:
            second = missing[0][1] / self.rate
            message = f"the video cannot be decoded near second {second:.1f}; is the file complete?"
            raise InvalidValue(message, "media")

    def _read(self, wanted: _Wanted, margin: int) -> Generator[ReadFrame, None, _Wanted]:
        """Decode frames in one pass, with a margin also the nearest instead; return those that are missing."""
        queue, missing = deque(wanted), []
        before: _Decoded | None = None
        for after in chain(self._decode([index for _, index in wanted], margin), [None]):
            while queue and (after is None or queue[0][1] <= after.index):
                place, index = queue.popleft()
                nearest = self._nearest(index, margin, before, after)
                if nearest is None:
                    missing.append((place, index))
                else:
                    yield ReadFrame(place, nearest.index, _rgb(nearest.frame))
            before = after
        return missing

    def _nearest(self, index: int, margin: int, *decoded: _Decoded | None) -> _Decoded | None:
        is_end = index in (0, self.num_frames - 1)
        reach = (margin if is_end else margin // 2) or 1
        near = [each for each in decoded if each is not None and abs(each.index - index) < reach]
        return min(near, key=lambda each: abs(each.index - index), default=None)

    def _decode(self, wanted: Sequence[int], margin: int) -> Iterator[_Decoded]:
        """Yield frames, rising: at least those from ``margin`` before each wanted one to it."""
        starts = [self._frames.first_packet(max(0, index - margin)) for index in wanted]
        place, index, is_decoding = 0, -1, False
        with self._open() as container:
            stream = _video_stream(container)
            for number, packet in enumerate(chain(self._packets(container, stream), [None])):
                if packet is not None and number < starts[place]:
                    is_decoding = False
                    continue
                if not is_decoding:
                    stream.codec_context.flush_buffers()
                    is_decoding = True
                for frame in self._completed(stream, packet):
                    index = self._frames.index(frame.pts, index)
                    yield _Decoded(index, frame)
                while place < len(wanted) and wanted[place] <= index:
                    place += 1
                if place == len(wanted):
                    return

    def _completed(self, stream: VideoStream, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """Return the frames that a packet completes, without it those that are left; none of a broken one."""
        try:
            return stream.codec_context.decode(packet)
        except self._av.FFmpegError:
            return []

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        """Yield the packets of the video up to its end, or to where the file is broken."""
        try:
            for packet in container.demux(stream):
                if self._clock() > self._end:
                    message = f"decoding the video takes more than {MAX_SECONDS:.0f} s; send a shorter one"
                    raise InvalidValue(message, "media")
                if packet.size:
                    yield packet
        except self._av.FFmpegError:
            return

    def _open(self) -> InputContainer:
        try:
            container: InputContainer = self._av.open(
                BytesIO(self._data), options=_OPTIONS, timeout=MAX_SECONDS
            )
        except (self._av.FFmpegError, ValueError):
            raise unreadable(self._data, "a video that can be read") from None
        return container


def _pyav() -> ModuleType:
    try:
        import av
    except ModuleNotFoundError:
        message = "this server has no PyAV, which reads videos; its operator can install ernie-triton[video]"
        raise InvalidValue(message, "media") from None
    _limit_blocks(av)
    return av


@cache
def _limit_blocks(av: ModuleType) -> None:
    """Limit FFmpeg's arrays; PyAV has no function for that, but its modules are linked to FFmpeg's."""
    with suppress(OSError, AttributeError):  # linked otherwise
        ctypes.CDLL(av._core.__file__).av_max_alloc(ctypes.c_size_t(MAX_BLOCK_BYTES))


def _video_stream(container: InputContainer) -> VideoStream:
    """Return the first video, which is not a cover; its decoder is limited to one thread."""
    from av.stream import Disposition

    streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not streams:
        raise InvalidValue("the file has no video stream", "media")
    stream = streams[0]
    if stream.codec_context is None:
        raise InvalidValue("the video's codec is unknown", "media")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_FRAME_PIXELS:
        message = f"the video's frames have {width} x {height} pixels; at most {MAX_FRAME_PIXELS} are decoded"
        raise InvalidValue(message, "media")
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": _OPTIONS["max_pixels"]}
    return stream


def _rgb(frame: VideoFrame) -> Image.Image:
    """Return a frame as it is shown, turned by the angle that the file says."""
    return Image.fromarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))

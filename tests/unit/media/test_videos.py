"""Files of videos to frames: containers, order, time, rotation, broken files, limits."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import count
from unittest.mock import patch

import av
import numpy as np
import pytest

from ernie_backend.media import videos
from ernie_backend.media.frame_table import FrameTable
from ernie_backend.media.sample_tables import check_sample_tables
from ernie_backend.media.timestamps import clock_time, draw_time
from ernie_backend.media.videos import Video
from ernie_backend.settings.media_values import ProcessorKwargs
from ernie_wire.errors import ContextLengthExceeded, InvalidValue
from support.media import audio_file, grey_frames, image_file, plain_image, processor, turned, video_file

CONTAINERS = [
    ("mp4", "libx264"),
    ("mov", "mjpeg"),
    ("matroska", "libx264"),
    ("webm", "libvpx-vp9"),
    ("avi", "mpeg4"),
    ("avi", "libx264"),
    ("mpegts", "libx264"),
    ("mpeg", "mpeg1video"),
    ("flv", "flv1"),
    ("gif", "gif"),
    ("h264", "libx264"),
]
"""Formats and codecs, among them such with frames in another order than that of decoding."""


def read(file: bytes, wanted: list[int]) -> list[int]:
    """Return the index that is read for each one wanted; the grey of the frame must tell the same."""
    frames = sorted(Video(file).read(wanted), key=lambda frame: frame.place)
    assert [frame.place for frame in frames] == list(range(len(wanted)))
    for frame in frames:
        assert np.asarray(frame.image).mean() / 4 == pytest.approx(frame.index, abs=1)
    return [frame.index for frame in frames]


def video_packets(file: bytes) -> list[bytes]:
    """Return the packets of a video, in the order of decoding."""
    with av.open(BytesIO(file)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def without(file: bytes, packets: list[bytes]) -> bytes:
    """Return a file in which packets are made of one byte that no codec begins with."""
    for packet in packets:
        file = file.replace(packet, b"\xff" * len(packet))
    return file


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_frames_are_those_of_their_indices(container: str, codec: str) -> None:
    file = video_file(grey_frames(60), container, codec, g="12")
    video = Video(file)
    assert video.num_frames == 60
    assert video.rate == pytest.approx(25 if container == "h264" else 30, rel=0.01)
    wanted = [0, 1, 13, 29, 30, 58, 59]
    assert read(file, wanted) == wanted


def test_only_the_packets_between_a_key_frame_and_a_wanted_one_are_decoded() -> None:
    file = video_file(grey_frames(60), codec="mpeg4", g="10")
    decoded = 0
    complete = Video._completed

    def counted(self: Video, *arguments: object) -> object:
        nonlocal decoded
        decoded += 1
        return complete(self, *arguments)  # type: ignore[arg-type]

    with patch.object(Video, "_completed", counted):
        assert read(file, [12, 55]) == [12, 55]
    assert decoded <= 3 + 6 + 2


def test_ten_hours_take_as_long_as_the_frames_that_are_taken() -> None:
    file = video_file(grey_frames(400), rate=1, times=range(0, 400 * 90, 90), g="10")
    item = processor().prepare(file, "video", {"max_pixels": 3136})
    assert item.grid == (180, 4, 4)
    assert Video(file).num_frames / Video(file).rate == pytest.approx(36_000, rel=0.01)


def test_frames_at_irregular_times_are_numbered_in_their_order() -> None:
    times = [each * each for each in range(40)]
    file = video_file(grey_frames(40), "matroska", times=times)
    assert Video(file).rate == pytest.approx(39 / (39 * 39 / 30), rel=0.01)
    assert read(file, [3, 20, 39]) == [3, 20, 39]


@pytest.mark.parametrize(("angle", "corner"), [(90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
def test_frames_are_turned_as_the_file_says(angle: int, corner: tuple[int, int]) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32] = 255
    frame = next(Video(turned(video_file([pixels]), angle)).read([0])).image
    assert frame.size == ((64, 48) if angle == 180 else (48, 64))
    quarters = np.asarray(frame)[..., 0].astype(float).reshape(2, frame.height // 2, 2, frame.width // 2)
    assert np.unravel_index(quarters.mean(axis=(1, 3)).argmax(), (2, 2)) == corner


def test_frames_that_cannot_be_read_are_replaced_by_the_nearest() -> None:
    file = video_file(grey_frames(60, 160, 120), "mov", "mjpeg")
    packets = video_packets(file)
    broken = without(file, [packets[index] for index in (0, 30, 31, 59)])
    assert read(broken, [0, 10, 30, 31, 32, 59]) == [1, 10, 29, 32, 32, 58]
    broken = without(file, packets[:19] + packets[30:41])
    assert read(broken, [0, 39]) == [19, 41]
    with pytest.raises(InvalidValue, match=r"near second 1\.0"):
        read(without(file, packets[20:40]), [30])
    with pytest.raises(InvalidValue, match=r"near second 0\.0"):
        read(without(file, packets), [0])


def test_frames_before_a_broken_key_frame_are_decoded_for_it() -> None:
    file = video_file(grey_frames(40, 160, 120), codec="mpeg4", g="20", bf="0")
    assert read(without(file, video_packets(file)[20:]), [22]) == [19]


def test_a_video_that_is_cut_off_ends_where_it_is_cut() -> None:
    file = video_file(grey_frames(60), "mpegts")
    video = Video(file[: len(file) // 2])
    assert 20 < video.num_frames < 40
    assert read(file[: len(file) // 2], [0, video.num_frames - 2]) == [0, video.num_frames - 2]


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "empty"),
        (b"garbage" * 99, "unknown format"),
        (PLAYLIST, "not a video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video"),
        (image_file(plain_image(64, 64)), "an image .PNG."),
        (image_file(plain_image(64, 64), "JPEG"), "an image .JPEG."),
        (image_file(plain_image(64, 64), "WEBP"), "an image .WEBP."),
        (audio_file(), "no video stream"),
        (audio_file(has_cover=True), "no video stream"),
        (audio_file("mp3", "mp3"), "not a video"),
        (video_file(grey_frames(9))[:200], "MP4.* is the file complete"),
        (base64.b64encode(video_file(grey_frames(9))), "MP4.* in base64; send base64 as data:"),
    ],
)
def test_what_is_no_video_is_named(file: bytes, words: str) -> None:
    with pytest.raises(InvalidValue, match=words) as caught:
        Video(file)
    assert caught.value.param == "media"


def test_frames_that_are_too_large_are_not_decoded() -> None:
    file = video_file(grey_frames(2, 640, 480))
    with (
        patch.object(videos, "MAX_FRAME_PIXELS", 640 * 480 - 1),
        pytest.raises(InvalidValue, match="640 x 480"),
    ):
        Video(file)
    gif = bytearray(video_file(grey_frames(2), "gif", "gif"))
    gif[6:10] = b"\xff\xff\xff\xff"
    with pytest.raises(InvalidValue):
        next(Video(bytes(gif)).read([0]))


def test_a_deadline_ends_the_work() -> None:
    file = video_file(grey_frames(60))
    ticks = count(step=2)
    with pytest.raises(InvalidValue, match="more than 60 s"):
        list(Video(file, clock=lambda: next(ticks)).read([59]))


def test_without_pyav_the_error_names_the_extra() -> None:
    with patch.dict(sys.modules, {"av": None}), pytest.raises(InvalidValue, match=r"ernie-triton\[video\]"):
        Video(b"")
    assert processor().notices == ()
    with patch("ernie_backend.media.processor.find_spec", return_value=None):
        assert ["ernie-triton[video]" in notice for notice in processor().notices] == [True]
        assert processor("paddleocr_vl").notices == ()


def test_a_context_that_holds_no_usual_image_or_video_is_worth_a_notice() -> None:
    (notice,) = processor(max_model_len=2048).notices
    assert "2048 cannot hold an image of 1920 x 1080 pixels (2691 tokens) or a video of 16 frames" in notice
    assert "--max-model-len" in notice
    small = ProcessorKwargs(image_max_pixels=500_000, video_min_pixels=784, video_max_pixels=50_000)
    assert processor(max_model_len=2048, mm_processor_kwargs=small).notices == ()
    assert processor("paddleocr_vl", max_model_len=2048).notices == ()


def test_pyav_is_imported_only_for_a_video() -> None:
    program = "import sys, ernie_backend.media.pool; sys.exit('av' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "00:00:00.00"),
        (9.5, "00:00:09.50"),
        (59.999, "00:00:60.00"),
        (61.25, "00:01:01.25"),
        (36_000 + 60 + 1, "10:01:01.00"),
        (400_000, "111:06:40.00"),
    ],
)
def test_times_are_written_as_in_training(seconds: float, expected: str) -> None:
    assert clock_time(seconds) == expected


def test_the_time_is_drawn_into_the_upper_left_corner() -> None:
    frame = plain_image(400, 300, color=(0, 0, 255))
    draw_time(frame, 3.5)
    pixels = np.asarray(frame)
    changed = np.argwhere((pixels != (0, 0, 255)).any(axis=-1))
    assert (changed.min(axis=0) <= 12).all()
    assert changed.max(axis=0)[0] <= 40
    assert 200 <= changed.max(axis=0)[1] <= 320
    assert (pixels == 0).all(axis=-1).any()
    assert (pixels == 255).all(axis=-1).any()
    tiny = plain_image(9, 9)
    draw_time(tiny, 0)
    assert (np.asarray(tiny) == 128).all()


def test_a_video_beyond_the_context_is_refused_before_it_is_decoded() -> None:
    loaded = processor(max_model_len=1000)
    file = video_file(grey_frames(60))
    with pytest.raises(ContextLengthExceeded, match=r"2400.*16 frames of 560 x 420"):
        loaded.prepare(file, "video", {})


@dataclass
class FakePacket:
    pts: int | None
    is_keyframe: bool = True
    is_discard: bool = False


def test_key_frames_in_an_absurd_order_cost_no_time() -> None:
    table = FrameTable((FakePacket(-number) for number in range(100_000)), is_timed=True)
    assert [table.first_packet(index) for index in (0, 1, 50_000, 99_999)] == [99_999, 99_998, 49_999, 0]
    late = FrameTable((FakePacket(-number, number != 99_999) for number in range(100_000)), is_timed=True)
    assert late.first_packet(0) == 0
    open_group = [
        FakePacket(0),
        FakePacket(3, False),
        FakePacket(9),
        FakePacket(6, False),
        FakePacket(12, False),
    ]
    assert [FrameTable(open_group, is_timed=True).first_packet(index) for index in range(5)] == [0, 0, 0, 2, 2]


def test_frames_that_are_not_shown_are_not_counted() -> None:
    packets = [
        FakePacket(0, is_discard=True),
        FakePacket(1, False, True),
        FakePacket(2, False),
        FakePacket(3, False),
    ]
    table = FrameTable(packets, is_timed=True)
    assert (table.num_frames, table.first_packet(0), table.index(2, -1)) == (2, 0, 0)
    assert table.rate(Fraction(1, 30), None) == 30
    with pytest.raises(InvalidValue, match="no frames"):
        FrameTable(packets[:2], is_timed=True)


def _announcing(number: int, size: int = 1) -> bytes:
    """Return a file whose track announces frames of a size."""
    file = bytearray(video_file(grey_frames(12)))
    for table, place, values in (
        (b"stsz", 8, struct.pack(">II", size, number)),
        (b"stsc", 16, struct.pack(">I", number)),  # all of them in one chunk
        (b"stts", 12, struct.pack(">I", number)),
    ):
        begin = file.index(table) + place
        file[begin : begin + len(values)] = values
    return bytes(file)


def test_a_file_that_announces_millions_of_frames_takes_no_memory_for_them() -> None:
    many = _announcing(8_000_000)
    with pytest.raises(InvalidValue, match="more frames than the file has bytes"):
        Video(many)
    with pytest.raises(InvalidValue, match="more frames than the file has bytes"):
        Video(many.replace(b"stsz\0", b"stsz\1"))  # FFmpeg does not look at that
    with (
        patch("ernie_backend.media.videos.check_sample_tables"),
        pytest.raises(InvalidValue, match="no frames"),  # FFmpeg's table is above MAX_BLOCK_BYTES
    ):
        Video(many)


def test_tables_are_found_wherever_they_may_be() -> None:
    file = _announcing(5_000_000)
    for begin in (b"", struct.pack(">I4s", 8, b"free"), struct.pack(">I4sQ", 1, b"mdat", 16)):
        with pytest.raises(InvalidValue, match="more frames"):
            check_sample_tables(begin + file)
    check_sample_tables(struct.pack(">I4s", 8 + len(file), b"mdat") + file)
    check_sample_tables(b"RIFF" + bytes(4) + file)
    fragment = struct.pack(">I4s", 100, b"moof") + b"tfhd" + b"trun" + struct.pack(">II", 1, 1 << 30)
    with pytest.raises(InvalidValue, match="more frames"):
        check_sample_tables(fragment)
    check_sample_tables(struct.pack(">I4s", 100, b"uuid") + b"this text is truncated")
    with pytest.raises(InvalidValue, match="200000 boxes"):
        check_sample_tables(struct.pack(">I4s", 8, b"free") * 200_001)

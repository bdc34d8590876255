"""Files of images to pixels: formats, colors, orientation, limits, broken files."""

from __future__ import annotations

import base64
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from ernie_backend.media.images import FORMATS, MAX_IMAGE_PIXELS, ImageFile
from ernie_wire.errors import ContextLengthExceeded, InvalidValue
from support.media import audio_file, grey_frames, image_file, plain_image, processor, video_file

RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)
GRADIENT = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)


def read_image(file: bytes) -> Image.Image:
    return ImageFile(file).read()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes) -> bytes:
    """Return a PNG of 8 bits of grey, without ever holding its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of one color."""
    packer = zlib.compressobj(1)
    thousand_rows = packer.compress(bytes(1000 * (width + 1))) + packer.flush(zlib.Z_FULL_FLUSH)
    return png(width, height, thousand_rows + thousand_rows[2:] * (height // 1000 - 1) + packer.flush())


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "MPO"])
def test_the_type_is_that_of_the_content(file_format: str) -> None:
    file = image_file(plain_image(40, 30, color=(200, 30, 40)), file_format)
    image = read_image(file)
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(image).astype(int) - (200, 30, 40)).max() <= 4


@pytest.mark.filterwarnings("ignore:the tags are larger", "ignore:Tag data larger")
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "JPEG"])
def test_tags_of_the_same_bytes_take_no_memory_of_their_own(file_format: str) -> None:
    size, number = 60_000, 4000
    tags = (struct.pack("<HHII", 0x8000 + index, 1, size, 8) for index in range(number))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", number) + b"".join(tags)
    file = image_file(plain_image(40, 30), file_format, exif=b"Exif\0\0" + exif.ljust(size + 8, b"\0"))
    tracemalloc.start()
    assert read_image(file).size == (40, 30)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("file_format", ["ICO", "PPM", "TGA", "PCX", "ICNS", "JPEG2000"])
def test_other_formats_are_refused(file_format: str) -> None:
    with pytest.raises(InvalidValue, match="JPEG, PNG, WEBP, GIF, BMP, TIFF"):
        read_image(image_file(plain_image(64, 64), file_format))


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (plain_image(8, 8, "RGBA", (255, 0, 0, 0)), {}, WHITE),
        (plain_image(8, 8, "RGBA", (255, 0, 0, 255)), {}, RED),
        (plain_image(8, 8, "RGBA", (255, 0, 0, 51)), {}, (255, 204, 204)),
        (plain_image(8, 8, "LA", (0, 0)), {}, WHITE),
        (plain_image(8, 8, "LA", (0, 255)), {}, BLACK),
        (plain_image(8, 8, "P", 0), {"transparency": 0}, WHITE),
        (plain_image(8, 8, "P", 0), {}, BLACK),
        (plain_image(8, 8, "RGB", RED), {"transparency": RED}, WHITE),
        (plain_image(8, 8, "L", 7), {"transparency": 7}, WHITE),
        (plain_image(8, 8, "1", 1), {}, WHITE),
        (plain_image(8, 8, "L", 7), {}, (7, 7, 7)),
    ],
)
def test_transparent_images_are_laid_over_white(image: Image.Image, options: Any, expected: Any) -> None:
    pixels = np.asarray(read_image(image_file(image, "PNG", **options)))
    assert (pixels == expected).all()


def test_a_palette_with_transparent_colors_is_laid_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    file = image_file(image, transparency=b"\x00\xff")
    assert np.asarray(read_image(file)).tolist() == [[list(WHITE), [0, 255, 0]]]


def test_16_bits_of_grey_keep_their_brightness() -> None:
    grey = (GRADIENT.astype(np.uint16) << 8) + 200
    for file_format in ("PNG", "TIFF"):
        image = read_image(image_file(Image.fromarray(grey), file_format))
        assert (np.asarray(image) == GRADIENT[..., np.newaxis]).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_of_grey_are_refused(mode: str) -> None:
    with pytest.raises(InvalidValue, match="32 bits"):
        read_image(image_file(plain_image(8, 8, mode, 1), "TIFF"))


def test_cmyk_jpegs_are_read_as_by_pillow() -> None:
    file = image_file(plain_image(16, 16, "CMYK", (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(np.asarray(read_image(file)).astype(int) - RED).max() <= 4


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(file_format: str) -> None:
    frames = [plain_image(32, 32, color=color) for color in (RED, (0, 0, 255), BLACK)]
    file = image_file(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert np.abs(np.asarray(read_image(file)).astype(int) - RED).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_upright(file_format: str, orientation: int) -> None:
    upright = Image.new("RGB", (48, 32), WHITE)
    upright.paste(BLACK, (0, 0, 16, 16))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(image_file(stored, file_format, exif=exif))
    assert image.size == upright.size
    assert np.abs(np.asarray(image).astype(int) - np.asarray(upright)).mean() < 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_refuse_an_image() -> None:
    file = image_file(plain_image(32, 32), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read_image(file).size == (32, 32)


@pytest.mark.parametrize("size", [(3, 32), (32, 3), (1, 1), (2000, 3)])
@pytest.mark.parametrize("family", ["vl_moe", "paddleocr_vl"])
def test_tiny_images_have_an_answer_or_an_error_about_the_image(family: str, size: tuple[int, int]) -> None:
    """V04."""
    loaded, file = processor(family), image_file(plain_image(*size))
    if family == "paddleocr_vl" and size == (2000, 3):
        with pytest.raises(InvalidValue, match="2000 x 3 pixels"):
            loaded.prepare(file, "image", {})
        return
    item = loaded.prepare(file, "image", {})
    assert (item.patches == 128).all()
    assert item.num_tokens >= 1


def test_bombs_are_refused_before_they_are_decoded() -> None:
    """V13."""
    files = [bomb(20_000, 20_000), png(60_000, 60_000, b""), image_file(plain_image(1, 1), "GIF")]
    files[2] = files[2][:6] + struct.pack("<HH", 65535, 65535) + files[2][10:]
    for file in files:
        tracemalloc.start()
        with pytest.raises(InvalidValue, match=str(MAX_IMAGE_PIXELS)):
            read_image(file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < len(file) + (1 << 20)


def test_only_one_large_image_is_decoded_at_a_time() -> None:
    loaded, is_alone = processor(), []
    read = ImageFile.read

    def watched(self: ImageFile) -> Image.Image:
        is_alone.append(loaded.large_image.locked())
        return read(self)

    with patch.object(ImageFile, "read", watched), patch("ernie_backend.media.processor.LARGE_PIXELS", 64 * 64):
        for side in (64, 65):
            loaded.prepare(image_file(plain_image(side, side)), "image", {})
    assert is_alone == [False, True]
    assert not loaded.large_image.locked()


def test_an_image_beyond_the_context_is_refused_before_it_is_decoded() -> None:
    file = image_file(plain_image(1920, 1080))[:60]
    with pytest.raises(ContextLengthExceeded, match=r"2691, as 1932 x 1092 pixels.* --max-model-len"):
        processor(max_model_len=2690).prepare(file, "image", {})


def test_a_tiff_of_tiles_beyond_its_size_is_refused() -> None:
    def tiff(side: int) -> bytes:
        data, end = zlib.compress(bytes(side * 3), 9), 8 + 2 + 12 * 11 + 4
        tags = (
            *((256, 40), (257, 30), (258, end), (259, 8), (262, 2), (277, 3), (284, 1)),  # 8: deflate
            *((322, side), (323, side), (324, end + 6), (325, len(data))),
        )
        kinds = {258: (3, 3)}  # three numbers of 16 bits; the others are one of 32
        entries = (struct.pack("<HHII", tag, *kinds.get(tag, (4, 1)), value) for tag, value in tags)
        header = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
        return header + struct.pack("<3H", 8, 8, 8) + data

    with pytest.raises(InvalidValue, match="its tiles have 8000 x 8000 pixels"):
        ImageFile(tiff(8000))
    assert (ImageFile(tiff(64)).width, ImageFile(tiff(64)).height) == (40, 30)


def test_what_follows_a_jpeg_is_not_decoded_and_has_no_scans() -> None:
    file = image_file(plain_image(64, 48), "JPEG", progressive=True)
    assert read_image(file + b"\xff\xda" * 200).size == (64, 48), "a phone puts a video there"


def test_a_large_jpeg_has_fewer_scans() -> None:
    file = image_file(plain_image(64, 48), "JPEG", progressive=True)
    with (
        patch("ernie_backend.media.images.MAX_SCANNED_PIXELS", 64 * 48 * 5),
        pytest.raises(InvalidValue) as error,
    ):
        read_image(file)
    assert "scans of 64 x 48 pixels" in error.value.message
    assert read_image(image_file(plain_image(64, 48), "JPEG")).size == (64, 48)


def test_pngs_of_many_chunks_are_refused() -> None:
    file = image_file(plain_image(64, 48))
    assert read_image(file[:33] + chunk(b"prVt", b"") * 1000 + file[33:]).size == (64, 48)
    with pytest.raises(InvalidValue, match="100000 chunks"):
        read_image(file[:33] + chunk(b"prVt", b"") * 100_000 + file[33:])


def test_jpegs_of_many_segments_are_refused() -> None:
    file = image_file(plain_image(64, 48), "JPEG")
    with pytest.raises(InvalidValue, match="10000 segments"):
        read_image(file[:2] + b"\xff\xfe\0\2" * 20_000 + file[2:])


def test_jpegs_of_many_scans_are_refused() -> None:
    file = image_file(Image.fromarray(GRADIENT), "JPEG", progressive=True)
    scan = file[file.rindex(b"\xff\xda") : -2]
    with pytest.raises(InvalidValue, match="100 scans"):
        read_image(file[:-2] + scan * 100 + file[-2:])


@cache
def broken() -> dict[str, bytes]:
    jpeg, gif = image_file(Image.fromarray(GRADIENT), "JPEG"), image_file(Image.fromarray(GRADIENT), "GIF")
    text = zlib.compress(bytes(100 << 20), 9)
    whole = image_file(Image.fromarray(GRADIENT))
    return {
        "truncated JPEG": jpeg[: len(jpeg) // 2],
        "truncated PNG": whole[: len(whole) // 2],
        "truncated GIF": gif[: len(gif) // 2],
        "header alone": whole[:20],
        "compressed text": whole[:33] + chunk(b"zTXt", b"a\0\0" + text) + whole[33:],
        "color profile": whole[:33] + chunk(b"iCCP", b"a\0\0" + text) + whole[33:],
        "no image data": png(8, 8, b""),
    }


@pytest.mark.parametrize("name", broken())
def test_broken_files_are_errors_of_the_client(name: str) -> None:
    """V13."""
    with pytest.raises(InvalidValue, match=r"complete|not an image") as caught:
        read_image(broken()[name])
    assert caught.value.param == "media"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "empty"),
        (b"garbage" * 100, "unknown format"),
        (b"%PDF-1.7 ", "PDF"),
        (b"<html>", "HTML"),
        (b"<svg xmlns=", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (video_file(grey_frames(2)), "video.*MP4"),
        (video_file(grey_frames(2), "webm", "libvpx"), "video.*WebM"),
        (audio_file("wav", "pcm_s16le"), "WAV"),
    ],
)
def test_what_is_no_image_is_named(file: bytes, words: str) -> None:
    with pytest.raises(InvalidValue, match=f"{words}.*JPEG"):
        read_image(file)


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes])
@pytest.mark.parametrize("file_format", FORMATS)
def test_base64_is_named_with_the_way_to_send_it(file_format: str, encode: Callable[[bytes], bytes]) -> None:
    file = encode(image_file(plain_image(64, 64), file_format))
    message = rf"an image \({file_format}\) in base64; send base64 as data:image/png;base64,"
    with pytest.raises(InvalidValue, match=message):
        read_image(file)

"""How the options of the operator, of a request and of its parts decide about pixels and frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ernie_backend.config.architectures import ARCHITECTURES
from ernie_backend.errors import StartError
from ernie_backend.media.families import ERNIE_VL, FAMILIES, PADDLEOCR_VL, PixelLimits
from ernie_backend.media.options import LOW_DETAIL_PIXELS, ImageOptions, VideoOptions
from ernie_backend.settings.media_values import ProcessorKwargs
from ernie_wire.errors import InvalidValue
from support.media import grey_frames, image_file, plain_image, processor, video_file

SERVER = VideoOptions(PixelLimits(234416, 937664), 2.0, None, 16, 180, "leading")


def image_limits(options: dict[str, Any], **kwargs: Any) -> PixelLimits:
    server = ImageOptions.of(ERNIE_VL.image, ERNIE_VL.largest_image, ProcessorKwargs(**kwargs))
    return server.changed(options).limits


@pytest.mark.parametrize(
    ("kwargs", "options", "expected"),
    [
        ({}, {}, (3136, 4842768)),
        ({}, {"max_pixels": 10**9}, (3136, 4842768)),
        ({}, {"max_pixels": 10_000, "min_pixels": 5000}, (5000, 10_000)),
        ({}, {"max_pixels": 1000}, (1000, 1000)),
        ({}, {"detail": "low"}, (3136, LOW_DETAIL_PIXELS)),
        ({}, {"detail": "low", "max_pixels": 10_000}, (3136, 10_000)),
        ({}, {"detail": "high"}, (3136, 4842768)),
        ({}, {"detail": "auto", "max_pixels": 10_000}, (3136, 10_000)),
        ({"image_max_pixels": 12845056}, {}, (3136, 12845056)),
        ({"image_max_pixels": 12845056}, {"max_pixels": 6_000_000}, (3136, 6_000_000)),
        ({"image_max_pixels": 1000}, {}, (1000, 1000)),
        ({"image_min_pixels": 5000}, {"max_pixels": 4000}, (4000, 4000)),
    ],
)
def test_limits_of_an_image(kwargs: Any, options: dict[str, Any], expected: tuple[int, int]) -> None:
    assert image_limits(options, **kwargs) == expected


@pytest.mark.parametrize(
    "options",
    [{"min_pixels": 5000, "max_pixels": 4000}, {"min_pixels": 10**7}, {"min_pixels": 10**6, "detail": "low"}],
)
def test_a_minimum_above_the_maximum_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match=f"min_pixels is {options['min_pixels']}") as caught:
        image_limits(options)
    assert caught.value.param == "media"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"fps": 0.5}, {"fps": 0.5}),
        ({"fps": -1, "target_frames": 8}, {"target_frames": 8}),
        ({"target_frames": 8}, {"target_frames": 8}),
        ({"max_frames": 8}, {"min_frames": 8, "max_frames": 8}),
        ({"max_frames": 999}, {}),
        ({"min_frames": 20}, {"min_frames": 20}),
        ({"frames_sample": "middle"}, {"sample": "middle"}),
        ({"max_pixels": 10**5}, {"limits": (10**5, 10**5)}),
        ({"max_pixels": 10**7}, {}),
    ],
)
def test_options_of_a_video(options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert VideoOptions.of(PixelLimits(234416, 937664), ProcessorKwargs()) == SERVER
    assert SERVER.changed(options) == SERVER._replace(**expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fps": 2, "target_frames": 8}, "fps is 2 and target_frames 8"),
        ({"target_frames": 181}, "target_frames is 181"),
        ({"target_frames": 8, "min_frames": 9}, "target_frames is 8.*9"),
        ({"min_frames": 9, "max_frames": 8}, "min_frames is 9"),
        ({"min_frames": 181}, "min_frames is 181.*180"),
    ],
)
def test_options_of_a_video_that_contradict_each_other(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        SERVER.changed(options)


def test_settings_of_the_operator_hold_for_each_modality() -> None:
    kwargs = ProcessorKwargs(image_max_pixels=100_352, video_max_pixels=50_176, video_max_frames=4)
    loaded = processor(mm_processor_kwargs=kwargs)
    assert loaded.image.limits == (3136, 100_352)
    assert loaded.video is not None
    assert (loaded.video.limits, loaded.video.min_frames, loaded.video.max_frames) == ((50_176, 50_176), 4, 4)


def test_a_request_changes_the_tokens_of_its_images_and_videos() -> None:
    """V16."""
    loaded, image = processor(), image_file(plain_image(640, 480))
    assert loaded.prepare(image, "image", {}).num_tokens == 391
    assert loaded.prepare(image, "image", {"max_pixels": 100_352}).num_tokens == 117
    video = video_file(grey_frames(200, 96, 64), rate=10)
    whole = loaded.prepare(video, "video", {"max_pixels": 6272, "fps": 4})
    assert (whole.grid, whole.num_tokens) == ((80, 4, 6), 240)
    slow = loaded.prepare(video, "video", {"max_pixels": 6272, "fps": 1})
    assert (slow.grid, slow.num_tokens) == ((20, 4, 6), 60)


def test_limits_of_paddleocr_vl_are_those_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "preprocessor_config.json"
    assert processor("paddleocr_vl", tmp_path).image.limits == PADDLEOCR_VL.image == (101920, 1003520)
    for text, expected in (
        ('{"min_pixels": 112896, "max_pixels": 1003520}', (112896, 1003520)),
        ('{"size": {"shortest_edge": 147384, "longest_edge": 2822400}}', (147384, 2822400)),
        ('{"size": {"min_pixels": 147384, "max_pixels": 5000000}}', (147384, 5000000)),
    ):
        file.write_text(text)
        loaded = processor("paddleocr_vl", tmp_path)
        assert loaded.image == ImageOptions(PixelLimits(*expected), max(2822400, expected[1]))
        assert loaded.mean == loaded.std == (0.5, 0.5, 0.5)
    inside = '{"size": {"shortest_edge": 3136, "longest_edge": 50176}, "image_mean": [0.1, 0.2, 0.3]}'
    (tmp_path / "processor_config.json").write_text(f'{{"image_processor": {inside}}}')
    assert processor("paddleocr_vl", tmp_path).image.limits == (147384, 5000000)
    file.unlink()
    loaded = processor("paddleocr_vl", tmp_path)
    assert (loaded.image.limits, loaded.mean) == ((3136, 50176), (0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"patch_size": 16}', "patch_size must be 14, found 16"),
        ('{"image_mean": [0.5, 0.5]}', "image_mean"),
        ('{"image_std": [0.5, 0.5, 0]}', "image_std.* 0"),
        ('{"min_pixels": 10, "max_pixels": 5}', "min_pixels 10.*max_pixels 5"),
        ('{"size": {"longest_edge": "a"}}', "max_pixels.*'a'"),
        ("[]", "preprocessor_config.json"),
    ],
)
def test_a_wrong_preprocessor_config_refuses_to_start(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(StartError, match=words):
        processor("paddleocr_vl", tmp_path)


def test_every_architecture_with_a_tower_has_a_family() -> None:
    assert {each.name for each in ARCHITECTURES.values() if each.tower} == set(FAMILIES)


def test_modalities() -> None:
    assert processor().modalities == ("text", "image", "video")
    ocr = processor("paddleocr_vl")
    assert ocr.modalities == ("text", "image")
    with pytest.raises(InvalidValue, match="no videos; it takes text, image"):
        ocr.prepare(b"", "video", {})

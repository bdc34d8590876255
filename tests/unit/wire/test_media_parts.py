"""Parts that refer to media, and options of their preparation: what is accepted, what wins, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ernie_wire.errors import InvalidValue
from ernie_wire.media_parts import MediaPart, media_part, merged_options, request_options


def part(kind: str = "image_url", **described: object) -> dict[str, Any]:
    return {"type": kind, kind: described}


def test_a_part_has_a_buffer_and_options_of_its_kind() -> None:
    image = part(media=1, detail="high", max_pixels=5000, fps=None, uuid="x")
    options = {"detail": "high", "max_pixels": 5000}
    assert media_part("m", image, 2) == MediaPart("image", 1, options, image["image_url"], "m")
    video = part("video_url", media=0, fps=-1, target_frames=8, frames_sample="middle", subtitles=[["a", 0, 1]])
    options = {"fps": -1, "target_frames": 8, "frames_sample": "middle"}
    assert media_part("m", video, 2) == MediaPart("video", 0, options, video["video_url"], "m")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (part(), "refer to a buffer"),
        (part(media=True), "refer to a buffer"),
        (part(media="0"), "refer to a buffer"),
        (part(url="data:image/png;base64,AA=="), "refer to a buffer"),
        ({"type": "image_url", "image_url": "data:image/png;base64,AA=="}, "refer to a buffer"),
        ({"type": "image_url"}, "refer to a buffer"),
        (part(media=2), "media has 2 buffers"),
        (part(media=-1), "media has 2 buffers"),
        (part(media=0, detail="ultra"), r"m\.image_url\.detail is 'ultra'"),
        (part(media=0, max_pixels=0), "max_pixels is 0"),
        (part(media=0, max_pixels="9" * 99), "max_pixels is a value of type str"),
        (part("video_url", media=0, fps=0), "fps is 0"),
        (part("video_url", media=0, fps=float("inf")), "fps is inf"),
        (part("video_url", media=0, fps=True), "fps is True"),
        (part("video_url", media=0, frames_sample="all"), "leading, middle, rand"),
    ],
)
def test_parts_that_are_refused(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidValue, match=complaint) as caught:
        media_part("m", wrong, 2)
    assert caught.value.param == "messages"


def test_options_of_a_request_are_for_a_kind_or_for_all() -> None:
    given = {"max_pixels": 5000, "image_max_pixels": 6000, "video_fps": 4, "min_frames": 2, "fps": None}
    options = request_options({"mm_processor_kwargs": given})
    assert options == {
        "image": {"max_pixels": 6000},
        "video": {"max_pixels": 5000, "fps": 4, "min_frames": 2},
    }


def test_options_of_a_part_win_over_those_of_its_request() -> None:
    request = {"fps": 4, "min_frames": 2, "max_pixels": 5000}
    assert merged_options(request, {"max_pixels": 6000}) == {**request, "max_pixels": 6000}
    assert merged_options(request, {"target_frames": 8}) == {
        "min_frames": 2,
        "max_pixels": 5000,
        "target_frames": 8,
    }
    assert merged_options({"target_frames": 8}, {"fps": 1}) == {"fps": 1}


@pytest.mark.parametrize("conversation", [{}, {"mm_processor_kwargs": None}, {"mm_processor_kwargs": {}}])
def test_without_options(conversation: dict[str, Any]) -> None:
    assert request_options(conversation) == {"image": {}, "video": {}}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ([], "must be an object"),
        ({"size": {}}, r"mm_processor_kwargs\.size is not an option .* max_pixels"),
        ({"image_fps": 1}, "image_fps is not an option"),
        ({"video_fps": "2"}, r"video_fps is '2'; it must be a number"),
        ({"min_pixels": 1.5}, r"min_pixels is 1\.5"),
        ({"target_frames": -2}, "target_frames is -2"),
    ],
)
def test_options_that_are_refused(wrong: object, complaint: str) -> None:
    with pytest.raises(InvalidValue, match=complaint) as caught:
        request_options({"mm_processor_kwargs": wrong})
    assert caught.value.param == "mm_processor_kwargs"

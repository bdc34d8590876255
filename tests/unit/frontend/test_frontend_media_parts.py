"""Images and videos in chat requests: every spelling becomes one form; what a model cannot read is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from ernie_frontend.schema.chat import ChatRequest
from ernie_frontend.translate.chat_request import chat_to_wire
from ernie_frontend.translate.generate_request import RequestContext
from ernie_wire.errors import InvalidValue
from ernie_wire.messages import MAX_MEDIA, GenerateRequest

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": MESSAGES, **fields})


def conversation(wire: GenerateRequest) -> dict[str, Any]:
    """Return what the engine reads."""
    decoded: dict[str, Any] = json.loads(wire.messages or b"")
    return decoded


URL = "https://example.com/a.png"
SEEING = RequestContext("r", 1000, 8, modalities=("text", "image", "video"), media_limits={"image": 2})


def pictured(*urls: object, **more: Any) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url, **more}} for url in urls]
    return [{"role": "user", "content": parts}]


def test_media_are_named_by_index_in_the_order_of_the_conversation() -> None:
    content: list[dict[str, Any]] = [
        {"type": "text", "text": "look"},
        {
            "type": "image_url",
            "image_url": {"url": URL, "detail": "high", "max_pixels": 5, "odd": 1},
            "uuid": "u",
        },
        {"type": "video_url", "video_url": {"url": "data:,v", "fps": 1.5, "subtitles": [["hi", 0, 1]]}},
    ]
    result = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": "data:,b"}]
    body = chat(
        messages=[
            {"role": "system", "content": {"type": "image_url", "image_url": {"url": "data:,a"}}},
            {"role": "user", "content": content},
            {"role": "assistant", "content": "Yes."},
            {"role": "tool", "content": result, "tool_call_id": "c"},
        ]
    )
    [wire] = chat_to_wire(body, replace(SEEING, media_limits={}))
    system, user, _, tool = conversation(wire)["messages"]
    assert system["content"] == {"type": "image_url", "image_url": {"media": 0}}
    assert user["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"detail": "high", "max_pixels": 5, "media": 1}},
        {"type": "video_url", "video_url": {"fps": 1.5, "subtitles": [["hi", 0, 1]], "media": 2}},
    ]
    assert tool["content"] == [result[0], {"type": "image_url", "image_url": {"media": 3}}]
    assert body.take_media_urls() == {
        "messages[0].content": "data:,a",
        "messages[1].content[1]": URL,
        "messages[1].content[2]": "data:,v",
        "messages[3].content[1]": "data:,b",
    }
    assert body.take_media_urls() == {}


@pytest.mark.parametrize(
    ("part", "kind", "options"),
    [
        ({"type": "image_url", "image_url": URL}, "image_url", {}),
        ({"type": "image_url", "image_url": {"url": URL}, "min_pixels": 9}, "image_url", {"min_pixels": 9}),
        ({"type": "image", "image": URL, "max_pixels": 9}, "image_url", {"max_pixels": 9}),
        ({"type": "image", "url": URL}, "image_url", {}),
        ({"type": "input_image", "image_url": URL, "detail": "low"}, "image_url", {"detail": "low"}),
        ({"type": "video", "video": URL, "fps": 2}, "video_url", {"fps": 2}),
        ({"type": "video_url", "video_url": {"url": URL, "fps": 2}, "fps": 3}, "video_url", {"fps": 2}),
        ({"type": "video_url", "video_url": {"url": URL, "fps": None}, "fps": 3}, "video_url", {"fps": 3}),
    ],
)
def test_spellings_of_other_servers(part: dict[str, Any], kind: str, options: dict[str, Any]) -> None:
    body = chat(messages=[{"role": "user", "content": [part]}])
    [wire] = chat_to_wire(body, SEEING)
    assert conversation(wire)["messages"][0]["content"] == [{"type": kind, kind: {**options, "media": 0}}]
    assert body.take_media_urls() == {"messages[0].content[0]": URL}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([{"type": "image_url", "image_url": {"url": None}}], r"\[0\]\.content\[0\].* URL.*image_url"),
        ({"type": "image_url"}, r"\[0\]\.content: .* URL"),
        ([{"type": "text", "text": "a"}, {"type": "image", "image": [1]}], r"\[0\]\.content\[1\].*'image'"),
        ([{"type": "video_url", "video_url": {"media": 0}}], "video_url.*URL"),
        ([{"type": "image_url", "image_url": {"url": URL, "max_pixels": "9"}}], r"image_url\.max_pixels.*'9'"),
        ([{"type": "video", "video": URL, "frames_sample": "last"}], r"frames_sample.*leading"),
        ([{"type": "image_url", "image_url": URL}] * (MAX_MEDIA + 1), f"{MAX_MEDIA} images"),
    ],
)
def test_parts_that_are_wrong(content: Any, complaint: str) -> None:
    with pytest.raises(InvalidValue, match=rf"^messages.*{complaint}") as caught:
        chat(messages=[{"role": "user", "content": content}])
    assert caught.value.param == "messages"


def test_a_part_of_an_unknown_type_names_the_known_ones() -> None:
    with pytest.raises(ValidationError, match=r"'input_audio'.*text, image_url, video_url"):
        chat(messages=[{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}])


@pytest.mark.parametrize("others", [{}, {"prompt_token_ids": [1]}, {"disable_chat_template": True}])
def test_a_model_is_sent_no_media_that_it_does_not_read(others: dict[str, Any]) -> None:
    """Also where messages are not the prompt."""
    video = [{"role": "user", "content": {"type": "video_url", "video_url": URL}}]
    for messages, modalities, complaint in (
        (pictured(URL), ("text",), r"messages\[0\]\.content\[0\].*reads text, and no images"),
        (video, ("text", "image"), r"messages\[0\]\.content: .*reads text and images, and no videos"),
    ):
        with pytest.raises(InvalidValue, match=f"^{complaint}") as caught:
            chat_to_wire(chat(messages=messages, **others), RequestContext("r", 1000, 8, modalities=modalities))
        assert caught.value.param == "messages"


def test_what_is_not_known_of_an_engine_that_starts_is_left_to_it() -> None:
    [wire] = chat_to_wire(chat(messages=pictured(*[URL] * 5)), RequestContext("r", 1000, 8))
    assert wire.messages is not None


def test_too_many_media() -> None:
    chat_to_wire(chat(messages=pictured(URL, URL)), SEEING)
    chat_to_wire(chat(messages=[{"role": "user", "content": [{"type": "video", "video": URL}] * 3}]), SEEING)
    complaint = "^Too many image items in prompt, got 3 but limit is 2;.*--limit-mm-per-prompt"
    with pytest.raises(InvalidValue, match=complaint) as caught:
        chat_to_wire(chat(messages=[*pictured(URL, URL), *MESSAGES, *pictured(URL)]), SEEING)
    assert caught.value.param == "messages"


def test_options_of_all_media_of_a_request() -> None:
    options = {"max_pixels": 1_003_520, "video_fps": 1}
    for body in (chat(mm_processor_kwargs=options), chat(metadata={"mm_processor_kwargs": options})):
        [wire] = chat_to_wire(body, SEEING)
        assert conversation(wire)["mm_processor_kwargs"] == options
    assert "mm_processor_kwargs" not in conversation(chat_to_wire(chat(), SEEING)[0])
    for wrong in ({"size": 5}, {"max_pixels": 0}, {"image_fps": 1}):
        with pytest.raises(InvalidValue, match=next(iter(wrong))) as caught:
            chat_to_wire(chat(mm_processor_kwargs=wrong), SEEING)
        assert caught.value.param == "mm_processor_kwargs"


def test_media_are_no_prompt_without_the_template() -> None:
    with pytest.raises(InvalidValue, match="disable_chat_template"):
        chat_to_wire(chat(messages=pictured(URL), disable_chat_template=True), SEEING)

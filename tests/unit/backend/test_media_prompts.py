"""Conversations with media: what templates make of them, and their tokens, places and experts."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.chat.media_text import placeholders
from ernie_backend.chat.template import BUILT_IN, ChatTemplate
from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.config.generation_config import GenerationConfig
from ernie_backend.engine.input_processor import InputProcessor
from ernie_backend.engine.media_inputs import MediaInputs, PlacedMedia
from ernie_backend.errors import StartError
from ernie_backend.request.media import MediaItem, MediaSpan
from ernie_backend.request.sequence import Sequence
from ernie_backend.settings.engine_settings import MediaSettings
from ernie_backend.settings.media_values import PromptLimits
from ernie_wire.errors import ChatTemplateFailed, ContextLengthExceeded, InvalidRequest, InvalidValue
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters
from support.paths import DATA
from support.vision_model import CHECKPOINTS, OCR, TEMPLATES, VL, media_item, vision_model

TOKENIZER = Tokenizer.from_directory(DATA / "vl_moe")
IMG, VID = (
    "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
    "<|VIDEO_START|><|VIDEO_PLACEHOLDER|><|VIDEO_END|>",
)
BEGIN = "<|begin_of_sentence|>"
PLACEHOLDER = 21
ALL = ("text", "image", "video")
IMAGE: dict[str, Any] = {"type": "image_url", "image_url": {"media": 0}}
SMALL, WIDE, VIDEO = (
    media_item("image", (1, 2, 2)),
    media_item("image", (1, 2, 8), 1),
    media_item("video", (4, 4, 4), 2),
)


def image(index: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"media": index}}


def video(index: int, **more: object) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"media": index, **more}}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def said(role: str, *parts: dict[str, Any] | str, **more: object) -> dict[str, Any]:
    return {"role": role, "content": parts[0] if isinstance(parts[0], str) else list(parts), **more}


@cache
def template(form: str, source: str | None = None) -> ChatTemplate:
    """Return a template of ours, or another text with the special tokens and the family of its model."""
    architecture = OCR if form.startswith("paddleocr") else VL
    given = source or (TEMPLATES / f"{form}.jinja").read_text()
    return ChatTemplate.from_directory(CHECKPOINTS[form], given, architecture)


def rendered(form: str, *messages: dict[str, Any], source: str | None = None, **more: Any) -> str:
    modalities = ("text", "image") if form.startswith("paddleocr") else ALL
    chat = template(form, source).render(
        {"messages": list(messages), **more}, num_media=9, modalities=modalities
    )
    return chat.text


def processor(
    form: str = "ernie-4.5-vl", max_model_len: int = 256, boundary_experts: str = "vision"
) -> InputProcessor:
    is_ocr = form.startswith("paddleocr")
    media = MediaInputs.load(
        CHECKPOINTS[form],
        OCR if is_ocr else VL,
        TOKENIZER,
        ALL[:2] if is_ocr else ALL,
        MediaSettings(limit_mm_per_prompt=PromptLimits(image=3), mm_boundary_experts=boundary_experts),
    )
    return InputProcessor(TOKENIZER, template(form), GenerationConfig(), max_model_len, 640, media=media)


def request(*messages: dict[str, Any], media: int = 1, **more: Any) -> GenerateRequest:
    conversation = {"messages": list(messages), **more.pop("conversation", {})}
    files = tuple(bytes([index + 1]) for index in range(media))
    return GenerateRequest("r", messages=json.dumps(conversation).encode(), media=files, **more)


def sequence(asked: GenerateRequest, *items: MediaItem, form: str = "ernie-4.5-vl", **more: Any) -> Sequence:
    return processor(form, **more).process(asked, items).sequence


# Templates


def test_the_prompts_of_ernie_vl() -> None:
    on: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": True}}
    picture = said("user", image(0), text("what?"))
    assert rendered("ernie-4.5-vl", said("user", "Hi"), **on) == f"{BEGIN}User: Hi\nAssistant: <think>"
    off = f"{BEGIN}User: Hi\nAssistant: <think>\n\n</think>\n\n"
    assert rendered("ernie-4.5-vl", said("user", "Hi")) == off
    expected = f"{BEGIN}SYS\nUser: Picture 1:{IMG}what?\nAssistant: <think>"
    assert rendered("ernie-4.5-vl", said("system", "SYS"), picture, **on) == expected
    turns = (
        said("user", image(0), image(1), video(2), text("q")),
        said("assistant", "b", reasoning_content="r"),
        said("user", text("z"), image(3)),
    )
    assert rendered("ernie-4.5-vl", *turns, **on) == (
        f"{BEGIN}User: Picture 1:{IMG}Picture 2:{IMG}Video 1:{VID}q\nAssistant: <think>\nr\n</think>\nb"
        f"<|end_of_sentence|>User: zPicture 3:{IMG}\nAssistant: <think>"
    )


def test_the_prompts_of_ernie_vl_thinking() -> None:
    subtitled = video(1, subtitles=[["hi", 0, 1.25], ["yo", 2, 3]])
    turn = said("user", image(0), text("hello"), subtitled, text("q"), image(2))
    system = (
        "You are a multimodal AI assistant called ERNIE developed by Baidu based on the PaddlePaddle framework."
    )
    asked = f" Picture 1:{IMG}hello Video 1:{VID} :[0.0,1.2]hi[2.0,3.0]yo q Picture 2:{IMG}"
    expected = f"{BEGIN}{system}\nUser: {asked}\nAssistant:\n<think>\n"
    assert rendered("ernie-4.5-vl-thinking", turn) == expected
    call = {"type": "function", "function": {"name": "crop", "arguments": "{}"}}
    turns = (
        said("system", "S"),
        said("user", image(0), text("a")),
        said("assistant", "", tool_calls=[call]),
        said("tool", text("cut:"), image(1)),
        said("user", image(2)),
    )
    assert rendered("ernie-4.5-vl-thinking", *turns) == (
        f"{BEGIN}S\nUser:  Picture 1:{IMG}a\nAssistant: "
        '<tool_call>\n{"name": "crop", "arguments": {}}\n</tool_call><|end_of_sentence|>'
        f"User: <tool_output>\ncut: Picture:{IMG}\n</tool_output>\n"
        f"User:  Picture 2:{IMG}\nAssistant:\n<think>\n"
    )


@pytest.mark.parametrize(
    ("form", "begin"), [("paddleocr-vl", "Assistant: "), ("paddleocr-vl-1.5", "Assistant:\n")]
)
def test_the_prompts_of_paddleocr_vl(form: str, begin: str) -> None:
    page = said("user", image(0), text("OCR:"))
    assert rendered(form, page) == f"{BEGIN}User: {IMG}OCR:\n{begin}"
    turns = (said("system", "S"), said("user", text("a"), image(0), image(1)), said("assistant", "b"), page)
    expected = f"{BEGIN}S\nUser: {IMG}{IMG}a\n{begin}b</s>User: {IMG}OCR:\n{begin}"
    assert rendered(form, *turns) == expected


LOOP = "{%- for m in messages %}{{ m.role }}:{% for c in m['content'] %}"
ENDS = "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %};{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        LOOP + "{% if c['type'] == 'image' %}<|IMAGE_PLACEHOLDER|>" + ENDS,
        LOOP + "{% if c['type'] == 'image_url' %}{{ '<|image@placeholder|>' }}" + ENDS,
        LOOP + "{% if c['type'] in ['image', 'image_url'] %}{{ image_token }}" + ENDS,
        LOOP + "{% if 'image' in c or 'image_url' in c %}<|IMAGE_PLACEHOLDER|>" + ENDS,
        LOOP + "{% if c['image_url'] is defined %}<|IMAGE_PLACEHOLDER|>" + ENDS,
    ],
)
def test_every_spelling_of_parts_that_templates_read(source: str) -> None:
    turns = (said("system", "S"), said("user", text("a"), image(0), text("b")), said("assistant", text("c")))
    wrote = "<|image@placeholder|>" if "@" in source else "<|IMAGE_PLACEHOLDER|>"
    assert rendered("ernie-4.5-vl", *turns, source=source) == f"system:S;user:a{wrote}b;assistant:c;"


def test_a_template_may_read_parts_in_one_branch_and_text_in_another() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}{% for c in m.content %}{% if c.type == 'image' %}"
        "<|IMAGE_PLACEHOLDER|>{% else %}{{ c.text }}{% endif %}{% endfor %}{% else %}"
        "{{ '[' + m.content + ']' }}{% endif %}{% endfor %}"
    )
    turns = (said("user", text("a"), image(0)), said("assistant", "</think>b"), said("user", "c"))
    assert rendered("ernie-4.5-vl", *turns, source=source) == "a<|IMAGE_PLACEHOLDER|>[</think>b]c"
    with pytest.raises(ChatTemplateFailed):
        rendered("ernie-4.5-vl", said("assistant", image(0)), source=source)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (
            "ernie-4.5-vl",
            f"S\nUser: Picture 1:{IMG}aVideo 1:{VID}\nAssistant: b<|end_of_sentence|>User: Picture 2:{IMG}",
        ),
        ("paddleocr-vl", None),
    ],
)
def test_a_template_of_text_gets_the_places_of_media_as_its_own_text(form: str, expected: str | None) -> None:
    turns = (said("system", "S"), said("user", image(0), text("a"), video(1)), said("assistant", "b"))
    last = said("user", image(2))
    if expected is None:
        one = said("user", text("a"), image(0))
        assert rendered(form, one, source=BUILT_IN) == f"{BEGIN}User: a{IMG}\nAssistant: "
    else:
        assert rendered(form, *turns, last, source=BUILT_IN) == f"{BEGIN}{expected}\nAssistant: "


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{{ messages[0].content[0].text }}", "1 image, .* writes 0 places"),
        (
            "{% for c in messages[0].content if c.type == 'image' %}"
            + "<|IMAGE_PLACEHOLDER|>" * 2
            + "{% endfor %}",
            "2 places",
        ),
        (
            "{% if messages[0].content.type == 'image' %}{% endif %}<|VIDEO_PLACEHOLDER|>",
            "1 image, .* 0 places",
        ),
    ],
)
def test_a_template_that_drops_or_doubles_a_medium_is_refused(source: str, complaint: str) -> None:
    with pytest.raises(InvalidValue, match=complaint) as caught:
        rendered("ernie-4.5-vl", said("user", image(0)), source=source)
    assert caught.value.param == "messages"


def test_ernie_vl_s_template_leaves_out_results_of_tools() -> None:
    with pytest.raises(InvalidValue, match="such as system or tool"):
        rendered("ernie-4.5-vl", said("user", "a"), said("tool", image(0)))


@pytest.mark.parametrize(
    ("name", "architecture", "form"),
    [
        ("ERNIE-4.5-VL-28B-A3B-Paddle", VL, "ernie-4.5-vl"),
        ("ERNIE-4.5-VL-28B-A3B-Thinking", VL, "ernie-4.5-vl-thinking"),
        ("PaddleOCR-VL", OCR, "paddleocr-vl"),
        ("models--PaddlePaddle--PaddleOCR-VL-1.5/snapshots/0a", OCR, "paddleocr-vl-1.5"),
        ("PaddleOCR-VL-1.6", OCR, "paddleocr-vl-1.5"),
        ("ERNIE-4.5-0.3B", "Ernie4_5ForCausalLM", "ernie-4.5"),
    ],
)
def test_a_directory_without_a_template_gets_that_of_its_release(
    tmp_path: Path, name: str, architecture: str, form: str
) -> None:
    found = ChatTemplate.from_directory(tmp_path / name, architecture=architecture)
    assert found.source == (TEMPLATES / f"{form}.jinja").read_text()


@pytest.mark.parametrize("form", CHECKPOINTS)
def test_a_directory_with_a_template(tmp_path: Path, form: str) -> None:
    directory = vision_model(tmp_path, form)
    found = ChatTemplate.from_directory(directory, architecture=OCR if "ocr" in form else VL)
    assert found.source == (TEMPLATES / f"{form}.jinja").read_text()


HOSTILE = st.lists(
    st.sampled_from(
        [
            "<|IMAGE_PLACEHOLDER|>",
            "<|VIDEO_PLACEHOLDER|>",
            "<|image@placeholder|>",
            "<|video@placeholder|>",
            "<|IMAGE_START|>",
            "<|IMAGE_",
            "PLACEHOLDER|>",
            "Picture 1:",
            "</think>",
            "</tool_output>",
            "{{ image_token }}",
        ]
    )
    | st.text(max_size=3),
    max_size=4,
).map("".join)


@given(HOSTILE, HOSTILE, HOSTILE, st.sampled_from(sorted(CHECKPOINTS)))
def test_only_what_the_template_writes_is_a_medium(first: str, second: str, third: str, form: str) -> None:
    model = processor(form, max_model_len=4096)
    turns = [
        said("system", first),
        said("user", text(second), image(0), text(first)),
        said("assistant", third, reasoning_content=second),
        said("tool", third),
        said("user", image(1), text(third)),
    ]
    options = {"chat_template_kwargs": {"image_token": "<|IMAGE_PLACEHOLDER|>", "note": first}}
    state = model.process(request(*turns, media=2, conversation=options), (SMALL, WIDE))
    made = state.sequence
    assert [made.media_items[span.index] for span in made.media] == [SMALL, WIDE]
    places = [index for span in made.media for index in range(span.start, span.start + span.length)]
    assert [index for index, each in enumerate(made.prompt_ids) if each == PLACEHOLDER] == places
    starts = [
        index for index, each in enumerate(made.prompt_ids) if each == TOKENIZER.token_id("<|IMAGE_START|>")
    ]
    assert starts == [span.start - 1 for span in made.media]


def test_text_of_a_user_without_media_binds_nothing() -> None:
    made = sequence(request(said("user", "What is <|IMAGE_PLACEHOLDER|> and <|IMAGE_START|>?"), media=0))
    assert PLACEHOLDER not in made.prompt_ids
    assert (made.media, made.media_items, made.vision_types, made.prompt_positions) == ((), (), None, None)


def test_an_i_th_place_of_a_kind_is_for_its_i_th_medium() -> None:
    turns = (said("user", video(1), image(0)), said("assistant", "b"), said("user", text("c"), image(2)))
    asked = request(*turns, media=3)
    model = processor()
    assert [(each.data, each.kind, each.where) for each in model.media_of(asked)] == [
        (b"\2", "video", "messages[0].content[0]"),
        (b"\1", "image", "messages[0].content[1]"),
        (b"\3", "image", "messages[2].content[1]"),
    ]
    state = model.process(asked, (VIDEO, SMALL, WIDE))
    made = state.sequence
    assert made.media_items == (VIDEO, SMALL, WIDE)
    assert [span.length for span in made.media] == [8, 1, 4]
    output = state.finish_without_tokens()
    assert (output.num_image_tokens, output.num_video_tokens) == (5, 8)
    assert (state.finish_without_tokens().num_image_tokens, state.request_id) == (0, "r")
    # PaddleOCR-VL's template puts images before texts, and keeps their order.
    ocr = sequence(
        request(said("user", text("a"), image(0), image(1)), media=2), WIDE, SMALL, form="paddleocr-vl"
    )
    assert ocr.media_items == (WIDE, SMALL)
    assert ocr.vision_types is None


@pytest.mark.parametrize("role", ["system", "user"])
@pytest.mark.parametrize(
    "parts", [(IMAGE,), (IMAGE, text("a")), (text("a"), IMAGE), (text("a"), IMAGE, text("b"))]
)
@pytest.mark.parametrize("form", CHECKPOINTS)
def test_media_anywhere(form: str, role: str, parts: tuple[dict[str, Any], ...]) -> None:
    made = sequence(request(said("user", "q"), said("assistant", "b"), said(role, *parts)), WIDE, form=form)
    [span] = made.media
    assert made.prompt_ids[span.start : span.start + 4] == (PLACEHOLDER,) * 4
    assert made.prompt_ids.count(PLACEHOLDER) == 4


def test_a_continued_message_ends_with_its_media_or_after_them() -> None:
    more: dict[str, Any] = {"continue_final_message": True}
    for parts, end in (((IMAGE,), f"Picture 1:{IMG}"), ((IMAGE, text("and")), f"Picture 1:{IMG}and")):
        assert rendered("ernie-4.5-vl", said("user", *parts), **more) == f"{BEGIN}User: {end}"


# Tokens, places, experts


@pytest.mark.parametrize("name", ["vl_moe", "paddleocr_vl"])
def test_places_and_experts_are_those_of_the_goldens(name: str) -> None:
    golden = np.load(DATA / f"{name}.npz")
    cases = sorted({key.partition(".")[0] for key in golden.files if key.endswith(".position_ids")})
    assert len(cases) >= 4
    model = processor("ernie-4.5-vl" if name == "vl_moe" else "paddleocr-vl").media
    assert model is not None
    for case in cases:
        ids = golden[f"{case}.input_ids"]
        ids = np.where(np.isin(ids, [PLACEHOLDER, 37]), PLACEHOLDER, ids)  # HF's own token for videos
        grids = [
            (kind, tuple(row))
            for kind in ("image", "video")
            for row in golden.get(f"{case}.{kind}_grid_thw", np.empty((0, 3))).tolist()
        ]
        items = tuple(media_item(kind, grid) for kind, grid in grids)
        begins = np.flatnonzero((ids == PLACEHOLDER) & (np.roll(ids, 1) != PLACEHOLDER)).tolist()
        spans = tuple(
            MediaSpan(index, begin, item.num_tokens)
            for index, (begin, item) in enumerate(zip(begins, items, strict=True))
        )
        placed = PlacedMedia(items, spans)
        positions = placed.positions(len(ids))
        expected = golden[f"{case}.position_ids"]
        assert np.array_equal(
            expected, np.arange(len(ids))[None].repeat(3, 0) if positions is None else positions
        )
        types = model.vision_types(tuple(ids.tolist()), placed)
        if f"{case}.moe_mm_token_type_ids" in golden:
            assert types is not None
            assert np.array_equal(types, golden[f"{case}.moe_mm_token_type_ids"] > 0), case
        else:
            assert types is None


@pytest.mark.parametrize(
    ("kind", "grid", "time", "height", "after"),
    [
        ("image", (1, 4, 6), [3] * 6, [3, 3, 3, 4, 4, 4], [6, 7]),
        ("video", (4, 4, 4), [3] * 4 + [4] * 4, [3, 3, 4, 4] * 2, [5, 6]),
        ("video", (10, 2, 2), [3, 4, 5, 6, 7], [3] * 5, [8, 9]),  # after the longest axis, which is time
    ],
)
def test_places_of_a_medium_between_texts(
    kind: str, grid: tuple[int, int, int], time: list[int], height: list[int], after: list[int]
) -> None:
    item = media_item(kind, grid)
    number = item.num_tokens
    places = PlacedMedia((item,), (MediaSpan(0, 3, number),)).positions(3 + number + 2)
    assert places is not None
    assert places[:, :3].tolist() == [[0, 1, 2]] * 3
    assert [places[0, 3:-2].tolist(), places[1, 3:-2].tolist()] == [time, height]
    assert places[:, -2:].tolist() == [after] * 3


def test_tokens_around_media_go_to_the_experts_of_vision_by_one_switch() -> None:
    asked = request(said("user", IMAGE, text("a")))
    around, alone = (sequence(asked, SMALL, boundary_experts=experts) for experts in ("vision", "text"))
    assert around.vision_types is not None
    assert alone.vision_types is not None
    [span] = around.media
    assert np.flatnonzero(around.vision_types).tolist() == [span.start - 1, span.start, span.start + 1]
    assert np.flatnonzero(alone.vision_types).tolist() == [span.start]


def test_tokens_of_another_model_are_refused(tmp_path: Path) -> None:
    directory = vision_model(tmp_path, "ernie-4.5-vl")
    config = json.loads((directory / "config.json").read_text())

    def load(**fields: int) -> MediaInputs:
        (directory / "config.json").write_text(json.dumps({**config, **fields}))
        return MediaInputs.load(directory, VL, TOKENIZER, ALL, MediaSettings())

    assert load().placeholder_id == PLACEHOLDER
    for name in ("image_token_id", "im_patch_id", "video_end_token_id"):
        with pytest.raises(StartError, match=rf"{name} is 99, but <\|.* token \d+ of the tokenizer"):
            load(**{name: 99})
    without = Tokenizer.from_directory(DATA / "vl_moe")
    del without._ids["<|IMAGE_PLACEHOLDER|>"]
    for name in list(config):
        if name.endswith("_token_id"):
            del config[name]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(StartError, match="which stands for media"):
        MediaInputs.load(directory, VL, without, ALL, MediaSettings())


# What is refused


def refused(model: InputProcessor, asked: GenerateRequest, complaint: str, param: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        model.media_of(asked)
    assert caught.value.param == param


def test_media_that_are_refused() -> None:
    model, ocr = processor(), processor("paddleocr-vl")
    refused(
        model, request(*[said("user", image(0))] * 4), r"4 images; at most 3 .*limit_mm_per_prompt", "messages"
    )
    refused(model, request(said("user", video(0), video(0))), "2 videos; at most 1", "messages")
    refused(
        ocr, request(said("user", video(0))), "'video_url'; this model takes text and images only", "messages"
    )
    refused(model, request(said("user", image(1))), "media has 1 buffers", "messages")
    late = (said("user", image(0)), said("system", image(0)))
    refused(model, request(*late), "a system message with media comes first", "messages")
    refused(model, request(said("user", image(0)), media=2), r"media\[1\] has no part", "media")
    audio = {"type": "input_audio", "input_audio": {"media": 0}}
    refused(model, request(said("user", audio)), "text and images and videos only", "messages")
    for name in ("text_input", "input_ids"):
        prompt: dict[str, Any] = {name: "a" if name == "text_input" else (5,)}
        refused(model, GenerateRequest("r", media=(b"x",), **prompt), f"media needs messages.*{name}", "media")
    asked = request(said("user", image(0)), conversation={"mm_processor_kwargs": {"size": 1}})
    refused(model, asked, "size is not an option", "mm_processor_kwargs")


def test_options_of_a_part_win_over_those_of_its_request() -> None:
    parts = (image(0), {"type": "image_url", "image_url": {"media": 0, "max_pixels": 9000}}, video(0, fps=1))
    kwargs = {"max_pixels": 5000, "video_fps": 4}
    asked = request(said("user", *parts), conversation={"mm_processor_kwargs": kwargs})
    assert [each.options for each in processor().media_of(asked)] == [
        {"max_pixels": 5000},
        {"max_pixels": 9000},
        {"max_pixels": 5000, "fps": 1},
    ]


def test_a_prompt_that_is_too_long_says_how_much_of_it_are_media() -> None:
    large = media_item("image", (1, 20, 40))
    asked = request(said("user", image(0), text("a"), video(1)), media=2)
    with pytest.raises(ContextLengthExceeded, match=r"1 image and 1 video of 208 tokens"):
        processor(max_model_len=210).process(asked, (large, VIDEO))
    with pytest.raises(ContextLengthExceeded, match=r"or more .* 1 image and 1 video of 208 tokens"):
        processor(max_model_len=200).process(asked, (large, VIDEO))
    processor(max_model_len=256).process(asked, (large, VIDEO))


def test_a_prompt_is_truncated_up_to_its_first_medium() -> None:
    before = text("word " * 40)
    whole = sequence(request(said("user", before, image(0), text("after"))), WIDE)
    [span] = whole.media
    size = len(whole.prompt_ids)
    for num_kept in (size - span.start, size - span.start + 3):
        sampling = SamplingParameters(truncate_prompt_tokens=num_kept)
        made = sequence(request(said("user", before, image(0), text("after")), sampling=sampling), WIDE)
        assert made.prompt_ids == whole.prompt_ids[-num_kept:]
        [moved] = made.media
        assert made.prompt_ids[moved.start : moved.start + moved.length] == (PLACEHOLDER,) * 4
        assert made.prompt_positions is not None
        assert made.vision_types is not None
        assert made.prompt_positions.shape == (3, num_kept)
        assert made.vision_types.shape == (num_kept,)
    for num_kept in (1, size - span.start - 1):
        sampling = SamplingParameters(truncate_prompt_tokens=num_kept)
        with pytest.raises(
            InvalidValue, match="would cut a medium: the prompt has 1 image of 4 tokens"
        ) as caught:
            sequence(request(said("user", before, image(0), text("after")), sampling=sampling), WIDE)
        assert caught.value.param == "truncate_prompt_tokens"


def test_pseudo_tokens_are_places_only_where_the_template_wrote_them() -> None:
    source = "{{ messages[0].content }}<|video@placeholder|><|VIDEO_START|><|IMAGE_PLACEHOLDER|>"
    chat = ChatTemplate(source, {}).render({"messages": [said("user", "<|image@placeholder|>")]})
    assert [
        (each.kind, chat.text[each.start : each.end]) for each in placeholders(chat.text, chat.origins)
    ] == [
        ("video", "<|video@placeholder|>"),
        ("video", "<|IMAGE_PLACEHOLDER|>"),
    ]

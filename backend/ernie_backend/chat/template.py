"""The chat template: messages to the text of a prompt, which knows what the template wrote.

The directory's own template is rendered (``chat_template.jinja``, ``chat_template.json``, or ``chat_template``
in ``tokenizer_config.json``); without one, a built-in template, which the architecture decides. They run
in the sandbox of ``template_environment.py``.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.meta import find_undeclared_variables

from ernie_backend.chat.media_text import FAMILIES, counted, placeholders
from ernie_backend.chat.messages import media_of, normalize_messages
from ernie_backend.chat.template_content import TemplateContent
from ernie_backend.chat.template_environment import TemplateEnvironment, TemplateRefusal
from ernie_backend.chat.template_text import joined, origins_of, template_written
from ernie_backend.config.fields import read_json_object
from ernie_backend.errors import StartError
from ernie_wire.checks import check_flag
from ernie_wire.conversation import thinking_switch
from ernie_wire.errors import ChatTemplateFailed, InvalidValue

logger = logging.getLogger(__name__)

_COMPILED_NAME = "<template>"
"""What jinja2 names the file of a template that was given as text."""

_TEMPLATES = Path(__file__).with_name("templates")
BUILT_IN = (_TEMPLATES / "ernie-4.5.jinja").read_text(encoding="utf-8")
"""The template of the text models."""
_RELEASES = {
    "Ernie4_5_VLMoeForConditionalGeneration": (("thinking", "ernie-4.5-vl-thinking"), ("", "ernie-4.5-vl")),
    "PaddleOCRVLForConditionalGeneration": (("paddleocr-vl-1.", "paddleocr-vl-1.5"), ("", "paddleocr-vl")),
}
"""By architecture: what the path of a release has in it, and the name of its template; the first that fits."""


@dataclass(frozen=True)
class RenderedChat:
    """The prompt of a chat.

    Attributes:
        text: the whole prompt.
        origins: a byte per character of it, 1 where the template wrote it and 0 where the client did.
    """

    text: str
    origins: bytes


class ChatTemplate:
    """A compiled template and the special tokens it may name.

    Attributes:
        source: its Jinja text.
        variables: names that it reads and does not set itself.
        special_tokens: texts of the model's special tokens by name.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        where: str = "the chat template",
        media_texts: Mapping[str, str] | None = None,
    ) -> None:
        """Compile ``source``; ``media_texts`` are those of ``MediaFamily``.

        Raises:
            StartError: the template is not valid; ``where`` says which one.
        """
        environment = TemplateEnvironment()
        try:
            self._template: Template = environment.from_string(source)
        except Exception as error:  # some faults of the syntax, such as a stray break, are found by Python only
            reason = error.msg if isinstance(error, SyntaxError) else error
            raise StartError(f"{where} is not a valid Jinja template: {reason}") from error
        self.source = source
        tree = environment.parse(source)
        self._content = TemplateContent(tree, media_texts or {})
        self.variables = frozenset(find_undeclared_variables(tree))  # which folds constants of the tree
        self.special_tokens = dict(special_tokens)
        # The operator ~ joins texts by this name of the compiled module, all else by the environment's concat.
        self._template.root_render_func.__globals__.update(str_join=joined)
        self._environment = environment
        self._special_tokens = template_written(self.special_tokens)
        self._where = where

    @classmethod
    def from_directory(cls, directory: Path, user_template: str = "", architecture: str = "") -> ChatTemplate:
        """Read the template of a model directory, or take the built-in one.

        Args:
            directory: of the model; its special tokens go with any template.
            user_template: the user's own template, which wins: the path of a file, or the Jinja text itself.
            architecture: of the model.

        Raises:
            StartError: a file cannot be read or the template is not valid.
        """
        family = FAMILIES.get(architecture)
        texts = None if family is None else family.texts
        config = read_json_object(directory / "tokenizer_config.json")
        specials = {
            name: text
            for name, value in config.items()
            if name.endswith("_token")
            and isinstance(text := value.get("content") if isinstance(value, dict) else value, str)
        }
        if "{" in user_template:
            return cls(user_template, specials, "the chat template given by chat_template", texts)
        path = Path(user_template) if user_template else directory / "chat_template.jinja"
        if user_template and not path.is_file():
            raise StartError(f"chat_template is {user_template!r}, neither a file nor a Jinja text")
        if path.is_file():
            return cls(_read_text(path), specials, str(path), texts)
        for name, values in (
            ("chat_template.json", read_json_object(directory / "chat_template.json")),
            ("tokenizer_config.json", config),
        ):
            source = _default_template(values.get("chat_template"))
            if source is not None:
                return cls(source, specials, f"chat_template in {directory / name}", texts)
        return cls(_built_in(architecture, directory), specials, media_texts=texts)

    def render(
        self,
        chat: Mapping[str, Any],
        *,
        thinks_by_default: bool | None = None,
        num_media: int = 0,
        modalities: Collection[str] = ("text",),
    ) -> RenderedChat:
        """Return the prompt of a chat; not for two threads at once.

        Args:
            chat: ``messages``, optional ``tools``, ``tool_choice``, ``chat_template_kwargs``,
                ``add_generation_prompt`` and ``continue_final_message``.
            thinks_by_default: whether an answer begins with thinking if the request does not say; None: as
                the template has it.
            num_media: buffers that parts may refer to.
            modalities: what the model reads.

        Raises:
            InvalidValue: the messages are wrong, or the template refuses them by ``raise_exception``, or it has
                not a place for each medium.
            ChatTemplateFailed: anything else that goes wrong in the template.
        """
        options = chat.get("chat_template_kwargs") or {}
        if not isinstance(options, dict):
            raise InvalidValue("chat_template_kwargs must be an object", "chat_template_kwargs")
        options = _switched(options, thinks_by_default)
        messages = normalize_messages(chat.get("messages"), num_media, modalities)
        is_continued = _flag(chat, "continue_final_message", default=False)
        add_generation_prompt = _flag(chat, "add_generation_prompt", default=not is_continued)
        if is_continued and add_generation_prompt:
            raise InvalidValue(
                "continue_final_message and add_generation_prompt are both true; the answer either continues "
                "the final message or begins a new one",
                "continue_final_message",
            )
        # Random, so that no text of a client contains it. Its space shows whether the template strips content.
        mark = f"[[{secrets.token_hex(16)}]] "
        if is_continued:
            content = messages[-1]["content"]
            messages[-1]["content"] = content + (mark if isinstance(content, str) else [mark])
        context = {
            "add_generation_prompt": add_generation_prompt,
            "documents": None,
            **self._special_tokens,
            **options,
            "chat_template_kwargs": options,
            # A role is one of ours, not the client's text: <|user|> may be made of it.
            "messages": [
                {**message, "role": template_written(message["role"])}
                for message in self._content.of_messages(messages)
            ],
            "tools": None if chat.get("tool_choice") == "none" else chat.get("tools") or None,
        }
        rendered = self._rendered(context)
        if is_continued:
            rendered = _before(mark, rendered)
        found = RenderedChat(str.__str__(rendered), origins_of(rendered))
        if "image" in modalities:
            self._check_media(found, [part.kind for part in media_of(messages)])
        return found

    def _check_media(self, rendered: RenderedChat, kinds: list[str]) -> None:
        """Check that the template wrote one place for each medium."""
        written = [each.kind for each in placeholders(rendered.text, rendered.origins)]
        for kind in ("image", "video"):
            given, places = kinds.count(kind), written.count(kind)
            if given != places:
                raise InvalidValue(
                    f"messages have {counted(given, kind)}, but the chat template writes "
                    f"{counted(places, 'place')} for such media: it may leave them out in messages of some "
                    "roles, such as system or tool; send them in a message of the user",
                    "messages",
                )

    def _rendered(self, context: Mapping[str, Any]) -> str:
        self._environment.start_clock()
        try:
            return self._template.render(context)
        except TemplateRefusal as error:
            raise InvalidValue(f"the chat template refuses these messages: {error}", "messages") from error
        except Exception as error:  # a template is a program: it may raise whatever Python does
            line = _template_line(error)
            logger.warning("%s fails on a request, in line %d: %s", self._where, line, type(error).__name__)
            raise ChatTemplateFailed(
                f"the chat template fails on this request, in line {line}: "
                f"{type(error).__name__}: {error}; fix the template, unless it needs something that the "
                "request leaves out"
            ) from error


def _built_in(architecture: str, directory: Path) -> str:
    """Return the template for a directory that has none: its path is all that tells releases apart."""
    for part, name in _RELEASES.get(architecture, ()):
        if part in str(directory.resolve()).lower():
            return (_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return BUILT_IN


def _switched(options: Mapping[str, Any], default: bool | None) -> Mapping[str, Any]:
    """Return the variables with the switch of thinking in both of the places where templates look for it."""
    requested = thinking_switch(options)
    is_on = default if requested is None else requested
    if is_on is None:
        return options
    inner = options.get("options")
    inner = {**(inner if isinstance(inner, dict) else {}), "thinking_mode": "open" if is_on else "close"}
    return {**options, "enable_thinking": is_on, "options": inner}


def _flag(chat: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = chat.get(name)
    if value is None:
        return default
    check_flag(name, value)
    return bool(value)


def _before(mark: str, prompt: str) -> str:
    """Return the part of a prompt before the mark, with a space, at the end of its final message.

    A template that strips the content has removed the space of the mark; the content then ends without spaces,
    as the template would have it, and as in transformers.
    """
    before, found, after = prompt.rpartition(mark.rstrip())
    if not found:
        raise InvalidValue(
            "continue_final_message is true, but the chat template leaves out the content of the final message",
            "continue_final_message",
        )
    return before if after.startswith(" ") else before.rstrip()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{path} cannot be read as UTF-8: {error}") from error


def _default_template(value: object) -> str | None:
    """Return a template given as text, or the one named ``default`` of a list of named ones."""
    if isinstance(value, list):
        named = {each.get("name"): each.get("template") for each in value if isinstance(each, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _template_line(error: Exception) -> int:
    """Return the innermost line of the template that an error came from."""
    lines = [
        line
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == _COMPILED_NAME
    ]
    return lines[-1] if lines else 1

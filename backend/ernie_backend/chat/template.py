"""The chat template: messages to the text of a prompt.

The directory's own template is rendered (``chat_template.jinja``, ``chat_template.json``, or ``chat_template``
in ``tokenizer_config.json``); without one, the built-in template of the ERNIE-4.5 text models. Templates run
in a sandbox. This module must not know tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ernie_backend.chat.messages import normalize_messages
from ernie_backend.errors import StartError
from ernie_backend.model_files import read_json_object
from ernie_wire.errors import InvalidValue

BUILT_IN = """\
{{- '<|begin_of_sentence|>' -}}
{%- for message in messages -%}
    {%- if message.role == 'system' -%}
        {{- message.content + '\\n' -}}
    {%- elif message.role == 'user' -%}
        {{- 'User: ' + message.content + '\\n' -}}
    {%- elif message.role == 'assistant' -%}
        {{- 'Assistant: ' + message.content + '<|end_of_sentence|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'Assistant: ' -}}
{%- endif -%}
"""


class ChatTemplate:
    """A compiled template and the special tokens it may name."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], where: str = "the chat template"
    ) -> None:
        """Compile ``source``.

        Raises:
            StartError: the template is not valid; ``where`` says which one.
        """
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        try:
            self._template: Template = environment.from_string(source)
        except TemplateError as error:
            raise StartError(f"{where} is not a valid Jinja template: {error}") from error
        self._special_tokens = dict(special_tokens)

    @classmethod
    def from_directory(cls, directory: Path, given: str = "") -> ChatTemplate:
        """Read the template of a model directory, or take the built-in one.

        Args:
            directory: of the model; its special tokens go with any template.
            given: the user's own template, which wins: the path of a file, or the Jinja text itself.

        Raises:
            StartError: a file cannot be read or the template is not valid.
        """
        config = read_json_object(directory / "tokenizer_config.json")
        specials = {
            name: text
            for name, value in config.items()
            if name.endswith("_token")
            and isinstance(text := value.get("content") if isinstance(value, dict) else value, str)
        }
        if "{" in given:
            return cls(given, specials, "the chat template given by chat_template")
        path = Path(given) if given else directory / "chat_template.jinja"
        if given and not path.is_file():
            raise StartError(f"chat_template is {given!r}, neither a file nor a Jinja text")
        if path.is_file():
            return cls(_read_text(path), specials, str(path))
        for name, values in (
            ("chat_template.json", read_json_object(directory / "chat_template.json")),
            ("tokenizer_config.json", config),
        ):
            source = _default_template(values.get("chat_template"))
            if source is not None:
                return cls(source, specials, f"chat_template in {directory / name}")
        return cls(BUILT_IN, specials)

    def render(self, chat: Mapping[str, Any]) -> str:
        """Return the prompt of a chat.

        Args:
            chat: ``messages``, optional ``tools`` and ``chat_template_kwargs``.

        Raises:
            InvalidValue: the messages are wrong, or the template refuses them.
        """
        options = chat.get("chat_template_kwargs") or {}
        if not isinstance(options, dict):
            raise InvalidValue("chat_template_kwargs must be an object", "chat_template_kwargs")
        context = {
            "add_generation_prompt": True,
            **self._special_tokens,
            **options,
            "chat_template_kwargs": options,
            "messages": normalize_messages(chat.get("messages")),
            "tools": chat.get("tools"),
        }
        try:
            return self._template.render(context)
        except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
            raise InvalidValue(f"the chat template refuses these messages: {error}", "messages") from error


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


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)

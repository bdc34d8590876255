r"""How a model's answers are written: their thinking, their calls of tools, and who parses them.

The names of the parsers are FastDeploy's. Without a setting the model decides: by the tags that its chat
template writes, if each is one token of its vocabulary.

    ernie-45-vl            thinking</think>answer
    ernie-45-vl-thinking   thinking\n</think>\n\nanswer
    ernie-x1               thinking\n</think>\n\n\n<response>\nanswer\n</response>\n

Calls of tools stand in place of the answer: <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ernie_backend.chat.template import ChatTemplate
from ernie_backend.chat.tokenizer import NullTokenizer, Tokenizer
from ernie_backend.errors import StartError
from ernie_backend.request.reasoning import ThinkTags
from ernie_backend.settings.engine_settings import AUTO_PARSER, ParserSettings

_THINKING, _CALLING = ("<think>", "</think>"), ("<tool_call>", "</tool_call>")
_SWITCHED = ("ernie-45-vl", "ernie-45-vl-thinking")
_CLOSING = {"ernie-x1": "\n</think>\n\n"}


@dataclass(frozen=True)
class AnswerFormat:
    """The format of a model's answers.

    Attributes:
        reasoning_parser, tool_call_parser: names of the parsers, or None.
        knows_tools: whether the template uses ``tools``.
        think_tags: None if the vocabulary has none.
        closing_ids: the tokens that end thinking which is too long; empty without ``think_tags``.
    """

    reasoning_parser: str | None = None
    tool_call_parser: str | None = None
    knows_tools: bool = False
    think_tags: ThinkTags | None = None
    closing_ids: tuple[int, ...] = ()

    @property
    def is_switched(self) -> bool:
        """Whether requests switch thinking off; else it is on, and limited by default, as in FastDeploy."""
        return self.reasoning_parser in _SWITCHED


def answer_format(
    settings: ParserSettings, template: ChatTemplate, tokenizer: Tokenizer | NullTokenizer
) -> AnswerFormat:
    """Return the format of a model's answers.

    Raises:
        StartError: a parser of the settings needs a tag that is not a token of the vocabulary.
    """
    ids = {tokenizer.token_bytes(each).decode(): each for each in tokenizer.structural_ids}
    reasoning, calls = _suggested(template.source)
    reasoning = _chosen("reasoning_parser", settings.reasoning_parser, reasoning, _THINKING, ids)
    calls = _chosen("tool_call_parser", settings.tool_call_parser, calls, _CALLING, ids)
    has_tags = all(tag in ids for tag in _THINKING)
    return AnswerFormat(
        reasoning,
        calls,
        knows_tools="tools" in template.variables,
        think_tags=ThinkTags(*(ids[tag] for tag in _THINKING)) if has_tags else None,
        closing_ids=tokenizer.encode(_CLOSING.get(reasoning or "", "</think>")) if has_tags else (),
    )


def _suggested(source: str) -> tuple[str | None, str | None]:
    """Return the parsers of thinking and of calls for what a template writes."""
    calling = "ernie-x1" if "<response>" in source else "ernie-45-vl-thinking"
    has_tools = "<tool_call>" in source or "<tool_list>" in source
    thinking = calling if has_tools or calling == "ernie-x1" else "ernie-45-vl"
    return thinking if "<think>" in source else None, calling if has_tools else None


def _chosen(
    name: str, given: str | None, suggested: str | None, tags: Iterable[str], known: Iterable[str]
) -> str | None:
    """Return the parser of a setting, or the suggested one if the vocabulary has its tags."""
    missing = [tag for tag in tags if tag not in known]
    if given != AUTO_PARSER:
        if given is not None and missing:
            raise StartError(
                f"{name} {given} needs {' and '.join(missing)} as single tokens, which this model's vocabulary "
                "does not have; leave it out, and the model decides"
            )
        return given
    return None if missing else suggested

"""Chat answers as FastDeploy and OpenAI write them: whole, or as the choices of a stream's chunks.

FastDeploy's clients expect of a stream that every delta has ``content`` and ``reasoning_content``, and that
only the opening chunk, which has no text, has a ``role`` (they skip the text of chunks with a role). OpenAI's
expect that the first part of a tool call has its id and name, and that a chunk has one part of one call.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from ernie_frontend.parsing.answer_parser import AnswerDelta, AnswerParser, ToolCall, parse_answer
from ernie_frontend.parsing.call_reader import ToolCallDelta
from ernie_frontend.translate.openai_logprobs import chat_logprobs, prompt_logprobs
from ernie_frontend.translate.response_context import ResponseContext, UsageCounter, end_of_choice
from ernie_frontend.translate.sse import ChunkShape
from ernie_wire.messages import Output


def chat_completion(
    response: ResponseContext, answers: Sequence[Output], usage: UsageCounter
) -> dict[str, Any]:
    """Return the whole answers, one choice for each."""
    choices = [_whole_choice(response, index, answer) for index, answer in enumerate(answers)]
    return {**response.to_object("chat.completion", choices), "usage": usage.to_json()}


def _whole_choice(response: ResponseContext, index: int, answer: Output) -> dict[str, Any]:
    parsed = parse_answer(response.form, answer.prompt_tag or "", answer)
    calls = [_whole_call(call) for call in parsed.tool_calls]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": parsed.content if parsed.content or not calls else None,
        "multimodal_content": None,
        "reasoning_content": parsed.reasoning or None,
        "tool_calls": calls or None,
        "prompt_token_ids": _listed(answer.prompt_ids),
        "completion_token_ids": list(answer.token_ids) if response.return_token_ids else None,
        "prompt_tokens": answer.prompt_text,
        "completion_tokens": answer.text if response.return_token_ids else None,
    }
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(response, answer),
        **_prompt_logprobs(response, answer),
        **_end(answer, has_calls=bool(calls)),
    }


class ChatChunks:
    """The choices of one streamed chat answer, chunk by chunk."""

    def __init__(self, response: ResponseContext, index: int) -> None:
        self._response = response
        self._index = index
        self._parser: AnswerParser | None = None

    def opening(self, first: Output) -> dict[str, Any]:
        """Return the choice of the first chunk: the role, and the prompt's data, which all choices share."""
        delta: dict[str, Any] = {
            "role": "assistant",
            "content": "",
            "reasoning_content": "",
            "tool_calls": None,
            "prompt_token_ids": _listed(first.prompt_ids),
            "completion_token_ids": None,
        }
        if self._response.return_token_ids:
            delta["prompt_tokens"] = first.prompt_text
        return {**self._choice(delta), **_prompt_logprobs(self._response, first)}

    def prompt(self, first: Output) -> None:
        """Return None: the opening has the data of the prompt."""

    def text(self, new: Output) -> list[dict[str, Any]]:
        """Return the choices with what an output adds to the answer; the first has the data of its tokens."""
        has_data = self._response.has_token_data(new)
        deltas = [delta for added in self._parse(new) for delta in _deltas(added)]
        if has_data and not deltas:
            deltas = [_delta("", "")]
        choices = [self._choice(delta) for delta in deltas]
        if has_data:
            if self._response.return_token_ids:
                deltas[0] |= {"completion_token_ids": list(new.token_ids), "completion_tokens": new.text}
            choices[0]["logprobs"] = _logprobs(self._response, new)
        return choices

    def finish(self, last: Output) -> dict[str, Any]:
        """Return the choice of the last chunk."""
        has_calls = self._parser is not None and bool(self._parser.completed_calls)
        return {**self._choice(_delta("", "")), **_end(last, has_calls=has_calls)}

    def _parse(self, new: Output) -> Iterator[AnswerDelta]:
        """Yield what an output adds to the answer, and after the last what was held back until the end."""
        if self._parser is None:
            self._parser = AnswerParser(self._response.form, new.prompt_tag or "")
        yield self._parser.push(new)
        if new.is_last:
            yield self._parser.finish()

    def _choice(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": None}


def _deltas(added: AnswerDelta) -> list[dict[str, Any]]:
    text = [_delta(added.content, added.reasoning)] if added.content or added.reasoning else []
    return [*text, *(_delta("", "", call) for call in added.tool_calls)]


def _delta(content: str, reasoning: str, call: ToolCallDelta | None = None) -> dict[str, Any]:
    delta: dict[str, Any] = {"content": content, "reasoning_content": reasoning or None}
    if call is not None:
        delta["tool_calls"] = [_call_delta(call)]
    return delta


def _call_delta(call: ToolCallDelta) -> dict[str, Any]:
    if call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {"index": call.index, **_whole_call(ToolCall(call.name, call.arguments))}


def _whole_call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-tool-{secrets.token_hex(16)}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _end(last: Output, *, has_calls: bool) -> dict[str, str | None]:
    end = end_of_choice(last)
    return {**end, "finish_reason": "tool_calls"} if has_calls and last.finish_reason == "stop" else end


def _logprobs(response: ResponseContext, new: Output) -> dict[str, Any] | None:
    return None if response.num_logprobs is None else chat_logprobs(new.logprobs or (), response.num_logprobs)


def _prompt_logprobs(response: ResponseContext, first: Output) -> dict[str, Any]:
    if response.num_prompt_logprobs is None:
        return {}
    return {"prompt_logprobs": prompt_logprobs(first.prompt_logprobs or (), response.num_prompt_logprobs)}


def _listed(token_ids: tuple[int, ...] | None) -> list[int] | None:
    return None if token_ids is None else list(token_ids)


CHUNKS = ChunkShape("chat.completion.chunk", ChatChunks, opens_single=True)

"""The responses as openapi.json describes them.

They are not instances of these classes: ``translate`` writes plain objects, which is faster for each chunk.
Tests validate real responses against them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]
ChatFinishReason = Literal["stop", "length", "tool_calls"]
StopReason = Annotated[
    Literal["repetition_detected"] | None,
    Field(description="why the finish_reason is length, if no limit of length is the cause; else missing"),
]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PromptTokensDetails(_Answer):
    """Kinds of the prompts' tokens."""

    cached_tokens: int = Field(description="found in the prefix cache")
    image_tokens: int = Field(description="tokens that stand for images")
    video_tokens: int = Field(description="tokens that stand for videos")


class CompletionTokensDetails(_Answer):
    """Kinds of the answers' tokens."""

    reasoning_tokens: int = Field(description="tokens of thinking and its tags")
    image_tokens: int
    accepted_prediction_tokens: int = Field(description="tokens guessed rightly (`--speculative-config`)")
    rejected_prediction_tokens: int = Field(description="wrong guesses, which are not in the answer")


class Usage(_Answer):
    """The tokens of a request; a prompt counts once, whatever the number of its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class ScoredToken(_Answer):
    """A token and its log probability."""

    token: str = Field(description="its text; incomplete characters are written bytes:\\xNN")
    logprob: float = Field(description="a natural logarithm")
    bytes: list[int]


class ChosenToken(ScoredToken):
    """A token of the answer, and the most likely tokens in its place."""

    top_logprobs: list[ScoredToken]


class ChatLogprobs(_Answer):
    """The log probabilities of a chat answer."""

    content: list[ChosenToken]


class CompletionLogprobs(_Answer):
    """The log probabilities of a completion, token by token; null where there is none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int] = Field(description="characters of the text before the token")


class RankedToken(_Answer):
    """A token of the prompt, or a likely one in its place."""

    logprob: float
    rank: int = Field(description="1 is the most likely")
    decoded_token: str


PromptLogprobs = list[dict[str, RankedToken] | None]


class CalledFunction(_Answer):
    """A function that the model calls."""

    name: str
    arguments: str = Field(description="a JSON object, as the model wrote it")


class ToolCall(_Answer):
    """A tool call."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessageAnswer(_Answer):
    """The message of an answer; the last four fields are null unless return_token_ids is true."""

    role: Literal["assistant"]
    content: str | None = Field(description="null only if there are tool calls and no text")
    multimodal_content: None
    reasoning_content: str | None = Field(description="what the model thought, without tags")
    tool_calls: list[ToolCall] | None = Field(description="null if there are none")
    prompt_token_ids: list[int] | None
    completion_token_ids: list[int] | None
    prompt_tokens: str | None = Field(description="the rendered prompt")
    completion_tokens: str | None = Field(description="the raw text of the answer")


class ChatChoice(_Answer):
    """One of the answers to a conversation."""

    index: int
    message: ChatMessageAnswer
    logprobs: ChatLogprobs | None
    prompt_logprobs: PromptLogprobs | None = Field(None, description="only if requested")
    finish_reason: ChatFinishReason
    stop_reason: StopReason = None


class _Head(_Answer):
    id: str
    created: int = Field(description="Unix time in seconds")
    model: str


class ChatCompletion(_Head):
    """A whole chat answer."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class FunctionDelta(_Answer):
    """A part of a call: the name, or the next characters of the arguments."""

    name: str | None = None
    arguments: str


class ToolCallDelta(_Answer):
    """A part of a tool call; only the first has id, type and name, and it has no arguments yet."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class ChatDelta(_Answer):
    """What a chunk adds to an answer; only the first chunk has the role."""

    role: Literal["assistant"] | None = None
    content: str
    reasoning_content: str | None
    tool_calls: list[ToolCallDelta] | None = Field(None, description="one part of one call")
    prompt_token_ids: list[int] | None = None
    completion_token_ids: list[int] | None = None
    prompt_tokens: str | None = None
    completion_tokens: str | None = None


class ChatChunkChoice(_Answer):
    """A choice in a chunk."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    prompt_logprobs: PromptLogprobs | None = Field(None, description="only in the first chunk")
    finish_reason: ChatFinishReason | None = Field(description="in the last chunk of the choice")
    stop_reason: StopReason = None


class ChatCompletionChunk(_Head):
    """The data of an event of a streamed chat answer; the last event's is [DONE]."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = Field(None, description="only if stream_options request it")


class CompletionChoice(_Answer):
    """One of the answers to a prompt, or what a chunk adds to it."""

    index: int = Field(description="answer i to prompt p has p * n + i")
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None = Field(description="null before the last chunk")
    stop_reason: StopReason = None
    prompt_logprobs: PromptLogprobs | None = Field(None, description="only if requested")
    prompt_token_ids: list[int] | None = Field(
        None, description="only with return_token_ids, as the next three"
    )
    prompt_tokens: str | None = None
    completion_token_ids: list[int] | None = None
    completion_tokens: str | None = None


class Completion(_Head):
    """A whole answer to prompts, or the data of an event of a streamed one; the last event's is [DONE]."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | None = Field(None, description="in a stream only if stream_options request it")


class ModelCard(_Answer):
    """A served model."""

    id: str = Field(description="the value for the field model of requests")
    object: Literal["model"]
    created: int = Field(description="Unix time of the start in seconds")
    owned_by: str
    root: str | None = Field(description="directory of its files")
    parent: None
    max_model_len: int | None = Field(description="length of its context in tokens")
    permission: list[None]
    architecture: str | None
    modalities: list[str] | None = Field(description="what it reads: text, image, video")
    limit_mm_per_prompt: dict[str, int] | None = Field(
        description="most images and videos of a request, by modality; empty if it reads text only"
    )
    dtype: str | None
    quantization: str | None


class ModelList(_Answer):
    """The served models."""

    object: Literal["list"]
    data: list[ModelCard]


class Version(_Answer):
    """The version of the server."""

    version: str


class TokenizedPrompt(_Answer):
    """The tokens of a prompt."""

    count: int
    max_model_len: int | None = Field(description="length of the model's context in tokens")
    tokens: list[int] = Field(description="their ids")
    token_strs: list[str] | None = Field(
        description="their texts with return_token_strs; incomplete characters are written bytes:\\xNN"
    )


class DetokenizedText(_Answer):
    """The text of token ids."""

    prompt: str


class TokenizerInfo(BaseModel):
    """The special tokens of a model, also others than these, and its chat template."""

    eos_token: str | None
    bos_token: str | None
    pad_token: str | None
    chat_template: str = Field(description="a Jinja text")
    model_max_length: int = Field(description="length of the model's context in tokens")


class ErrorDetail(_Answer):
    """An error."""

    message: str = Field(description="the value, the limit, and how to fix it")
    type: str
    param: str | None = Field(description="the field at fault")
    code: str = Field(description="the error's name, the same in HTTP, gRPC and the log")


class ErrorAnswer(_Answer):
    """The envelope of every error."""

    error: ErrorDetail

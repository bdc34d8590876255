"""The messages of the stub and the engine, as frozen dataclasses, and their form in a frame.

    stub -> engine   GenerateRequest, Cancel, Shutdown
    engine -> stub   Starting now and then, Ready or StartFailed, then Outputs, Heartbeat and Alive until the
                     socket ends; Fault at any time
    stub -> frontend Connected, then Outputs, if both are on one machine

The end of the socket is a message, too: then the engine exits, and the stub restarts the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TypeVar, get_args

from ernie_wire.codec import Codec
from ernie_wire.errors import InvalidValue
from ernie_wire.frames import FrameError, pack_frame, unpack_frame
from ernie_wire.logprobs import Logprobs
from ernie_wire.marked_text import Mark, joined
from ernie_wire.sampling import SamplingParameters
from ernie_wire.status import Description, Stats

Value = TypeVar("Value")

ALIVE_S = 0.5
MAX_CACHE_SALT_CHARACTERS = 1024
MAX_MEDIA, MAX_MEDIUM_BYTES, MAX_MEDIA_BYTES = 256, 64 << 20, 128 << 20


@dataclass(frozen=True)
class GenerateRequest:
    """One request for text. Exactly one of the three prompts is set.

    Its fields have the names of the tensors that they travel in (``tensors``); ``sampling`` is the decoded
    ``sampling_parameters``.

    Attributes:
        request_id: unique among the requests in flight.
        text_input: a raw prompt.
        input_ids: a prompt as token ids.
        messages: JSON of a conversation (docs/wire.md), which only the engine reads.
        media: buffers that parts of the messages refer to: ``{"type": "image_url", "image_url": {"media":
            0}}``.
        stream: return text as it is generated; otherwise once, at the end.
        sampling: the sampling parameters.
        exclude_input_in_output: the answer does not begin with ``text_input``.
        return_finish_reason, return_num_input_tokens, return_num_output_tokens, return_token_ids,
            return_prompt_bytes, return_cumulative_logprob, return_logprobs, return_marks: optional parts of the
            answer.
        return_outputs: return the ``Output``s as they are, as one frame (``pack_outputs``).
        priority: lower values are scheduled first, equal ones in order of arrival.
        cache_salt: only requests with the same salt share the prefix cache.
        deliver_to: a connection of ``local_outputs`` that gets the outputs; Triton's responses then have none.
    """

    request_id: str
    text_input: str | None = None
    input_ids: tuple[int, ...] | None = None
    messages: bytes | None = None
    media: tuple[bytes, ...] = ()
    stream: bool = False
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    exclude_input_in_output: bool = False
    return_finish_reason: bool = False
    return_num_input_tokens: bool = False
    return_num_output_tokens: bool = False
    return_token_ids: bool = False
    return_prompt_bytes: bool = False
    return_cumulative_logprob: bool = False
    return_logprobs: bool = False
    return_marks: bool = False
    return_outputs: bool = False
    priority: int = 0
    cache_salt: str = ""
    deliver_to: str = ""

    def __post_init__(self) -> None:
        """Check that there is exactly one prompt, and the limits of salt and media."""
        if len(self.cache_salt) > MAX_CACHE_SALT_CHARACTERS or not self.cache_salt.isprintable():
            raise InvalidValue(
                f"cache_salt has {len(self.cache_salt)} characters; it must have at most "
                f"{MAX_CACHE_SALT_CHARACTERS}, all of them printable",
                "cache_salt",
            )
        prompts = self._prompts()
        if len(prompts) != 1:
            what = f"got {' and '.join(prompts)}" if prompts else "got none of them"
            raise InvalidValue(f"give exactly one of text_input, input_ids and messages; {what}", "text_input")
        _check_media(self.media)

    @property
    def prompt_bytes(self) -> int:
        """Approximate size of the prompt in memory, with its media."""
        texts = len(self.text_input or "") + len(self.messages or b"")
        return texts + self.media_bytes + 4 * len(self.input_ids or ())

    @property
    def media_bytes(self) -> int:
        """Size of the media."""
        return sum(map(len, self.media))

    @property
    def prompt_field(self) -> str:
        """The name of the field that holds the prompt."""
        return self._prompts()[0]

    def without_prompt(self) -> GenerateRequest:
        """Return the request with an empty prompt, to be kept until the end of the answer."""
        empty = type(getattr(self, self.prompt_field))()
        return replace(self, media=(), **{self.prompt_field: empty})

    def _prompts(self) -> list[str]:
        return [name for name in ("text_input", "input_ids", "messages") if getattr(self, name) is not None]


def _check_media(media: tuple[bytes, ...]) -> None:
    if len(media) > MAX_MEDIA:
        raise InvalidValue(f"media holds {len(media)} buffers; at most {MAX_MEDIA} are allowed", "media")
    for index, medium in enumerate(media):
        if not 0 < len(medium) <= MAX_MEDIUM_BYTES:
            raise InvalidValue(
                f"media[{index}] has {len(medium)} bytes; each must have 1 to {MAX_MEDIUM_BYTES}", "media"
            )
    total = sum(map(len, media))
    if total > MAX_MEDIA_BYTES:
        raise InvalidValue(f"media has {total} bytes; at most {MAX_MEDIA_BYTES} are allowed", "media")


@dataclass
class Output:
    """The output of one or several steps for one request, on its way from the engine to the client.

    It is not frozen, since there is one for every token: freezing would take longer than making it.

    Attributes:
        request_id: of the request.
        text: new text; whole characters only.
        token_ids: new token ids.
        num_input_tokens: tokens of the prompt.
        num_cached_tokens: of these, the number found in the prefix cache.
        finish_reason: ``stop`` or ``length`` in the request's last output, else None.
        error: an error line (``errors.parse_error``) in the last output of a failed request, else None.
        prompt_ids, prompt_text: in the first output, with ``return_token_ids``.
        prompt_bytes: what each token of the prompt stands for, in the first output, with
            ``return_prompt_bytes``.
        logprobs: one for each of ``token_ids``, if requested.
        prompt_logprobs: in the first output, one for each token of the prompt, if requested.
        marks: the structural tokens in ``text``.
        num_output_tokens: number of new tokens.
        num_reasoning_tokens: of these, the number that are thinking, with its tags.
        num_accepted_drafts, num_rejected_drafts: guesses of tokens that a step checked, right and wrong ones.
        prompt_tag: in the first output, with ``return_marks``: the last thinking tag of the prompt,
            ``<think>`` or ``</think>``; empty if it has none.
        num_image_tokens, num_video_tokens: in the first output, tokens of the prompt that stand for media.
        stop_reason: ``repetition_detected`` in the last output of an answer that was cut because it repeats
            itself, else None.
    """

    request_id: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    num_input_tokens: int = 0
    num_cached_tokens: int = 0
    finish_reason: str | None = None
    error: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    prompt_text: str | None = None
    prompt_bytes: tuple[bytes, ...] | None = None
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None
    marks: tuple[Mark, ...] = ()
    num_output_tokens: int = 0
    num_reasoning_tokens: int = 0
    prompt_tag: str | None = None
    num_image_tokens: int = 0
    num_video_tokens: int = 0
    stop_reason: str | None = None
    num_accepted_drafts: int = 0
    num_rejected_drafts: int = 0

    @property
    def is_last(self) -> bool:
        """Whether it is the request's last output."""
        return self.finish_reason is not None or self.error is not None

    def renamed(self, request_id: str) -> Output:
        """Return the same output under another id; unlike ``replace`` in no more time than it takes to copy."""
        output = object.__new__(Output)
        output.__dict__.update(self.__dict__, request_id=request_id)
        return output


def join_outputs(parts: Sequence[Output]) -> Output:
    """Return consecutive outputs of one request, at least one, as one; its end is that of the last."""
    if len(parts) == 1:
        return parts[0]
    text = joined(parts)
    logprobs = [part.logprobs for part in parts if part.logprobs is not None]
    return replace(
        parts[-1],
        text=text.text,
        marks=text.marks,
        token_ids=tuple(chain.from_iterable(part.token_ids for part in parts)),
        num_output_tokens=sum(part.num_output_tokens for part in parts),
        num_reasoning_tokens=sum(part.num_reasoning_tokens for part in parts),
        prompt_tag=_first(part.prompt_tag for part in parts),
        num_image_tokens=sum(part.num_image_tokens for part in parts),
        num_video_tokens=sum(part.num_video_tokens for part in parts),
        num_accepted_drafts=sum(part.num_accepted_drafts for part in parts),
        num_rejected_drafts=sum(part.num_rejected_drafts for part in parts),
        num_input_tokens=max(part.num_input_tokens for part in parts),
        num_cached_tokens=max(part.num_cached_tokens for part in parts),
        prompt_ids=_first(part.prompt_ids for part in parts),
        prompt_text=_first(part.prompt_text for part in parts),
        prompt_bytes=_first(part.prompt_bytes for part in parts),
        logprobs=tuple(chain.from_iterable(logprobs)) if logprobs else None,
        prompt_logprobs=_first(part.prompt_logprobs for part in parts),
    )


def _first(values: Iterable[Value | None]) -> Value | None:
    return next((value for value in values if value is not None), None)


@dataclass(frozen=True)
class Cancel:
    """Stop a request; nothing more is sent for it. Unknown ids are ignored."""

    request_id: str


@dataclass(frozen=True)
class Shutdown:
    """End the engine process without further outputs."""


@dataclass(frozen=True)
class Starting:
    """The start makes progress in the ranks, where the counters of the engine process do not show it."""


@dataclass(frozen=True)
class Fault:
    """The engine exits; ``cause`` is one sentence, ``exit_signal`` the signal that killed a rank, or None."""

    cause: str
    exit_signal: int | None = None


@dataclass(frozen=True)
class Ready:
    """The engine is ready for requests."""

    description: Description


@dataclass(frozen=True)
class StartFailed:
    """The engine could not start, and exits; ``error`` is one sentence, ``exit_signal`` as in ``Fault``."""

    error: str
    exit_signal: int | None = None


@dataclass(frozen=True)
class Outputs:
    """All outputs of one engine step."""

    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Connected:
    """The first message to a frontend that connects to the stub: the id of the connection, a secret."""

    connection_id: str


@dataclass(frozen=True)
class Heartbeat(Stats):
    """The engine loop is alive; sent between steps, at least once a second, also when idle."""


@dataclass(frozen=True)
class Alive:
    """The engine process is running; sent every ``ALIVE_S`` by a thread, independent of the steps."""


Message = (
    GenerateRequest
    | Cancel
    | Shutdown
    | Starting
    | Fault
    | Ready
    | StartFailed
    | Outputs
    | Heartbeat
    | Alive
    | Connected
)
CODEC: Codec[Message] = Codec(*get_args(Message))


def pack_outputs(outputs: Iterable[Output]) -> bytes:
    """Return outputs as the bytes of one frame, for the tensor ``outputs``.

    Raises:
        FrameTooLarge: they exceed a frame's limits.
    """
    return pack_frame(*CODEC.encode(Outputs(tuple(outputs))))


def unpack_outputs(data: bytes) -> tuple[Output, ...]:
    """Return the outputs in the bytes of ``pack_outputs``.

    Raises:
        FrameError: they are something else, or of another version.
    """
    message = CODEC.decode(*unpack_frame(data))
    if not isinstance(message, Outputs) or not message.outputs:
        raise FrameError(f"{type(message).__name__} instead of outputs")
    return message.outputs

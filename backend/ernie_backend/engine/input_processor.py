"""From a client's request to the engine's: render, tokenize, check, fill in the model's defaults.

Pure apart from the random seed of requests that give none; runs on a thread next to the engine's loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, NoReturn

from ernie_backend.chat.formats import AnswerFormat, answer_format
from ernie_backend.chat.template import ChatTemplate
from ernie_backend.chat.tokenizer import NullTokenizer, Tokenizer, find_tokenizer
from ernie_backend.config.architectures import ARCHITECTURES
from ernie_backend.config.generation_config import GenerationConfig
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.engine.answer_masks import AnswerMasks
from ernie_backend.engine.detokenizer import Detokenizer
from ernie_backend.engine.request_state import PromptParts, RequestState
from ernie_backend.engine.sampling_resolver import SamplingResolver
from ernie_backend.engine.stop import StopMatcher
from ernie_backend.errors import StartError
from ernie_backend.request.reasoning import ReasoningTracker
from ernie_backend.request.sequence import Sequence
from ernie_backend.settings.engine_settings import EngineSettings, LogprobLimits
from ernie_wire.checks import check_token_ids
from ernie_wire.conversation import ToolRequest
from ernie_wire.errors import ContextLengthExceeded, InvalidValue
from ernie_wire.json_text import read_json_object
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters


@dataclass(frozen=True)
class InputProcessor:
    """Processes the requests to one model.

    Attributes:
        tokenizer: text to token ids and back.
        template: messages to text.
        defaults: sampling defaults of the model.
        max_model_len: tokens of prompt and answer.
        vocab_size: token ids that the model knows.
        logprob_limits: which log probabilities a request may ask for.
        format: how the model's answers are written.
    """

    tokenizer: Tokenizer | NullTokenizer
    template: ChatTemplate
    defaults: GenerationConfig
    max_model_len: int
    vocab_size: int
    logprob_limits: LogprobLimits = field(default_factory=LogprobLimits)
    format: AnswerFormat = field(default_factory=AnswerFormat)

    @classmethod
    def load(cls, settings: EngineSettings, config: ModelConfig) -> InputProcessor:
        """Read tokenizer, chat template and sampling defaults of a model.

        Raises:
            StartError: one of them cannot be used with the model.
        """
        directory = settings.model
        tokenizer: Tokenizer | NullTokenizer
        if settings.loading.is_dummy and find_tokenizer(directory) is None:
            tokenizer = NullTokenizer(directory, config.vocab_size)
        else:
            tokenizer = Tokenizer.from_directory(directory)
        if tokenizer.vocab_size > config.vocab_size:
            raise StartError(
                f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, "
                f"config.json says vocab_size {config.vocab_size}; they belong to different models"
            )
        template = ChatTemplate.from_directory(directory, settings.chat_template)
        return cls(
            tokenizer=tokenizer,
            template=template,
            defaults=GenerationConfig.from_directory(
                directory, config.eos_token_ids, ARCHITECTURES[config.architecture].repetition
            ),
            max_model_len=settings.loading.max_model_len,
            vocab_size=config.vocab_size,
            logprob_limits=settings.logprobs,
            format=answer_format(settings.parsers, template, tokenizer),
        )

    def process(self, request: GenerateRequest) -> RequestState:
        """Return the request in the form that the engine takes.

        Raises:
            InvalidRequest: the prompt is empty, too long or cannot be rendered, or a parameter is wrong.
        """
        conversation = None if request.messages is None else read_json_object(request.messages, "messages")
        tools = None if conversation is None else ToolRequest.from_json(conversation)
        text, prompt_ids = self._prompt(request, conversation)
        if request.media:
            number = len(request.media)
            raise InvalidValue(
                f"media holds {number} buffers; this model takes only text: leave them out", "media"
            )
        requested = self._sampling(request)
        tags = self.format.think_tags
        is_open = tags is not None and tags.are_open(prompt_ids)
        resolver = SamplingResolver(
            self.tokenizer, self.defaults, self.vocab_size, self.logprob_limits, self.format
        )
        room = max(0, self.max_model_len - len(prompt_ids))
        sampling = resolver.resolve(requested, len(prompt_ids), room)
        sequence = Sequence(
            request_id=request.request_id,
            prompt_ids=prompt_ids,
            sampling=sampling,
            processors=resolver.processors(requested, sampling, prompt_ids, thinks=is_open),
            priority=request.priority,
            cache_salt=request.cache_salt,
        )
        return RequestState(
            sequence,
            Detokenizer(self.tokenizer, self._skipped_ids(requested)),
            StopMatcher(requested.stop, is_included=requested.include_stop_str_in_output),
            stream=request.stream,
            prompt=PromptParts(
                text,
                self._last_tag(prompt_ids) if request.return_marks else None,
                self._bytes_of(prompt_ids) if request.return_prompt_bytes else None,
            ),
            reasoning=None if tags is None else ReasoningTracker(tags, is_open=is_open),
            pending_mask=self._answer_masks.pending(requested.structured_outputs, tools, prompt_ids, sampling),
        )

    def _last_tag(self, prompt_ids: tuple[int, ...]) -> str:
        """Return the text of the last thinking tag of a prompt, or nothing."""
        tags = (each for each in reversed(prompt_ids) if each in (self.format.think_tags or ()))
        return "".join(self.tokenizer.token_bytes(each).decode() for each in islice(tags, 1))

    @cached_property
    def _answer_masks(self) -> AnswerMasks:
        return AnswerMasks(self.tokenizer, self.defaults.eos_token_ids, self.format)

    def _bytes_of(self, token_ids: tuple[int, ...]) -> tuple[bytes, ...]:
        return tuple(map(self.tokenizer.token_bytes, token_ids))

    def _sampling(self, request: GenerateRequest) -> SamplingParameters:
        """Return the sampling parameters, with the log probabilities that their cumulative sum needs."""
        requested = request.sampling
        if request.return_cumulative_logprob and requested.logprobs is None:
            return replace(requested, logprobs=0)
        return requested

    def _skipped_ids(self, requested: SamplingParameters) -> frozenset[int]:
        """Return the tokens that are left out of the answer's text."""
        if not requested.skip_special_tokens:
            return frozenset()
        return self.tokenizer.special_ids.union(self.defaults.eos_token_ids)

    def _prompt(
        self, request: GenerateRequest, conversation: dict[str, Any] | None
    ) -> tuple[str | None, tuple[int, ...]]:
        """Return the prompt as text, if the answer needs that, and as token ids."""
        text, prompt_ids = None, request.input_ids
        num_kept = self._num_kept(request.sampling)
        if prompt_ids is None:
            text, origins = self._rendered(request, conversation)
            prompt_ids = self._encoded(text, origins, request, num_kept)
        if num_kept is not None and num_kept < len(prompt_ids):
            text, prompt_ids = None, prompt_ids[-num_kept:]
        if len(prompt_ids) >= self.max_model_len and _is_computed(request.sampling):
            self._refuse(len(prompt_ids), request)
        if request.input_ids is not None:  # the tokenizer's own need no check
            self._check_ids(prompt_ids, request.sampling)
        if request.return_token_ids:
            return self.tokenizer.decode(prompt_ids) if text is None else text, prompt_ids
        return None, prompt_ids

    def _num_kept(self, sampling: SamplingParameters) -> int | None:
        """Return how many tokens at the end of the prompt are kept, at most; None: all of them."""
        name, num_kept = "truncate_prompt_tokens", sampling.truncate_prompt_tokens
        if num_kept is None:
            return None
        if num_kept > self.max_model_len:
            limit = f"{self.max_model_len} (max_model_len)"
            raise InvalidValue(f"{name} is {num_kept}; it must be at most {limit}", name)
        if num_kept != -1:
            return num_kept
        answer = sampling.max_tokens
        if answer is None:  # the model's default is not the client's wish: at most half of the context
            answer = min(self.defaults.max_new_tokens or 1, self.max_model_len // 2)
        room = self.max_model_len - max(1, sampling.min_tokens, answer)
        if room < 1:
            raise InvalidValue(
                f"{name} is -1, but max_tokens or min_tokens leaves nothing of the context of "
                f"{self.max_model_len} tokens to the prompt; reduce it",
                name,
            )
        return room

    def _rendered(
        self, request: GenerateRequest, conversation: dict[str, Any] | None
    ) -> tuple[str, bytes | None]:
        """Return the text of the prompt and, of a chat, the origins of its characters."""
        if conversation is None:
            return request.text_input or "", None
        chat = self.template.render(conversation, thinks_by_default=self.format.is_switched or None)
        return chat.text, chat.origins

    def _encoded(
        self, text: str, origins: bytes | None, request: GenerateRequest, num_kept: int | None
    ) -> tuple[int, ...]:
        """Return the token ids of a text, at least the last ``num_kept`` of them."""
        if num_kept is None:
            self._check_size(text, request)
        field = request.prompt_field
        try:
            prompt_ids = self._last_ids(text, origins, num_kept)
        except UnicodeEncodeError:
            raise InvalidValue(f"{field} holds half of a surrogate pair, which is not text", field) from None
        if not prompt_ids and _is_computed(request.sampling):
            raise InvalidValue(f"{field} gives an empty prompt; it must have at least one token", field)
        return prompt_ids

    def _last_ids(self, text: str, origins: bytes | None, num_kept: int | None) -> tuple[int, ...]:
        """Return the token ids of the whole text, or of an end of it that has more than ``num_kept`` tokens.

        Tokenizing is slow, and other requests wait for it. The first token of an end is not kept: the cut may
        have split it. Some tokenizers drop characters, such as repeated spaces, and need a longer end. A long
        run of one character may be divided into other tokens than in the whole text.
        """
        size = 0 if num_kept is None else (num_kept + 1) * self.tokenizer.longest_token_bytes
        while num_kept is not None and 0 < size < len(text):
            prompt_ids = self.tokenizer.encode(text[-size:], None if origins is None else origins[-size:])
            if len(prompt_ids) > num_kept:
                return prompt_ids
            size *= 4
        return self.tokenizer.encode(text, origins)

    def _check_size(self, text: str, request: GenerateRequest) -> None:
        """Refuse text that cannot fit before it is tokenized: that is slow, and other requests wait for it."""
        size, longest = len(text.encode(errors="surrogatepass")), self.tokenizer.longest_token_bytes
        if longest and size > longest * (self.max_model_len - 1):
            self._refuse(-(-size // longest), request, is_estimate=True)

    def _refuse(self, num_tokens: int, request: GenerateRequest, *, is_estimate: bool = False) -> NoReturn:
        least = max(1, request.sampling.min_tokens)
        field = request.prompt_field
        raise ContextLengthExceeded.of(self.max_model_len, num_tokens, least, field, is_estimate=is_estimate)

    def _check_ids(self, ids: tuple[int, ...], sampling: SamplingParameters) -> None:
        if not ids and _is_computed(sampling):
            raise InvalidValue("input_ids is empty; a prompt has at least one token", "input_ids")
        check_token_ids("input_ids", ids, self.vocab_size - 1)


def _is_computed(sampling: SamplingParameters) -> bool:
    """Return whether the model computes the prompt, which then needs a token and must fit the context."""
    return sampling.max_tokens != 0 or sampling.prompt_logprobs is not None

"""From a client's request to the engine's: make its prompt, check, fill in the model's defaults.

Pure apart from the random seed of requests that give none; runs on a thread next to the engine's loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

from ernie_backend.chat.formats import AnswerFormat, answer_format
from ernie_backend.chat.template import ChatTemplate
from ernie_backend.chat.tokenizer import NullTokenizer, Tokenizer, find_tokenizer
from ernie_backend.config.architectures import ARCHITECTURES
from ernie_backend.config.generation_config import GenerationConfig
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.engine.answer_masks import AnswerMasks
from ernie_backend.engine.detokenizer import Detokenizer
from ernie_backend.engine.media_inputs import MediaInputs
from ernie_backend.engine.prompt_lookup import PromptLookup
from ernie_backend.engine.prompt_processor import PromptProcessor
from ernie_backend.engine.request_state import PromptParts, RequestState
from ernie_backend.engine.sampling_resolver import SamplingResolver
from ernie_backend.engine.stop import StopMatcher
from ernie_backend.errors import StartError
from ernie_backend.request.media import MediaItem, Medium
from ernie_backend.request.reasoning import ReasoningTracker
from ernie_backend.request.sequence import Sequence
from ernie_backend.settings.engine_settings import EngineSettings, LogprobLimits
from ernie_backend.settings.speculative_config import SpeculativeConfig
from ernie_wire.conversation import ToolRequest
from ernie_wire.errors import InvalidValue
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
        media: how the model takes media; None: it reads only text.
        speculative_config: how tokens are guessed; None: not at all.
    """

    tokenizer: Tokenizer | NullTokenizer
    template: ChatTemplate
    defaults: GenerationConfig
    max_model_len: int
    vocab_size: int
    logprob_limits: LogprobLimits = field(default_factory=LogprobLimits)
    format: AnswerFormat = field(default_factory=AnswerFormat)
    media: MediaInputs | None = None
    speculative_config: SpeculativeConfig | None = None

    @classmethod
    def load(
        cls, settings: EngineSettings, config: ModelConfig, modalities: tuple[str, ...] = ("text",)
    ) -> InputProcessor:
        """Read tokenizer, chat template and sampling defaults of a model that reads ``modalities``.

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
        template = ChatTemplate.from_directory(directory, settings.chat_template, config.architecture)
        media = None
        if len(modalities) > 1 and isinstance(tokenizer, Tokenizer):
            media = MediaInputs.load(directory, config.architecture, tokenizer, modalities, settings.media)
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
            media=media,
            speculative_config=settings.scheduler.speculative_config,
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What requests may have."""
        return ("text",) if self.media is None else self.media.modalities

    def media_of(self, request: GenerateRequest) -> list[Medium]:
        """Return the media that are to be prepared before a request can be processed.

        Raises:
            InvalidRequest: the model does not read them, there are too many, or what refers to them is wrong.
        """
        if not request.media:
            return []
        if self.media is None:
            number = len(request.media)
            raise InvalidValue(
                f"media holds {number} buffers; this model takes only text: leave them out", "media"
            )
        if request.messages is None:
            raise InvalidValue(
                f"media needs messages, whose parts say where a medium stands; {request.prompt_field} has none",
                "media",
            )
        return self.media.requested(request, read_json_object(request.messages, "messages"))

    def process(self, request: GenerateRequest, items: tuple[MediaItem, ...] = ()) -> RequestState:
        """Return the request in the form that the engine takes.

        Args:
            request: of the client.
            items: what was made of ``media_of`` it.

        Raises:
            InvalidRequest: the prompt is empty, too long or cannot be rendered, or a parameter is wrong.
        """
        conversation = None if request.messages is None else read_json_object(request.messages, "messages")
        tools = None if conversation is None else ToolRequest.from_json(conversation)
        prompt = self._prompts.process(request, conversation, items)
        prompt_ids, media = prompt.ids, prompt.media
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
            media=media.spans,
            media_items=media.items,
            vision_types=None if self.media is None else self.media.vision_types(prompt_ids, media),
            prompt_positions=media.positions(len(prompt_ids)),
            priority=request.priority,
            cache_salt=request.cache_salt,
        )
        config = self.speculative_config
        return RequestState(
            sequence,
            Detokenizer(self.tokenizer, self._skipped_ids(requested)),
            StopMatcher(requested.stop, is_included=requested.include_stop_str_in_output),
            stream=request.stream,
            prompt=PromptParts(
                prompt.text,
                self._last_tag(prompt_ids) if request.return_marks else None,
                self._bytes_of(prompt_ids) if request.return_prompt_bytes else None,
                media.num_tokens("image"),
                media.num_tokens("video"),
            ),
            reasoning=None if tags is None else ReasoningTracker(tags, is_open=is_open),
            pending_mask=self._answer_masks.pending(requested.structured_outputs, tools, prompt_ids, sampling),
            lookup=None if config is None else PromptLookup(sequence, config),
        )

    def _last_tag(self, prompt_ids: tuple[int, ...]) -> str:
        """Return the text of the last thinking tag of a prompt, or nothing."""
        tags = (each for each in reversed(prompt_ids) if each in (self.format.think_tags or ()))
        return "".join(self.tokenizer.token_bytes(each).decode() for each in islice(tags, 1))

    @cached_property
    def _prompts(self) -> PromptProcessor:
        return PromptProcessor(
            self.tokenizer,
            self.template,
            self.max_model_len,
            self.vocab_size,
            self.defaults.max_new_tokens,
            self.format.is_switched or None,
            self.media,
        )

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

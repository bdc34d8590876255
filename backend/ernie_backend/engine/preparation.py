"""From a request to a sequence: render, tokenize, check, fill in the model's defaults.

Pure apart from the random seed of requests that give none; runs beside the engine's loop. This module must not
know scheduling, KV blocks or sockets.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from ernie_backend.chat.template import ChatTemplate
from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.engine.answer_text import AnswerText
from ernie_backend.engine.detokenizer import Detokenizer
from ernie_backend.engine.generation_config import GenerationConfig
from ernie_backend.engine.sequence import ResolvedSampling, Sequence
from ernie_backend.engine.stop import StopMatcher
from ernie_wire.errors import ContextLengthExceeded, InvalidValue
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import MAX_SEED, SamplingParameters


@dataclass(frozen=True)
class Preparation:
    """Makes sequences for one model.

    Attributes:
        tokenizer: text to token ids and back.
        template: messages to text.
        defaults: sampling defaults of the model.
        max_model_len: tokens of prompt and answer.
        vocab_size: token ids that the model knows.
    """

    tokenizer: Tokenizer
    template: ChatTemplate
    defaults: GenerationConfig
    max_model_len: int
    vocab_size: int

    def prepare(self, request: GenerateRequest) -> Sequence:
        """Return the sequence for a request.

        Raises:
            InvalidRequest: the prompt is empty, too long or cannot be rendered.
        """
        text, prompt_ids = self._prompt(request)
        if len(prompt_ids) >= self.max_model_len:
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt_ids)} tokens; the context of {self.max_model_len} tokens leaves "
                f"room for at most {self.max_model_len - 1}; shorten the prompt",
                request.prompt_field,
            )
        return Sequence(
            request_id=request.request_id,
            prompt_ids=prompt_ids,
            sampling=self._sampling(request.sampling, self.max_model_len - len(prompt_ids)),
            answer=AnswerText(Detokenizer(self.tokenizer), StopMatcher(request.sampling.stop)),
            stream=request.stream,
            prompt_text=text if request.return_prompt else None,
        )

    def _prompt(self, request: GenerateRequest) -> tuple[str, tuple[int, ...]]:
        """Return the prompt as text and as token ids."""
        if request.input_ids is not None:
            self._check_ids(request.input_ids)
            text = self.tokenizer.decode(request.input_ids) if request.return_prompt else ""
            return text, request.input_ids
        if request.messages is not None:
            text = self.template.render(request.messages)
        else:
            text = request.text_input or ""
        field = request.prompt_field
        try:
            prompt_ids = self.tokenizer.encode(text)
        except UnicodeEncodeError:
            raise InvalidValue(f"{field} holds half of a surrogate pair, which is not text", field) from None
        if not prompt_ids:
            raise InvalidValue(f"{field} gives an empty prompt; it must have at least one token", field)
        return text, prompt_ids

    def _check_ids(self, ids: tuple[int, ...]) -> None:
        if not ids:
            raise InvalidValue("input_ids is empty; a prompt has at least one token", "input_ids")
        for token_id in (min(ids), max(ids)):
            if not 0 <= token_id < self.vocab_size:
                raise InvalidValue(
                    f"input_ids holds {token_id}; token ids must be in [0, {self.vocab_size - 1}]", "input_ids"
                )

    def _sampling(self, asked: SamplingParameters, room: int) -> ResolvedSampling:
        defaults = self.defaults
        max_tokens = asked.max_tokens if asked.max_tokens is not None else defaults.max_new_tokens
        return ResolvedSampling(
            temperature=asked.temperature if asked.temperature is not None else defaults.temperature,
            top_p=asked.top_p if asked.top_p is not None else defaults.top_p,
            top_k=asked.top_k if asked.top_k is not None else defaults.top_k,
            seed=asked.seed if asked.seed is not None else secrets.randbelow(MAX_SEED + 1),
            max_tokens=min(max_tokens, room) if max_tokens is not None else room,
            eos_token_ids=frozenset() if asked.ignore_eos else frozenset(defaults.eos_token_ids),
        )

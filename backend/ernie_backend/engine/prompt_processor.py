"""A request's prompt as token ids: rendered, tokenized, truncated, and checked against the context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NoReturn

from ernie_backend.chat.media_text import counted
from ernie_backend.chat.template import ChatTemplate, RenderedChat
from ernie_backend.chat.tokenizer import NullTokenizer, Tokenizer
from ernie_backend.engine.media_inputs import MediaInputs, PlacedMedia
from ernie_backend.request.media import RAISE_CONTEXT, MediaItem
from ernie_wire.checks import check_token_ids
from ernie_wire.errors import ContextLengthExceeded, InvalidValue
from ernie_wire.messages import GenerateRequest
from ernie_wire.sampling import SamplingParameters


class Prompt(NamedTuple):
    """A prompt.

    Attributes:
        ids: its tokens.
        text: its text, if the answer needs that.
        media: its media among the tokens.
    """

    ids: tuple[int, ...]
    text: str | None = None
    media: PlacedMedia = PlacedMedia()


@dataclass(frozen=True)
class PromptProcessor:
    """Makes prompts for one model.

    Attributes:
        tokenizer: text to token ids.
        template: messages to text.
        max_model_len: tokens of prompt and answer.
        vocab_size: token ids that the model knows.
        max_new_tokens: of an answer, where the request does not say; None: as many as fit.
        thinks_by_default: whether an answer begins with thinking; None: as the template has it.
        media: how the model takes media; None: it reads only text.
    """

    tokenizer: Tokenizer | NullTokenizer
    template: ChatTemplate
    max_model_len: int
    vocab_size: int
    max_new_tokens: int | None = None
    thinks_by_default: bool | None = None
    media: MediaInputs | None = None

    def process(
        self, request: GenerateRequest, conversation: Mapping[str, Any] | None, items: Sequence[MediaItem] = ()
    ) -> Prompt:
        """Return the prompt of a request.

        Args:
            request: of the client.
            conversation: its ``messages``, read.
            items: the conversation's media, in their order.

        Raises:
            InvalidRequest: the prompt is empty, too long or cannot be rendered.
        """
        num_kept = self._num_kept(request.sampling)
        if request.input_ids is not None:
            prompt = Prompt(request.input_ids)
        elif conversation is None or self.media is None or not items:
            prompt = self._of_text(request, conversation, num_kept)
        else:
            chat = self._rendered(request, conversation)
            prompt = self._of_media(request, chat, self.media, items, num_kept)
        if num_kept is not None and num_kept < len(prompt.ids):
            prompt = Prompt(prompt.ids[-num_kept:], None, _moved(prompt.media, num_kept - len(prompt.ids)))
        if len(prompt.ids) >= self.max_model_len and _is_computed(request.sampling):
            self._refuse(len(prompt.ids), request, prompt.media.items)
        if request.input_ids is not None:  # the tokenizer's own need no check
            self._check_ids(prompt.ids, request.sampling)
        if not request.return_token_ids:
            return prompt._replace(text=None)
        return prompt if prompt.text is not None else prompt._replace(text=self.tokenizer.decode(prompt.ids))

    def _of_text(
        self, request: GenerateRequest, conversation: Mapping[str, Any] | None, num_kept: int | None
    ) -> Prompt:
        """Return the prompt, or an end of it with at least ``num_kept`` tokens."""
        text, origins = request.text_input or "", None
        if conversation is not None:
            chat = self._rendered(request, conversation)
            text, origins = chat.text, chat.origins
        if num_kept is None:
            self._check_size(text, request)
        ids = self._last_ids(text, origins, num_kept, request)
        if not ids and _is_computed(request.sampling):
            field = request.prompt_field
            raise InvalidValue(f"{field} gives an empty prompt; it must have at least one token", field)
        return Prompt(ids, text)

    def _of_media(
        self,
        request: GenerateRequest,
        chat: RenderedChat,
        media: MediaInputs,
        items: Sequence[MediaItem],
        num_kept: int | None,
    ) -> Prompt:
        """Return the prompt of a chat with media, or an end of it that has all of them."""
        places = media.places(chat, items)
        begin = places[0][0].start
        if num_kept is None:
            self._check_size(chat.text, request, items)
        elif self._least_tokens(chat.text[begin:], items) > num_kept:
            _refuse_cut(num_kept, items)
        tail, placed = media.encode(chat, places, lambda text, origins: self._encoded(text, origins, request))
        if num_kept is not None and len(tail) > num_kept:
            _refuse_cut(num_kept, items)
        room = None if num_kept is None else num_kept - len(tail)
        head = self._last_ids(chat.text[:begin], chat.origins[:begin], room, request)
        return Prompt(head + tail, chat.text, _moved(placed, len(head)))

    def _rendered(self, request: GenerateRequest, conversation: Mapping[str, Any]) -> RenderedChat:
        return self.template.render(
            conversation,
            thinks_by_default=self.thinks_by_default,
            num_media=len(request.media),
            modalities=("text",) if self.media is None else self.media.modalities,
        )

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
            answer = min(self.max_new_tokens or 1, self.max_model_len // 2)
        room = self.max_model_len - max(1, sampling.min_tokens, answer)
        if room < 1:
            raise InvalidValue(
                f"{name} is -1, but max_tokens or min_tokens leaves nothing of the context of "
                f"{self.max_model_len} tokens to the prompt; reduce it",
                name,
            )
        return room

    def _last_ids(
        self, text: str, origins: bytes | None, num_kept: int | None, request: GenerateRequest
    ) -> tuple[int, ...]:
        """Return the token ids of the whole text, or of an end of it that has more than ``num_kept`` tokens.

        Tokenizing is slow, and other requests wait for it. The first token of an end is not kept: the cut may
        have split it. Some tokenizers drop characters, such as repeated spaces, and need a longer end. A long
        run of one character may be divided into other tokens than in the whole text.
        """
        size = 0 if num_kept is None else (num_kept + 1) * self.tokenizer.longest_token_bytes
        while num_kept is not None and 0 < size < len(text):
            end_origins = None if origins is None else origins[-size:]
            prompt_ids = self._encoded(text[-size:], end_origins, request)
            if len(prompt_ids) > num_kept:
                return prompt_ids
            size *= 4
        return self._encoded(text, origins, request)

    def _encoded(self, text: str, origins: bytes | None, request: GenerateRequest) -> tuple[int, ...]:
        try:
            return self.tokenizer.encode(text, origins)
        except UnicodeEncodeError:
            field = request.prompt_field
            raise InvalidValue(f"{field} holds half of a surrogate pair, which is not text", field) from None

    def _check_size(self, text: str, request: GenerateRequest, items: Sequence[MediaItem] = ()) -> None:
        """Refuse text that cannot fit before it is tokenized: that is slow, and other requests wait for it."""
        least = self._least_tokens(text, items)
        if least >= self.max_model_len:
            self._refuse(least, request, items, is_estimate=True)

    def _least_tokens(self, text: str, items: Sequence[MediaItem]) -> int:
        """Return how many tokens a text has at least, with media in place of as many of its tokens."""
        size, longest = len(text.encode(errors="surrogatepass")), self.tokenizer.longest_token_bytes
        return (-(-size // longest) if longest else 0) + sum(item.num_tokens - 1 for item in items)

    def _refuse(
        self,
        num_tokens: int,
        request: GenerateRequest,
        items: Sequence[MediaItem],
        *,
        is_estimate: bool = False,
    ) -> NoReturn:
        least, field = max(1, request.sampling.min_tokens), request.prompt_field
        note = ""
        if items:
            note = (
                f"It has {_described(items)}; fewer media, or max_pixels and max_frames, make it shorter, "
                f"{RAISE_CONTEXT}."
            )
        raise ContextLengthExceeded.of(
            self.max_model_len, num_tokens, least, field, is_estimate=is_estimate, note=note
        )

    def _check_ids(self, ids: tuple[int, ...], sampling: SamplingParameters) -> None:
        if not ids and _is_computed(sampling):
            raise InvalidValue("input_ids is empty; a prompt has at least one token", "input_ids")
        check_token_ids("input_ids", ids, self.vocab_size - 1)


def _described(items: Sequence[MediaItem]) -> str:
    """Return how many media there are, and of how many tokens, as the beginning of a sentence."""
    kinds = [item.kind for item in items]
    counts = [counted(kinds.count(kind), kind) for kind in ("image", "video") if kind in kinds]
    return f"{' and '.join(counts)} of {sum(item.num_tokens for item in items)} tokens"


def _refuse_cut(num_kept: int, items: Sequence[MediaItem]) -> NoReturn:
    raise InvalidValue(
        f"truncate_prompt_tokens keeps {num_kept} tokens, which would cut a medium: the prompt has "
        f"{_described(items)}, and the text after the first of them; raise it, or send fewer or smaller media",
        "truncate_prompt_tokens",
    )


def _moved(media: PlacedMedia, by: int) -> PlacedMedia:
    return media._replace(spans=tuple(replace(span, start=span.start + by) for span in media.spans))


def _is_computed(sampling: SamplingParameters) -> bool:
    """Return whether the model computes the prompt, which then needs a token and must fit the context."""
    return sampling.max_tokens != 0 or sampling.prompt_logprobs is not None

"""The media of a request among the tokens of its prompt: which there are, their tokens, places and experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ernie_backend.chat.media_text import FAMILIES, PLACEHOLDER_TOKEN, Placeholder, counted, placeholders
from ernie_backend.chat.messages import media_of, normalize_messages
from ernie_backend.chat.template import RenderedChat
from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.config.fields import read_json_object
from ernie_backend.errors import StartError
from ernie_backend.request.media import MediaItem, MediaSpan, Medium
from ernie_backend.settings.engine_settings import MediaSettings
from ernie_wire.errors import InvalidValue
from ernie_wire.media_parts import merged_options, request_options
from ernie_wire.messages import GenerateRequest

_MERGED = 2
"""Patches that become one token, in height and in width; frames that do, of a video of two or more."""


class PlacedMedia(NamedTuple):
    """Media and their tokens in a prompt, in order."""

    items: tuple[MediaItem, ...] = ()
    spans: tuple[MediaSpan, ...] = ()

    def num_tokens(self, kind: str | None = None) -> int:
        """Return the tokens that stand for media of a kind, or for all."""
        return sum(item.num_tokens for item in self.items if kind in (None, item.kind))

    def positions(self, num_tokens: int) -> NDArray[np.int32] | None:
        """Return the places ``[3, P]`` of a prompt's tokens in time, height and width; None without media.

        Those of a text count up on all axes, those of a medium's cells from its beginning on each. What follows
        goes on after the largest one, as in FastDeploy. (transformers 5 leaves out time there.)
        """
        if not self.spans:
            return None
        places = np.empty((3, num_tokens), np.int32)
        end, place = 0, 0
        for span in self.spans:
            places[:, end : span.start] = np.arange(place, place + span.start - end)
            place += span.start - end
            cells = _cells(self.items[span.index])
            end = span.start + span.length
            places[:, span.start : end] = place + np.indices(cells).reshape(3, -1)
            place += max(cells)
        places[:, end:] = np.arange(place, place + num_tokens - end)
        return places


def _cells(item: MediaItem) -> tuple[int, int, int]:
    """Return how many tokens a medium has in time, height and width."""
    _, height, width = item.grid
    per_frame = height // _MERGED * (width // _MERGED)
    return item.num_tokens // per_frame, height // _MERGED, width // _MERGED


@dataclass(frozen=True)
class MediaInputs:
    """How a model takes media.

    Attributes:
        placeholder_id: the token that stands for each token of a medium.
        boundary_ids: tokens around media that go to the experts of vision with them.
        has_vision_experts: whether the model has such experts.
        modalities: what it reads: ``text``, ``image``, ``video``.
        limits: most media of a request by kind.
    """

    placeholder_id: int
    boundary_ids: tuple[int, ...] = ()
    has_vision_experts: bool = False
    modalities: tuple[str, ...] = ("text", "image")
    limits: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        directory: Path,
        architecture: str,
        tokenizer: Tokenizer,
        modalities: tuple[str, ...],
        settings: MediaSettings,
    ) -> MediaInputs:
        """Look the tokens of media up in the tokenizer, and compare them with config.json.

        Args:
            directory: of the model.
            architecture: of the model, one that reads media.
            tokenizer: of the model.
            modalities: what the model reads.
            settings: limits of a request, and which experts see the tokens around media.

        Raises:
            StartError: a token is missing, or has another id in config.json.
        """
        family = FAMILIES[architecture]
        path = directory / "config.json"
        config = read_json_object(path)
        for name, token in family.config_fields.items():
            given, found = config.get(name), tokenizer.token_id(token)
            if given is not None and given != found:
                has = "no token" if found is None else f"token {found}"
                raise StartError(
                    f"{path}: {name} is {given!r}, but {token} is {has} of the tokenizer; they belong to "
                    "different models"
                )
        placeholder = tokenizer.token_id(PLACEHOLDER_TOKEN)
        if placeholder is None:
            raise StartError(f"{directory}: the tokenizer has no {PLACEHOLDER_TOKEN}, which stands for media")
        is_around = settings.mm_boundary_experts == "vision"
        boundaries = [tokenizer.token_id(token) for token in family.boundaries if is_around]
        limits = vars(settings.limit_mm_per_prompt)
        return cls(
            placeholder,
            tuple(each for each in boundaries if each is not None),
            family.has_vision_experts,
            modalities,
            {kind: limit for kind, limit in limits.items() if kind in modalities},
        )

    def requested(self, request: GenerateRequest, conversation: Mapping[str, Any]) -> list[Medium]:
        """Return the media of a conversation in their order.

        Raises:
            InvalidRequest: the messages are wrong, there are too many media, or a buffer has no part.
        """
        messages = normalize_messages(conversation.get("messages"), len(request.media), self.modalities)
        parts = media_of(messages)
        for kind, limit in self.limits.items():
            number = sum(part.kind == kind for part in parts)
            if number > limit:
                raise InvalidValue(
                    f"messages have {counted(number, kind)}; at most {limit} are allowed in a request "
                    "(limit_mm_per_prompt)",
                    "messages",
                )
        unused = set(range(len(request.media))) - {part.media for part in parts}
        if unused:
            raise InvalidValue(f"media[{min(unused)}] has no part in messages that refers to it", "media")
        options = request_options(conversation)
        return [
            Medium(
                request.media[part.media],
                part.kind,
                merged_options(options[part.kind], part.options),
                part.where,
            )
            for part in parts
        ]

    def places(self, chat: RenderedChat, items: Sequence[MediaItem]) -> list[tuple[Placeholder, MediaItem]]:
        """Return the places of the media in a chat: the first one of images is that of the first image, ..."""
        of_kind = {kind: iter([item for item in items if item.kind == kind]) for kind in self.modalities}
        return [(place, next(of_kind[place.kind])) for place in placeholders(chat.text, chat.origins)]

    def encode(
        self,
        chat: RenderedChat,
        places: Sequence[tuple[Placeholder, MediaItem]],
        encode: Callable[[str, bytes], tuple[int, ...]],
    ) -> tuple[tuple[int, ...], PlacedMedia]:
        """Return the tokens from the first medium of a chat on, and its media among them."""
        ids: list[int] = []
        spans = []
        ends = [place.start for place, _ in places[1:]] + [len(chat.text)]
        for index, ((place, item), end) in enumerate(zip(places, ends, strict=True)):
            spans.append(MediaSpan(index, len(ids), item.num_tokens))
            ids += [self.placeholder_id] * item.num_tokens
            ids += encode(chat.text[place.end : end], chat.origins[place.end : end])
        return tuple(ids), PlacedMedia(tuple(item for _, item in places), tuple(spans))

    def vision_types(self, prompt_ids: tuple[int, ...], media: PlacedMedia) -> NDArray[np.bool_] | None:
        """Return bool ``[P]``, which tokens go to the experts of vision; None: none do."""
        if not self.has_vision_experts or not media.spans:
            return None
        types: NDArray[np.bool_] = np.isin(prompt_ids, self.boundary_ids)
        for span in media.spans:
            types[span.start : span.start + span.length] = True
        return types

"""The rows of logits that a step samples, and the token masks of those that have one.

The masks do not depend on the logits: a thread fills them while the model computes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ernie_backend.request.sampling import TokenMask
from ernie_backend.request.sequence import Sequence
from ernie_wire.errors import ErnieError, InternalError, InvalidValue

logger = logging.getLogger(__name__)

MASK_SECONDS, MASK_SECONDS_PER_TOKEN = 0.5, 0.005
"""Processor time that the masks of one answer may take, since all others wait for them. Ordinary grammars take
less than 0.1 ms for a token, in rare places up to 3 ms."""
_ALL_TOKENS = np.uint32(0xFFFFFFFF)


@dataclass
class SamplingRow:
    """The sequence whose next token a row of logits gives, after drafts of the tokens before it.

    Attributes:
        sequence: prompt and answer up to the drafts.
        draft_ids: of the row before, and one more; empty in the first row of a sequence.
        mask: ``[ceil(V / 32)]``, which tokens may be chosen, see ``TokenMask``; None: all.
        error: why no token can be chosen.
    """

    sequence: Sequence
    draft_ids: tuple[int, ...] = ()
    mask: NDArray[np.uint32] | None = None
    error: ErnieError | None = None

    @cached_property
    def needs_host(self) -> bool:
        """Whether more than temperature and filters decides about its token, or more than a token is needed."""
        sequence, sampling = self.sequence, self.sequence.sampling
        has_values = sampling.logprobs is not None or sampling.prompt_logprobs is not None
        return has_values or sequence.token_mask is not None or bool(sequence.processors)


def fill_masks(
    rows: Iterable[SamplingRow], vocab_size: int, clock: Callable[[], float] = time.thread_time
) -> None:
    """Fill the masks of the sequences that have one; a mask that fails sets the error of its own rows."""
    for sequence, group in groupby(rows, key=lambda row: row.sequence):
        if sequence.token_mask is None:
            continue
        of_sequence = list(group)
        try:
            start = clock()
            _fill(sequence.token_mask, of_sequence, vocab_size)
            sequence.mask_seconds += clock() - start
            _check_seconds(sequence)
        except ErnieError as error:
            _fail(of_sequence, error)
        except Exception:
            logger.exception("the token mask of request %s cannot be filled", sequence.request_id)
            _fail(of_sequence, InternalError("the grammar of this answer failed while the answer was made"))


def _check_seconds(sequence: Sequence) -> None:
    seconds, count = sequence.mask_seconds, sequence.num_generated
    if seconds > MASK_SECONDS + MASK_SECONDS_PER_TOKEN * count:
        raise InvalidValue(
            f"the grammar of this answer has taken {seconds:.1f} s of processor time for {count} tokens; "
            f"allowed are {MASK_SECONDS:g} s and {1e3 * MASK_SECONDS_PER_TOKEN:g} ms for each token; make it "
            "less ambiguous: let fewer rules fit the same text"
        )


def _fail(rows: list[SamplingRow], error: ErnieError) -> None:
    for row in rows:
        row.mask, row.error = None, error


def _fill(token_mask: TokenMask, rows: list[SamplingRow], vocab_size: int) -> None:
    """Fill the masks of a sequence's rows; ``token_mask`` is left as it was.

    All tokens are allowed after a draft that may not come, or that completes the answer: none is taken there.
    """
    masks = np.full((len(rows), -(-vocab_size // 32)), _ALL_TOKENS)
    for row, mask in zip(rows, masks, strict=True):
        row.mask = mask
    token_mask.fill(masks[0])
    num_accepted = 0
    for index, row in enumerate(rows[1:], 1):
        draft_id = row.draft_ids[-1]
        if draft_id >= vocab_size or not masks[index - 1, draft_id // 32] >> np.uint32(draft_id % 32) & 1:
            break
        token_mask.accept(draft_id)
        num_accepted = index
        if token_mask.is_complete:
            break
        token_mask.fill(masks[index])
    if num_accepted:
        token_mask.rollback(num_accepted)

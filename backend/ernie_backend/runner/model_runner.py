"""Runs the model over a plan; owns the KV cache arrays."""

from __future__ import annotations

from collections.abc import Sequence

from ernie_backend.models.base import Model
from ernie_backend.request.step_plan import SchedulePlan
from ernie_backend.runner.encoder import Encoder, MediaRows, media_rows_of
from ernie_backend.runner.inputs import build_batch, local_tokens
from ernie_kernels.api import Batch, LayerCache, Ops
from ernie_kernels.sampling import HeadOutput, TokenChoices


class ModelRunner:
    """A model, its device and its KV cache.

    Args:
        model: the model, or a rank's part of it.
        ops: its backend.
        caches: one for each layer.
        vocabulary: the token ids whose rows of the embedding the rank has; None: all.
        encoder: of the model's media; None: it has none.
    """

    def __init__(
        self,
        model: Model,
        ops: Ops,
        caches: Sequence[LayerCache],
        vocabulary: range | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        self.encoder = encoder
        self._model = model
        self._ops = ops
        self._caches = caches
        self._vocabulary = vocabulary

    def run(self, plan: SchedulePlan, choices: TokenChoices | None = None) -> HeadOutput:
        """Compute a plan's tokens.

        Args:
            plan: of the step, whose logit rows are ``num_logit_rows`` of each chunk, in the plan's order.
            choices: for which of them the backend chooses the next token; None: for none.
        """
        return self.compute(build_batch(plan, choices), media_rows_of(plan))

    def compute(self, batch: Batch, media: Sequence[MediaRows] = ()) -> HeadOutput:
        """Compute one step; return the logits or the tokens of its logit rows.

        Args:
            batch: of the step.
            media: whose embeddings its ``media_rows`` have, all of them encoded before.
        """
        if self._vocabulary is not None:
            batch = local_tokens(batch, self._vocabulary)
        embeddings = self.encoder.rows(media) if self.encoder is not None and media else None
        return self._model.forward(self._ops.upload(batch), self._caches, embeddings)

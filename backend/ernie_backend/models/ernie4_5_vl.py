"""ERNIE-4.5-VL: the ERNIE-4.5 decoder, with a vision tower and experts for the tokens of media.

The decoder is that of text; what differs is in the packed weights and in the batch: layers have a bank of
experts for media, rotary embeddings three axes, and rows of media come from the tower.
"""

from __future__ import annotations

from ernie_backend.models.ernie4_5 import Ernie4_5ForCausalLM


class Ernie4_5_VLMoeForConditionalGeneration(Ernie4_5ForCausalLM):  # noqa: N801 - the name the checkpoints use
    """The ERNIE-4.5-VL decoder and its tower."""

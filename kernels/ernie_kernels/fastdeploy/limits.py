"""What FastDeploy's kernels for XPUs do not take, with the way out: one rule for plan, start and ops."""

from __future__ import annotations

from ernie_kernels.fastdeploy.library import Lineage
from ernie_kernels.needs import Needs

BLOCK_SIZES = frozenset({64})
"""Tokens of a block: FastDeploy's default for XPUs, for which its kernels' source was read."""
_SIZES = ", ".join(map(str, BLOCK_SIZES))
_FALLBACK = "use ERNIE_XPU_OPS=composed, the slow fallback"
SPREAD_EXPERTS = (
    "FastDeploy's kernels take all experts of a layer; leave --enable-expert-parallel out, so that "
    "--tensor-parallel-size gives each card a part of every expert"
)
"""Why a rank cannot have some of the experts only."""


def summary(lineage: Lineage) -> str:
    """Return in a line what follows from serving with the kernels of a lineage."""
    composed = "" if lineage is Lineage.DEVELOP else "; PaddleOCR-VL's attention is composed of Paddle's"
    return (
        f"KV cache in blocks of {_SIZES} tokens, bfloat16 or int8 with static scales; no expert parallelism"
        f"{composed}"
    )


def why_refused(needs: Needs) -> str | None:
    """Return what the kernels lack of ``needs``, and what to use instead; None: nothing."""
    if needs.spreads_experts:
        return SPREAD_EXPERTS
    if needs.block_size not in BLOCK_SIZES:
        return (
            f"FastDeploy's kernels take blocks of {_SIZES} tokens; block_size is "
            f"{needs.block_size}; leave it out, or {_FALLBACK}"
        )
    if needs.cache_dtype == "float32":
        return "FastDeploy's kernels have no float32 cache; use --dtype bfloat16"
    if needs.cache_dtype == "int8" and not needs.is_interleaved:
        # Scales of a checkpoint ask for the int8 cache by themselves.
        way_out = _FALLBACK if needs.has_cache_scales else "leave kv_cache_dtype out"
        return f"FastDeploy's kernels have no int8 cache for rotary pairs (i, i + head_dim / 2); {way_out}"
    if needs.cache_dtype == "int8" and not needs.has_cache_scales:
        return (
            "FastDeploy's kernels have an int8 cache with static scales only; leave kv_cache_dtype out, make a "
            f"checkpoint with scales by ernie-triton quantize --kv-cache c8, or {_FALLBACK}"
        )
    return None

"""What rounding costs: the next token of the embedded model, and products at the widths of the 21B model.

    .venv/bin/python benchmarks/rounding_rules.py [--draws 6] [--planted 8]

A rule says how the weights and the inputs of every Linear are rounded. It is emulated over the NumPy ops: what
the rule rounds is rounded, all else is float32. ``Q8_0`` is llama.cpp's rule: int8 for both, with a float16
scale for 32 inputs. Everything is compared with weights and inputs that are not rounded:

    KL       mean divergence of the next token's distribution, in millionths, over all tokens of the
             evaluation's questions with each of their right answers
    exact    questions for which one of the right answers is what greedy decoding gives
    products root mean square error of x W^T, in percent of that of the result

A draw permutes the inputs of each Linear and changes their sizes by up to a tenth, the weights inversely: the
same function with other rounding errors, so that the mean of some draws does not depend on luck. ``--planted``
makes one input of 64 larger by a factor, and its weights smaller, as the outlier channels of large models are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ernie_backend.chat.template import ChatTemplate
from ernie_backend.chat.tokenizer import Tokenizer
from ernie_backend.config.model_config import ModelConfig
from ernie_backend.models.load import load_model
from ernie_backend.settings.engine_settings import LoadSettings
from ernie_kernels.api import Batch, CacheSpec
from ernie_kernels.formats import (
    ActivationType,
    Float32Weight,
    LinearWeight,
    dequantize,
    quantize_grouped_int4,
)
from ernie_kernels.reference import ReferenceOps
from ernie_kernels.reference.ops import ReferenceLinear

Floats = NDArray[np.float32]
ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "model_repository" / "ernie-tiny" / "weights"
TEXTS = 64  # computed together
LONGEST = 256
WIDTHS = {"hidden": 2560, "expert": 1536, "shared": 3072, "dense MLP": 12288}


class Rounding(NamedTuple):
    """How rows are rounded.

    Attributes:
        levels: codes on both sides of 0; 0: not rounded.
        group: numbers that share a scale; 0: the whole row.
        has_half_scales: scales are float16.
        is_grouped_int4: as ``quantize_grouped_int4`` does it.
    """

    levels: int = 0
    group: int = 0
    has_half_scales: bool = False
    is_grouped_int4: bool = False

    def __call__(self, values: Floats) -> Floats:
        """Return ``values`` float32 ``[rows, width]``, rounded."""
        if self.is_grouped_int4:
            return dequantize(quantize_grouped_int4(values))
        if not self.levels:
            return values
        width = values.shape[1]
        group = self.group or width
        rows = np.pad(values, ((0, 0), (0, -width % group))).reshape(len(values), -1, group)
        scales = np.abs(rows).max(axis=2, keepdims=True) / np.float32(self.levels)
        codes = np.rint(rows / np.where(scales > 0, scales, np.float32(1)))
        if self.has_half_scales:
            scales = scales.astype(np.float16).astype(np.float32)
        rounded: Floats = (codes * scales).reshape(len(values), -1)[:, :width]
        return rounded


class Rule(NamedTuple):
    """How Linears are rounded.

    Attributes:
        weights: of all Linears but the output head, or of all.
        inputs: of all Linears but those in ``kept``.
        head: of the head, which is the embedding too; None: as the others.
        kept: kinds of Linears (``KINDS``) whose inputs become int16 codes.
    """

    weights: Rounding
    inputs: Rounding
    head: Rounding | None = None
    kept: Sequence[str] = ()


KINDS: Mapping[tuple[int, int], str] = {
    (320, 192): "qkv",
    (192, 192): "output",
    (1024, 192): "gate_up",
    (192, 512): "down",
    (2048, 192): "head",
}
"""The Linears of the embedded model by their shapes."""
EXACT, INT16, WINT8 = Rounding(), Rounding(127 * 128, 128), Rounding(127)
Q8_0, GROUPED_INT4 = Rounding(127, 32, has_half_scales=True), Rounding(is_grouped_int4=True)
RULES = {
    "Q8_0": Rule(Q8_0, Q8_0),
    "wint8, inputs as Q8_0": Rule(WINT8, Q8_0),
    "wint8, float32": Rule(WINT8, EXACT),
    "wint8, int16": Rule(WINT8, INT16),
    **{f"wint8, int8 / {group or 'row'}": Rule(WINT8, Rounding(127, group)) for group in (32, 64, 128, 256, 0)},
    "wint8, int8 / 32, qkv in int16": Rule(WINT8, Rounding(127, 32), kept=("qkv",)),
    "wint8, int8 / 32, qkv and down in int16": Rule(WINT8, Rounding(127, 32), kept=("qkv", "down")),
    "int4 / row, int16": Rule(Rounding(7), INT16, WINT8),
    "wint4_all, int16": Rule(GROUPED_INT4, INT16, WINT8),
    "wint4_all, int8 / 32": Rule(GROUPED_INT4, Rounding(127, 32), WINT8),
    "wint4_all with an int4 head, int16": Rule(GROUPED_INT4, INT16),
}


class RuledOps(ReferenceOps):
    """The reference, in which a rule rounds the weights and the inputs of Linears.

    Args:
        rule: how.
        draw: which permutation and sizes of the inputs; 0: as they are.
        planted: factor of some inputs.
    """

    def __init__(self, rule: Rule, draw: int = 0, planted: float = 1.0) -> None:
        super().__init__()
        self._rule, self._draw, self._planted = rule, draw, planted

    def pack_linear(self, weight: LinearWeight, activation: ActivationType) -> ReferenceLinear:
        """Round a weight."""
        values = dequantize(weight)
        order, sizes = self._inputs(values.shape[1])
        rule = self._rule
        is_head = rule.head is not None and KINDS[values.shape[0], values.shape[1]] == "head"
        rounding = rule.head if is_head and rule.head else rule.weights
        return ReferenceLinear(Float32Weight(rounding((values / sizes)[:, order])), activation)

    def embed(self, table: ReferenceLinear, batch: Batch) -> Floats:
        """Return rows of the table, whose columns a draw has changed."""
        rows = super().embed(table, batch)
        order, sizes = self._inputs(rows.shape[1])
        return (rows[:, np.argsort(order)] * sizes).astype(np.float32)

    def linear(self, x: Floats, weight: ReferenceLinear, bias: Floats | None = None) -> Floats:
        """Round the inputs, multiply."""
        order, sizes = self._inputs(x.shape[1])
        outputs, inputs = dequantize(weight.weight).shape
        rounding = INT16 if KINDS[outputs, inputs] in self._rule.kept else self._rule.inputs
        return super().linear(rounding((x * sizes)[:, order]), weight, bias)

    def _inputs(self, width: int) -> tuple[NDArray[np.intp], Floats]:
        random = np.random.default_rng([width, self._draw])
        sizes = np.ones(width) if not self._draw else np.exp(random.uniform(-0.1, 0.1, width))
        order = random.permutation(width) if self._draw else np.arange(width)
        sizes[random.choice(width, width // 64, replace=False)] *= self._planted
        return order, sizes.astype(np.float32)


class Question(NamedTuple):
    """Token ids of a prompt, and of each right answer with the end."""

    prompt: tuple[int, ...]
    answers: list[tuple[int, ...]]


def read_questions() -> list[Question]:
    """Return the evaluation's questions as the server would see them."""
    config = ModelConfig.from_directory(MODEL)
    template, tokenizer = ChatTemplate.from_directory(MODEL), Tokenizer.from_directory(MODEL)
    questions = []
    for path in sorted((ROOT / "benchmarks" / "evaluation").glob("*.jsonl")):
        for entry in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            chat = template.render({"messages": entry["messages"]}, thinks_by_default=None)
            prompt = tokenizer.encode(chat.text, chat.origins)
            texts = [tokenizer.encode(chat.text + answer)[len(prompt) :] for answer in entry["answers"]]
            questions.append(Question(prompt, [(*text, *config.eos_token_ids) for text in texts]))
    return questions


def logits_of(ops: ReferenceOps, texts: Sequence[tuple[int, ...]]) -> list[Floats]:
    """Return the logits after every token of each text."""
    config = ModelConfig.from_directory(MODEL)
    model = load_model(MODEL, config, ops, LoadSettings("float32", None, ActivationType.FLOAT32, LONGEST))
    logits: list[Floats] = []
    for some in (texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS)):
        ends = np.cumsum([len(text) for text in some])
        batch = Batch(
            token_ids=np.concatenate(some).astype(np.int32),
            positions=np.concatenate([np.arange(len(text)) for text in some]).astype(np.int32),
            query_starts=np.array([0, *ends], np.int32),
            context_lengths=np.zeros(len(some), np.int32),
            block_tables=np.arange(len(some), dtype=np.int32)[:, None],
            logit_rows=np.arange(ends[-1], dtype=np.int32),
        )
        spec = CacheSpec(len(some), LONGEST, config.num_kv_heads, config.head_dim, "float32")
        caches = [ops.allocate_cache(spec) for _ in range(config.num_layers)]
        logits += np.split(model.forward(ops.upload(batch), caches).logits, ends[:-1])
    return logits


def log_probabilities(logits: Floats) -> NDArray[np.float64]:
    """Return the logarithms of the softmax of each row."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def divergence(exact: Sequence[Floats], rounded: Sequence[Floats]) -> float:
    """Return the mean KL divergence of all tokens."""
    logs = ((log_probabilities(p), log_probabilities(q)) for p, q in zip(exact, rounded, strict=True))
    return float(np.concatenate([(np.exp(p) * (p - q)).sum(axis=1) for p, q in logs]).mean())


def num_exact(questions: Sequence[Question], logits: Sequence[Floats]) -> int:
    """Return how many questions greedy decoding answers rightly."""

    def hits(of_texts: Iterator[Floats], question: Question) -> bool:
        start = len(question.prompt) - 1
        chosen = [next(of_texts)[start : start + len(each)].argmax(axis=1) for each in question.answers]
        return any(tuple(ids) == answer for ids, answer in zip(chosen, question.answers, strict=True))

    of_texts = iter(logits)
    return sum(hits(of_texts, question) for question in questions)


def product_errors(rule: Rule, planted: float) -> list[float]:
    """Return the error of a product with inputs of each of ``WIDTHS``: normal numbers, some of them planted."""
    errors = []
    for width in WIDTHS.values():
        random = np.random.default_rng(width)
        x = random.standard_normal((32, width), np.float32)
        x[:, random.choice(width, width // 512, replace=False)] *= np.float32(planted)
        weight = random.standard_normal((256, width), np.float32)
        exact = x.astype(np.float64) @ weight.T.astype(np.float64)
        rounded = rule.inputs(x).astype(np.float64) @ rule.weights(weight).T.astype(np.float64)
        errors.append(float(np.sqrt(np.square(rounded - exact).mean() / np.square(exact).mean())) * 100)
    return errors


def main() -> None:
    """Print a line for each rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--planted", type=float, default=1.0, help="factor of some inputs [1: none]")
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    arguments = parser.parse_args()
    questions = read_questions()
    texts = [question.prompt + answer for question in questions for answer in question.answers]
    exact = logits_of(RuledOps(Rule(EXACT, EXACT)), texts)
    print(f"{len(questions)} questions, {sum(map(len, texts))} tokens, {num_exact(questions, exact)} exact")
    print(f"{'rule':42}{'KL':>9}{'exact':>7}" + "".join(f"{name:>11}" for name in WIDTHS))
    for name in arguments.rules:
        rule, found, right = RULES[name], [], 0
        for draw in range(arguments.draws):
            logits = logits_of(RuledOps(rule, draw, arguments.planted), texts)
            found.append(divergence(exact, logits) * 1e6)
            right = num_exact(questions, logits) if draw == 0 else right
        errors = "".join(f"{error:10.2f}%" for error in product_errors(rule, arguments.planted))
        print(f"{name:42}{np.mean(found):9.0f}{right:7}{errors}", flush=True)


if __name__ == "__main__":
    main()

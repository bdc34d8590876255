"""Trains the embedded model: ``python -m train_embedded.train``; again to go on after a stop.

The schedule goes by the wall clock, so that training ends when it should on any machine. The last
phase trains on weights rounded to bfloat16 and to int8 rows, as they are served.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random

import torch
from rich.console import Console
from torch.nn import functional

from train_embedded.answers import exact
from train_embedded.evaluation_sets import held_out
from train_embedded.examples import IGNORED, Batch, Encoder, batches
from train_embedded.muon import Muon
from train_embedded.network import Network
from train_embedded.rounding import rounded
from train_embedded.summing import rank, spawn, sum_gradients
from train_embedded.tokenizer_model import write_tokenizer

DIRECTORY = Path("build") / "train_embedded"
CHECKPOINT = "checkpoint.pt"
_LOG_EVERY = 20


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        minutes: of training; all phases are shares of it.
        tokens: in a batch of chats of one length, padding included.
        batches: of a process for one step: chats of one length are of one kind, a step must see several.
        matrix_rate, other_rate: highest learning rates, reached after the warm-up.
        warmup, decay: shares of the time in which the rates rise and fall.
        rounded: share of the time, at the end, in which weights are rounded as they are served.
    """

    minutes: float = 57.0
    tokens: int = 1024
    batches: int = 2
    matrix_rate: float = 6e-3
    other_rate: float = 4e-3
    warmup: float = 0.02
    decay: float = 0.45
    rounded: float = 0.2
    processes: int = 2
    seed: int = 1


@dataclass
class Progress:
    """What has been done; goes into the checkpoint."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0


class Training:
    """A network, its optimizers and how far they are."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        """Start, or go on where the checkpoint in ``directory`` stopped."""
        torch.manual_seed(plan.seed)
        self._plan, self._path = plan, directory / CHECKPOINT
        self.network = Network()
        matrices = [each for each in self.network.layers.parameters() if each.ndim == 2]
        others = [each for each in self.network.parameters() if all(each is not one for one in matrices)]
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            Muon(matrices, lr=plan.matrix_rate, momentum=0.95, weight_decay=0.02),
            torch.optim.AdamW(others, lr=plan.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self._rates = (plan.matrix_rate, plan.other_rate)
        self.progress = Progress()
        self._clock = time.monotonic()
        if self._path.is_file():
            self._load()

    @property
    def share(self) -> float:
        """How much of the time is used, from 0 to 1."""
        return min(1.0, self.progress.seconds / (60 * self._plan.minutes))

    def step(self, batches_here: Sequence[Batch]) -> float:
        """Learn from some batches and those of the other processes; return the loss for a token of an answer."""
        factor = min(1.0, self.share / self._plan.warmup + 0.01, (1 - self.share) / self._plan.decay)
        for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = max(0.005, factor) * rate
            optimizer.zero_grad()
        loss = weight = 0.0
        with rounded(self.network, is_on=self.share > 1 - self._plan.rounded):
            for batch in batches_here:
                here, weight_here = _loss(self.network, batch)
                here.backward()
                loss, weight = loss + here.item(), weight + weight_here
        tokens: float = sum(batch.ids.size for batch in batches_here)
        loss, weight, tokens = sum_gradients(self.network, loss, weight, tokens)
        for each in self.network.parameters():
            each.grad.div_(weight)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        self._count(round(tokens))
        return loss / weight

    def _count(self, tokens: int) -> None:
        """Add a step and all the time since the last one; all processes go by the clock of the first."""
        before, self._clock = self._clock, time.monotonic()
        seconds = torch.tensor(self._clock - before if rank() == 0 else 0.0, dtype=torch.float64)
        torch.distributed.all_reduce(seconds)
        done = self.progress
        done.steps += 1
        done.tokens += tokens
        done.seconds += float(seconds)

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        state = {
            "network": self.network.state_dict(),
            "optimizers": [each.state_dict() for each in self._optimizers],
            "progress": asdict(self.progress),
        }
        partial = self._path.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(self._path)

    def _load(self) -> None:
        state = torch.load(self._path, weights_only=True)
        self.network.load_state_dict(state["network"])
        for optimizer, values in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.progress = Progress(**state["progress"])


def _loss(network: Network, batch: Batch) -> tuple[torch.Tensor, float]:
    """Return the sum of the losses of the labelled tokens, each with its weight, and the sum of the weights.

    In a long answer a token counts less, by the square root of the length: a sum's few tokens are as hard.
    """
    labels = torch.from_numpy(batch.labels)
    is_answer = labels != IGNORED
    weights = is_answer.sum(1, keepdim=True).rsqrt().expand(is_answer.shape)[is_answer]
    hidden = network(torch.from_numpy(batch.ids))[is_answer]
    losses = functional.cross_entropy(network.logits(hidden), labels[is_answer], reduction="none")
    return (losses * weights).sum(), float(weights.sum())


def run(plan: Plan, directory: Path, save_every: float, evaluate_every: float) -> None:
    """Train until the time is used; the first process saves and evaluates every so many minutes, and reports."""
    encoder, training = Encoder(directory), Training(plan, directory)
    console = Console(highlight=False, soft_wrap=True, quiet=rank() > 0)
    # Other chats for every process, and after every stop.
    stream = batches(encoder, Random(f"{plan.seed} {rank()} {training.progress.steps}"), plan.tokens)
    saved = evaluated = training.progress.seconds
    for losses in _groups(training, stream, plan.batches):
        seconds = training.progress.seconds
        console.print(_line(plan, training, sum(losses) / len(losses)))
        if rank() == 0 and seconds - saved > 60 * save_every:
            training.save()
            saved = seconds
        if rank() == 0 and seconds - evaluated > 60 * evaluate_every:
            console.print(report(training.network, encoder))
            evaluated = seconds
    if rank() == 0:
        training.save()
        console.print(report(training.network, encoder))


def _groups(training: Training, stream: Iterator[Batch], batches_a_step: int) -> Iterator[list[float]]:
    while training.share < 1:
        yield [training.step(list(islice(stream, batches_a_step))) for _ in range(_LOG_EVERY)]


def _line(plan: Plan, training: Training, loss: float) -> str:
    done = training.progress
    left = 60 * plan.minutes - done.seconds
    return (
        f"step {done.steps:6d}  loss {loss:.4f}  {done.tokens / 1e6:6.2f} M tokens  "
        f"{done.tokens / done.seconds:5.0f} tokens/s  {max(0.0, left) / 60:5.1f} min left"
    )


def report(network: Network, encoder: Encoder) -> str:
    """Return exact answers of each category on the held-out sets, with weights as they are served."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    with rounded(network, is_on=True):
        for chats in held_out().values():
            for chat, is_right in zip(chats, exact(network, encoder, chats), strict=True):
                right[chat.category] += is_right
                asked[chat.category] += 1
    shares = "  ".join(f"{name} {right[name] / asked[name]:.1%}" for name in asked)
    return f"held out, exact: {shares}"


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=Plan.minutes, help="of training, stops not counted")
    parser.add_argument(
        "--directory", type=Path, default=DIRECTORY, help="for the checkpoint and the tokenizer"
    )
    parser.add_argument("--processes", type=int, default=Plan.processes, help="of one thread each")
    parser.add_argument("--save-every", type=float, default=2.0, help="minutes of training")
    parser.add_argument("--evaluate-every", type=float, default=5.0, help="minutes of training")
    arguments = parser.parse_args()
    plan = Plan(minutes=arguments.minutes, processes=arguments.processes)
    if not (arguments.directory / "tokenizer.model").is_file():
        write_tokenizer(arguments.directory, plan.seed)
    spawn(plan.processes, run, plan, arguments.directory, arguments.save_every, arguments.evaluate_every)


if __name__ == "__main__":
    main()

"""Writes the trained model into the repository: ``python -m train_embedded.export``.

bfloat16 weights under their Hugging Face names, the tokenizer and the configuration. What is written is read back
by transformers' ``Ernie4_5ForCausalLM`` and must give the logits of the trained network.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from train_embedded.evaluation_sets import held_out
from train_embedded.examples import Encoder
from train_embedded.network import Network, config
from train_embedded.tokenizer_json import write_tokenizer_json
from train_embedded.train import CHECKPOINT, DIRECTORY

TARGET = Path(__file__).resolve().parents[2] / "model_repository" / "ernie-tiny" / "weights"
TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
GENERATION = {
    "bos_token_id": 1,
    "do_sample": False,
    "eos_token_id": 2,
    "max_new_tokens": 128,
    "pad_token_id": 0,
}
"""Greedy: so small a model is right only where it is sure."""

_TOLERANCE = 1e-4


def export(directory: Path, target: Path) -> float:
    """Write the model of a checkpoint; return the largest difference of a logit to transformers.

    Raises:
        ValueError: transformers disagrees with the trained network.
    """
    network = Network()
    state = torch.load(directory / CHECKPOINT, weights_only=True)["network"]
    network.load_state_dict({name: each.bfloat16().float() for name, each in state.items()})
    target.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": each.bfloat16().contiguous() for name, each in state.items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "model.safetensors").chmod(0o644)
    for name, value in (("config.json", config()), ("generation_config.json", GENERATION)):
        (target / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        shutil.copyfile(directory / name, target / name)
    write_tokenizer_json(target)
    difference = _difference(network, target)
    if difference > _TOLERANCE:
        raise ValueError(f"a logit is {difference} from that of transformers; at most {_TOLERANCE} is allowed")
    return difference


@torch.no_grad()
def _difference(network: Network, target: Path) -> float:
    other = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    encoder = Encoder(target)
    most = 0.0
    for chats in held_out().values():
        for chat in chats[::20]:
            ids = torch.tensor([encoder.prompt(chat)])
            here = network.logits(network(ids))
            most = max(most, float((here - other(ids).logits).abs().max()))
    return most


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="with the checkpoint")
    parser.add_argument("--target", type=Path, default=TARGET)
    arguments = parser.parse_args()
    difference = export(arguments.directory, arguments.target)
    print(f"wrote {arguments.target}; logits are within {difference:.1e} of transformers'")  # noqa: T201


if __name__ == "__main__":
    main()

"""That training goes on where its last checkpoint stopped: ``make test-train``, for it needs PyTorch."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from train_embedded.train import CHECKPOINT

MINUTES = 1.0
DEADLINE_S = 600.0


def test_training_goes_on_after_it_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train_embedded.train", "--directory", str(tmp_path)]
    command += ["--minutes", str(MINUTES), "--save-every", "0.2"]
    checkpoint = tmp_path / CHECKPOINT
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as first:
        deadline = time.monotonic() + DEADLINE_S
        while not checkpoint.is_file() and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert first.poll() is None, "training ended before it was killed"
        os.killpg(first.pid, signal.SIGKILL)
    before = _progress(checkpoint)
    assert 0 < before["seconds"] < 60 * MINUTES
    second = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    (step, loss), *_ = re.findall(r"step +(\d+)  loss ([\d.]+)", second.stdout)
    assert int(step) > before["steps"]
    assert float(loss) < 5.0, "untrained weights begin above 6"
    after = _progress(checkpoint)
    assert after["steps"] > before["steps"]
    assert after["seconds"] >= 60 * MINUTES


def _progress(checkpoint: Path) -> dict[str, float]:
    progress: dict[str, float] = torch.load(checkpoint, weights_only=True)["progress"]
    return progress

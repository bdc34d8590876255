"""Whether the engine could load a model: checked without loading it, so that nothing starts in vain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ernie_backend.config.model_config import ModelConfig
from ernie_backend.devices.backend import find_backend
from ernie_backend.devices.host import available_bytes
from ernie_backend.engine.input_processor import InputProcessor
from ernie_backend.errors import StartError
from ernie_backend.media.processor import MediaProcessor
from ernie_backend.parallel.layout import Layout, read_layout
from ernie_backend.planning.engine_plan import check_fits, engine_plan
from ernie_backend.settings.reader import read_settings
from ernie_backend.weights.loader import CheckpointWeights
from ernie_cli.errors import CommandError


def check_model(directory: Path, parameters: Mapping[str, str]) -> Layout:
    """Check settings, config.json, memory, tokenizer, chat template, and names and shapes of the weights.

    Args:
        directory: of the model.
        parameters: the engine's settings that were given.

    Returns:
        Which ranks are on which machine.

    Raises:
        CommandError: the engine would refuse one of them, in its own words.
    """
    try:
        config = ModelConfig.from_directory(directory)
        settings = read_settings({**parameters, "model": str(directory)}, config)
        layout = read_layout(settings.parallel)
        backend, _ = find_backend(settings.device)
        host = backend.check_host(layout.ranks_per_host)
        available = available_bytes() * len(layout.hosts)
        check_fits(engine_plan(settings, config, backend, available, host.card_bytes))
        media = MediaProcessor.load(directory, config, settings)
        InputProcessor.load(settings, config, ("text",) if media is None else media.modalities)
        if not settings.loading.is_dummy:
            loading = settings.loading
            CheckpointWeights.open(directory, config, loading.dtype, loading.quantization).close()
    except StartError as error:
        raise CommandError(error.message, layout=error.layout) from None
    return layout

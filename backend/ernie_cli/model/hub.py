"""Downloads models by id: from Hugging Face, or from ModelScope or AI Studio where their clients are installed.

Only what a model needs is fetched: configuration, tokenizer, chat template, safetensors; never code or pickles.
What is there already is not fetched again, and an interrupted file goes on where it stopped. This module must
not know what is done with the files.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ernie_cli.errors import CommandError

DESCRIPTION = ["*.json", "*.jinja", "*.model"]
WEIGHTS = ["*.safetensors"]
UNWANTED = ["*/*"]  # other formats and checkpoints lie in folders
SOURCES = ("HUGGINGFACE", "MODELSCOPE", "AISTUDIO")
_CLIENTS = {
    "MODELSCOPE": ("modelscope", "modelscope.hub.snapshot_download"),
    "AISTUDIO": ("aistudio-sdk", "aistudio_sdk.snapshot_download"),
}


class NotOnHub(Exception):
    """The hub has no model of this id, or none that this user may see."""


class HubUnreachable(CommandError):
    """The hub does not answer, and the cache does not hold the model."""


@dataclass(frozen=True)
class Download:
    """What is to be downloaded.

    Attributes:
        model_id: ``owner/name`` on the hub.
        revision: branch, tag or commit; None takes the hub's default.
        cache: where models are kept; None leaves it to the client.
        with_weights: False leaves the weights out.
    """

    model_id: str
    revision: str | None = None
    cache: Path | None = None
    with_weights: bool = True

    @property
    def wanted(self) -> list[str]:
        """Patterns of the files."""
        return [*DESCRIPTION, *(WEIGHTS if self.with_weights else [])]


def candidates(model_id: str) -> tuple[str, ...]:
    """Return the ids to try: FastDeploy's documents use AI Studio's names, elsewhere the owner is baidu."""
    owner, _, name = model_id.partition("/")
    if owner == "PaddlePaddle" and name.startswith("ERNIE-4.5-"):
        return model_id, f"baidu/{name}"
    return (model_id,)


def download_model(
    model_id: str,
    revision: str | None = None,
    environment: Mapping[str, str] = os.environ,
    *,
    with_weights: bool = True,
) -> Path:
    """Return the directory of a hub model, after downloading what is missing; shows its progress.

    Args:
        model_id: ``owner/name``.
        revision: branch, tag or commit; None takes the hub's default.
        environment: has ``FD_MODEL_SOURCE`` and ``FD_MODEL_CACHE``.
        with_weights: False leaves the weights out: random ones will be used.

    Raises:
        CommandError: no hub has it, it may not be read, or the hub cannot be reached.
    """
    source = environment.get("FD_MODEL_SOURCE", "").upper() or SOURCES[0]
    if source not in SOURCES:
        raise CommandError(f"FD_MODEL_SOURCE is {source}; known: {', '.join(SOURCES)}")
    fetch: Callable[[Download], Path] = _huggingface if source == SOURCES[0] else _other_client(source)
    cache = Path(environment["FD_MODEL_CACHE"]).expanduser() if environment.get("FD_MODEL_CACHE") else None
    refusals: dict[str, NotOnHub | HubUnreachable] = {}
    for candidate in candidates(model_id):
        found = _fetched_or_why_not(fetch, Download(candidate, revision, cache, with_weights))
        if isinstance(found, Path):
            return found
        refusals[candidate] = found
    for refusal in refusals.values():
        if isinstance(refusal, HubUnreachable):
            raise refusal
    raise CommandError(
        f"--model {model_id} is not a directory, and {_address(source)} does not give it ({_listed(refusals)});"
        " check the id, set HF_TOKEN if it is private, or give the model's directory"
    )


def _fetched_or_why_not(fetch: Callable[[Download], Path], what: Download) -> Path | NotOnHub | HubUnreachable:
    try:
        return fetch(what)
    except (NotOnHub, HubUnreachable) as error:
        return error


def _listed(refusals: Mapping[str, Exception]) -> str:
    return "; ".join(f"{model_id}: {refusal}" for model_id, refusal in refusals.items())


def _huggingface(what: Download) -> Path:
    try:
        return Path(
            snapshot_download(
                what.model_id,
                revision=what.revision,
                cache_dir=what.cache,
                allow_patterns=what.wanted,
                ignore_patterns=UNWANTED,
            )
        )
    except GatedRepoError:
        raise CommandError(
            f"--model {what.model_id} is gated: ask for access at {constants.ENDPOINT}/{what.model_id}, then"
            " set HF_TOKEN to a token of your account"
        ) from None
    except RepositoryNotFoundError:
        raise NotOnHub("not found, or private") from None
    except RevisionNotFoundError:
        raise CommandError(
            f"--revision {what.revision}: {what.model_id} has no such branch, tag or commit"
        ) from None
    except HFValidationError as error:
        raise CommandError(f"--model {what.model_id} is neither a directory nor an id: {error}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, httpx.HTTPError) as error:
        raise _unreachable(what, error) from None


def _unreachable(what: Download, error: Exception) -> HubUnreachable:
    cause = error.__cause__ or error
    reason = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
    return HubUnreachable(
        f"--model {what.model_id} cannot be downloaded from {constants.ENDPOINT} ({reason}): start again to go"
        " on where it stopped; without this hub, set HF_ENDPOINT to a mirror, or download the model on another"
        ' machine ("hf download ID --local-dir DIRECTORY") and give its directory to --model;'
        " HF_HUB_OFFLINE=1 takes what the cache holds"
    )


def _other_client(source: str) -> Callable[[Download], Path]:
    """Return a download function of an optional client, all of which take the same arguments."""
    package, module = _CLIENTS[source]
    try:
        client: Any = importlib.import_module(module)
    except ImportError:
        raise CommandError(
            f"FD_MODEL_SOURCE is {source}, but its client is not installed: pip install {package}, or unset it"
        ) from None

    def fetch(what: Download) -> Path:
        where = {"local_dir": str(what.cache / what.model_id)} if what.cache else {}
        try:
            directory = client.snapshot_download(
                repo_id=what.model_id,
                revision=what.revision,
                allow_patterns=what.wanted,
                ignore_patterns=UNWANTED,
                **where,
            )
        except Exception as error:  # these clients document no errors; the next id is tried
            raise NotOnHub(str(error) or type(error).__name__) from error
        return Path(directory)

    return fetch


def _address(source: str) -> str:
    return constants.ENDPOINT if source == SOURCES[0] else source

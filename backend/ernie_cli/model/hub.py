"""Downloads models by id: from Hugging Face, or from ModelScope or AI Studio where their clients are installed.

Only what a model needs is downloaded: configuration, tokenizer, chat template, safetensors; never code or
pickles. Complete files are not downloaded again, and an interrupted file continues where it stopped.
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

_DESCRIPTION = ["*.json", "*.jinja", "*.model"]
_WEIGHTS = ["*.safetensors"]
_IGNORED = ["*/*"]  # folders hold other formats and checkpoints
SOURCES = ("HUGGINGFACE", "MODELSCOPE", "AISTUDIO")
_CLIENTS = {
    "MODELSCOPE": ("modelscope", "modelscope.hub.snapshot_download"),
    "AISTUDIO": ("aistudio-sdk", "aistudio_sdk.snapshot_download"),
}


class NotOnHub(Exception):
    """The hub has no such model, or does not show it to this user."""


class HubUnreachable(CommandError):
    """The hub does not answer, and the cache does not hold the model."""


@dataclass(frozen=True)
class Download:
    """A model to download.

    Attributes:
        model_id: ``owner/name`` on the hub.
        revision: branch, tag or commit; None: the hub's default.
        cache: directory of the downloaded models; None: the client's own.
        with_weights: False leaves the weights out.
    """

    model_id: str
    revision: str | None = None
    cache: Path | None = None
    with_weights: bool = True

    @property
    def patterns(self) -> list[str]:
        """Patterns of the files."""
        return [*_DESCRIPTION, *(_WEIGHTS if self.with_weights else [])]


def candidates(model_id: str) -> tuple[str, ...]:
    """Return the ids to try: FastDeploy's documents use AI Studio's ids, whose owner is baidu elsewhere."""
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
    """Download what is missing of a hub model, with a progress bar; return its directory.

    Args:
        model_id: ``owner/name``.
        revision: branch, tag or commit; None: the hub's default.
        environment: of ``FD_MODEL_SOURCE`` and ``FD_MODEL_CACHE``.
        with_weights: False leaves the weights out.

    Raises:
        CommandError: the hub does not have it, does not allow it to be read, or cannot be reached.
    """
    source = environment.get("FD_MODEL_SOURCE", "").upper() or SOURCES[0]
    if source not in SOURCES:
        raise CommandError(f"FD_MODEL_SOURCE is {source}; known: {', '.join(SOURCES)}")
    fetch: Callable[[Download], Path] = _huggingface if source == SOURCES[0] else _other_client(source)
    cache = Path(environment["FD_MODEL_CACHE"]).expanduser() if environment.get("FD_MODEL_CACHE") else None
    refusals: list[str] = []
    unreachable: HubUnreachable | None = None
    for candidate in candidates(model_id):
        try:
            return fetch(Download(candidate, revision, cache, with_weights))
        except NotOnHub as error:  # noqa: PERF203 - two ids at most
            refusals.append(f"{candidate}: {error}")
        except HubUnreachable as error:  # the cache may hold the other id
            unreachable = unreachable or error
    if unreachable is not None:
        raise unreachable
    hub = constants.ENDPOINT if source == SOURCES[0] else source
    raise CommandError(
        f"--model {model_id} is not a directory, and {hub} does not provide it ({'; '.join(refusals)}); check"
        " the id, set HF_TOKEN if it is private, or give the model's directory"
    )


def _huggingface(what: Download) -> Path:
    try:
        return Path(
            snapshot_download(
                what.model_id,
                revision=what.revision,
                cache_dir=what.cache,
                allow_patterns=what.patterns,
                ignore_patterns=_IGNORED,
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
        f"--model {what.model_id} cannot be downloaded from {constants.ENDPOINT} ({reason}): start again to"
        " continue where it stopped; without this hub, set HF_ENDPOINT to a mirror, or download the model on"
        ' another machine ("hf download ID --local-dir DIRECTORY") and give its directory to --model;'
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
                allow_patterns=what.patterns,
                ignore_patterns=_IGNORED,
                **where,
            )
        except Exception as error:  # these clients do not document their errors
            raise NotOnHub(str(error) or type(error).__name__) from error
        return Path(directory)

    return fetch

"""The settings of one frontend process, fixed when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ernie_frontend.cors import Cors

MAX_CONNECTIONS = 8192
"""Of one process: each may hold a header of 64 KiB."""


@dataclass(frozen=True)
class MediaRules:
    """Where the images and videos of requests may come from, and what fetching them may cost.

    Attributes:
        allowed_domains: hosts that they may be downloaded from, lower-case and in ASCII; ``.example.com`` is
            every host below ``example.com``; empty: any host.
        allow_private: whether private and loopback addresses are allowed.
        local_directory: directory for ``file:`` URLs, without symbolic links in its path; None: none is
            allowed.
        max_redirects: of one download.
        connect_timeout_s: for one address, TLS included.
        read_timeout_s: how long a server may send nothing.
        download_timeout_s: for one download, redirects included.
        max_downloads, max_downloads_per_host: of one process at a time; others wait.
        place_wait_s: how long.
        max_held_bytes: of all media that one process fetches at a time; above it 429.
    """

    allowed_domains: tuple[str, ...] = ()
    allow_private: bool = False
    local_directory: Path | None = None
    max_redirects: int = 5
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 10.0
    download_timeout_s: float = 30.0
    max_downloads: int = 32
    max_downloads_per_host: int = 16
    place_wait_s: float = 30.0
    max_held_bytes: int = 512 << 20


@dataclass(frozen=True)
class Settings:
    """The settings of one frontend process.

    Attributes:
        triton_urls: gRPC addresses of the Tritons behind this frontend, ``HOST:PORT`` or ``unix:PATH``, at
            least one.
        served_model_name: the only public name besides ``default``; None accepts every name.
        default_model: the Triton entry that any unknown name goes to; None takes the first that is ready.
        api_keys: accepted bearer keys of ``/v1``, which is open if there are neither keys nor a file of keys.
        api_key_file: file of further keys, read again when it changes.
        max_concurrency: maximum number of generation requests in flight, over all workers; above it 429.
        metrics_port: a port for ``/metrics`` alone; None serves it on the API's port.
        cors: the web pages of other origins that may use the API; None: none.
        has_docs: whether ``/docs`` and ``/openapi.json`` are served.
        media: the rules of fetching images and videos.
        max_body_bytes: largest request body; above it 413.
        max_media_body_bytes: the same if a served model reads images or videos, which bodies may hold.
        max_held_prompt_bytes: of all prompts and media that wait for their first output; above it 429.
        max_connections: maximum number of connections of one process; above it, idle ones are closed.
        idle_timeout_s: how long a connection may stay open without a request.
        header_timeout_s: from a header's first byte to its last.
        body_timeout_s: in each such window a body must bring 1 KiB per second, or its end.
        write_timeout_s: how long a client may read nothing of an answer that is ready to be sent.
        max_answers: maximum number of answers to one request: prompts times ``n`` or ``best_of``.
        control_deadline_s: time limit of describe, health and repository index calls.
        cancel_deadline_s: how long a cancelled generation may take to end; then its gRPC call is cancelled.
        registry_ttl_s: how long a list of models is used before it is fetched again.
        drain_s: seconds that answers under way get when the process has to stop; None: as long as they take.
        quiet_check_s: after this long without output, the model behind a stream gets a health request.
        silence_limit_s: a Triton that has answered no health request for this long hangs, and its streams fail.
    """

    triton_urls: tuple[str, ...]
    served_model_name: str | None = None
    default_model: str | None = None
    api_keys: tuple[str, ...] = ()
    api_key_file: Path | None = None
    max_concurrency: int = 512
    metrics_port: int | None = None
    cors: Cors | None = None
    has_docs: bool = True
    media: MediaRules = field(default_factory=MediaRules)
    max_body_bytes: int = 8 << 20
    max_media_body_bytes: int = 64 << 20
    max_held_prompt_bytes: int = 1 << 30
    max_connections: int = MAX_CONNECTIONS
    idle_timeout_s: float = 75.0  # proxies keep one for 60 s: they should close it first
    header_timeout_s: float = 10.0  # a header is one packet or two
    body_timeout_s: float = 30.0  # a KiB a second is slower than any network in use
    write_timeout_s: float = 60.0
    max_answers: int = 128
    control_deadline_s: float = 3.0
    cancel_deadline_s: float = 5.0
    registry_ttl_s: float = 5.0
    quiet_check_s: float = 2.0
    silence_limit_s: float = 10.0
    drain_s: float | None = None

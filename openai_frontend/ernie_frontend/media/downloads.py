"""Downloads over HTTP from addresses that were checked, so that a URL cannot reach what clients cannot.

A host name is resolved once; the connection goes to one of the addresses that this gave and the rules allow,
and only ``Host`` and TLS still see the name. A name whose answer changes (DNS rebinding) gains nothing. Each
redirect is a new URL under the same rules. Every request has a connection of its own: nothing is sent but these
headers, no cookies, credentials or proxies, and nothing is kept.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib.metadata import version

import httpx

from ernie_frontend.http_errors import MediaNotAllowed, MediaUnavailable
from ernie_frontend.media.addresses import is_address, may_fetch_from
from ernie_frontend.settings import MediaRules
from ernie_wire.errors import InvalidValue
from ernie_wire.messages import MAX_MEDIUM_BYTES

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host and port, at least one; raises OSError."""

_HEADERS = {
    "User-Agent": f"ernie-triton/{version('ernie-triton-frontend')}",
    "Accept": "image/*, video/*, */*;q=0.8",
    "Accept-Encoding": "identity",
    "Connection": "close",
}
_PORTS = {"http": 80, "https": 443}
_FIRST_USER_PORT = 1024
_HOST = re.compile(r"[0-9A-Za-z:][0-9A-Za-z._:-]{0,252}")
_MAX_URL_CHARACTERS = 8192
_MAX_ADDRESSES = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_NUM_RESOLVER_THREADS = 32  # a name server that does not answer holds one for some seconds


class SystemResolver:
    """The system's resolver, on threads of its own: a slow name server must not delay anything else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_NUM_RESOLVER_THREADS, "media-names")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host; see ``Resolve``."""
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return [str(entry[4][0]) for entry in found]

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Downloader:
    """Downloads media; use it inside one event loop.

    Args:
        rules: the operator's.
        resolve: finds the addresses of hosts.
        tls: verifies certificates; None: by the usual authorities, or those of ``$SSL_CERT_FILE``.
    """

    def __init__(self, rules: MediaRules, resolve: Resolve, tls: ssl.SSLContext | None = None) -> None:
        self._rules = rules
        self._resolve = resolve
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        # A transport, not a client: a client keeps cookies, reads ~/.netrc and logs URLs.
        self._transport = httpx.AsyncHTTPTransport(verify=tls or _default_tls(), limits=limits)
        read_s = rules.read_timeout_s
        self._timeouts = {"connect": rules.connect_timeout_s, "read": read_s, "write": read_s, "pool": None}

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def download(self, url: httpx.URL, take: Callable[[int], None]) -> bytes:
        """Return the content of a URL that ``checked`` returned.

        Args:
            url: where the first request goes.
            take: called with the size of each piece that arrives; may raise.

        Raises:
            InvalidRequest: it may not be fetched, or could not be.
        """
        try:
            return await asyncio.wait_for(self._follow(url, take), self._rules.download_timeout_s)
        except asyncio.TimeoutError:
            limit = f"{self._rules.download_timeout_s:g} s"
            raise MediaUnavailable(f"{origin_of(url)} has not sent the whole file in {limit}") from None

    def checked(self, text: str) -> httpx.URL:
        """Return a URL that the rules allow as far as it can be known without resolving its host.

        Raises:
            InvalidValue: it is not an http or https URL.
            MediaNotAllowed: the rules forbid it.
        """
        if len(text) > _MAX_URL_CHARACTERS:
            raise InvalidValue(f"a URL has {len(text)} characters; at most {_MAX_URL_CHARACTERS} are allowed")
        try:
            url = httpx.URL(text)
            host = url.raw_host.decode("ascii")
        except (httpx.InvalidURL, ValueError):
            raise InvalidValue("a URL is not valid") from None
        if url.scheme not in _PORTS or not _HOST.fullmatch(host):
            raise InvalidValue("a URL is not valid: it must be https://HOST/PATH or http://HOST/PATH")
        if url.userinfo:
            raise MediaNotAllowed("a URL may not hold a user name or password; leave them out")
        port = _port_of(url)
        if not (port in _PORTS.values() or _FIRST_USER_PORT <= port < 1 << 16):
            raise MediaNotAllowed(
                f"port {port} of a URL is not allowed; use 80, 443, or one from {_FIRST_USER_PORT} on"
            )
        self._check_host(host.lower().rstrip("."))
        return url

    def _check_host(self, host: str) -> None:
        domains = self._rules.allowed_domains
        if domains and not any(host == each or (each[0] == "." and host.endswith(each)) for each in domains):
            raise MediaNotAllowed(f"{host} is not among the domains that the operator allows for media")
        if is_address(host) and not self._is_allowed(host):
            raise MediaNotAllowed(f"{host} is not {self._wanted}; {self._way_out()}")

    def _is_allowed(self, address: str) -> bool:
        return may_fetch_from(address, allow_private=self._rules.allow_private)

    @property
    def _wanted(self) -> str:
        return "an allowed address" if self._rules.allow_private else "a public address"

    def _way_out(self) -> str:
        if self._rules.allow_private:
            return "link-local addresses and those of cloud metadata are never allowed"
        return "private ones need --allow-private-media"

    async def _follow(self, url: httpx.URL, take: Callable[[int], None]) -> bytes:
        for _ in range(1 + self._rules.max_redirects):
            try:
                response = await self._send(url)
                try:
                    following = response.headers.get("location")
                    if response.status_code not in _REDIRECTS or not following:
                        return await _content(response, url, take)
                finally:
                    await response.aclose()
            except httpx.TransportError as error:
                raise MediaUnavailable(f"{origin_of(url)} {_failure(error)}") from None
            url = self._redirected(url, following)
        raise MediaUnavailable(f"{origin_of(url)} redirects more than {self._rules.max_redirects} times")

    def _redirected(self, url: httpx.URL, location: str) -> httpx.URL:
        try:
            return self.checked(str(url.join(location)))
        except (httpx.InvalidURL, ValueError):
            raise MediaUnavailable(f"{origin_of(url)} redirects to a URL that is not valid") from None
        except (InvalidValue, MediaNotAllowed) as error:
            raise type(error)(f"{origin_of(url)} redirects: {error.message}") from None

    async def _send(self, url: httpx.URL) -> httpx.Response:
        """Return the response to a request at the first of the host's allowed addresses that connects."""
        failure: httpx.TransportError | None = None
        for address in await self._addresses(url):
            request = httpx.Request(
                "GET",
                url.copy_with(host=address, fragment=None),
                headers={"Host": url.netloc.decode("ascii"), **_HEADERS},
                extensions={
                    "sni_hostname": url.raw_host.decode("ascii").rstrip("."),
                    "timeout": self._timeouts,
                },
            )
            try:
                return await self._transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure or MediaUnavailable(
            # The same for a name that does not exist: the difference would map the network.
            f"{origin_of(url)} cannot be resolved to {self._wanted}: is the name of the host spelled "
            f"correctly? If it is, it may have no address that is allowed: {self._way_out()}"
        )

    async def _addresses(self, url: httpx.URL) -> list[str]:
        try:
            found = await self._resolve(url.raw_host.decode("ascii"), _port_of(url))
        except (OSError, UnicodeError):
            return []
        return [address for address in dict.fromkeys(found) if self._is_allowed(address)][:_MAX_ADDRESSES]


def domain_rule(text: str) -> str:
    """Return a host name or ``.example.com`` as ``MediaRules.allowed_domains`` has it: lower-case and in ASCII.

    Raises:
        ValueError: it is neither; the message says so.
    """
    name = text.strip().removeprefix("*").lower()
    try:
        host = httpx.URL(scheme="http", host=name.removeprefix(".")).raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError):
        host = ""
    if not _HOST.fullmatch(host):
        raise ValueError(f"{text!r} is neither a host, like example.com, nor a domain, like .example.com")
    return "." * name.startswith(".") + host


@cache
def _default_tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def origin_of(url: httpx.URL) -> str:
    """Return a URL's scheme and host: paths and queries can be secrets, and do not belong into messages."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _port_of(url: httpx.URL) -> int:
    return _PORTS[url.scheme] if url.port is None else url.port


async def _content(response: httpx.Response, url: httpx.URL, take: Callable[[int], None]) -> bytes:
    origin = origin_of(url)
    if response.status_code != httpx.codes.OK:
        raise MediaUnavailable(f"{origin} answered with status {response.status_code}")
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise MediaUnavailable(f"{origin} sent a compressed file ({encoding[:20]}), which was not requested")
    announced = response.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_MEDIUM_BYTES:
        raise _too_large(origin)
    pieces: list[bytes] = []
    num_bytes = 0
    async for piece in response.aiter_raw():
        num_bytes += len(piece)
        if num_bytes > MAX_MEDIUM_BYTES:
            raise _too_large(origin)
        take(len(piece))
        pieces.append(piece)
    if not num_bytes:
        raise MediaUnavailable(f"{origin} answered without content")
    return b"".join(pieces)


def _too_large(origin: str) -> InvalidValue:
    return InvalidValue(f"the file at {origin} has more than {MAX_MEDIUM_BYTES} bytes, the limit of one medium")


def _failure(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "cannot be connected to in time"
    if isinstance(error, httpx.TimeoutException):
        return "stopped sending"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "has no valid TLS certificate"
    if isinstance(error, httpx.ConnectError):
        return "cannot be connected to"
    return "broke off its answer, or does not speak HTTP"

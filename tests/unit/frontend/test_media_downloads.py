"""Downloads of media: what may be requested from where, and what may come back."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
import ssl
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_frontend.http_errors import MediaNotAllowed, MediaUnavailable
from ernie_frontend.media import downloads
from ernie_frontend.media.downloads import Downloader, domain_rule
from ernie_frontend.settings import MediaRules
from ernie_wire.errors import InvalidRequest
from support.media_server import CERTIFICATE, MediaServer, Resolver, media_server, redirect, response

PRIVATE = MediaRules(allow_private=True)
SECRET = "token=s3cret"


@pytest.fixture
async def server() -> AsyncIterator[MediaServer]:
    async with media_server() as server:
        yield server


async def download(
    url: str,
    rules: MediaRules = PRIVATE,
    resolver: Resolver | None = None,
    tls: ssl.SSLContext | None = None,
) -> bytes:
    downloader = Downloader(rules, resolver or Resolver(), tls)
    try:
        return await downloader.download(downloader.checked(url), lambda _: None)
    finally:
        await downloader.close()


async def failure(url: str, rules: MediaRules = PRIVATE, resolver: Resolver | None = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await download(url, rules, resolver)
    assert "s3cret" not in caught.value.message
    return caught.value


async def test_a_request_names_its_host_and_carries_nothing_else(server: MediaServer) -> None:
    server.answers = {f"/a%20b?{SECRET}": response()}
    assert await download(server.url(f"/a b?{SECRET}#fragment")) == b"picture"
    lines = server.requests[0].split("\r\n")
    assert lines[0] == f"GET /a%20b?{SECRET} HTTP/1.1"
    headers = dict(line.split(": ", 1) for line in lines[1:-2])
    assert headers.pop("User-Agent").startswith("ernie-triton/")
    assert headers == {
        "Host": f"media.test:{server.port}",
        "Accept": "image/*, video/*, */*;q=0.8",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }


async def test_cookies_and_connections_are_not_kept(server: MediaServer) -> None:
    server.answers["/"] = response(b"a", "200 OK", "Set-Cookie: id=1; Path=/")
    downloader = Downloader(PRIVATE, Resolver())
    url = downloader.checked(server.url())
    for _ in range(2):
        assert await downloader.download(url, lambda _: None) == b"a"
    await downloader.close()
    assert len(server.requests) == 2
    assert "ookie" not in server.requests[1]


async def test_proxies_of_the_environment_are_not_used(
    server: MediaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await download(server.url()) == b"picture"


async def test_a_private_address_is_never_connected_to(server: MediaServer) -> None:
    resolver = Resolver(
        {"two.test": [["10.0.0.1", "127.0.0.1"]], "local.test": [["fe80::1%lo"]], "none.test": [[]]}
    )
    for host in ("media.test", "two.test", "local.test", "none.test", "2130706433", "0x7f.1"):
        error = await failure(server.url(host=host), MediaRules(), resolver)
        assert isinstance(error, MediaUnavailable)
        assert f"http://{host}:{server.port} cannot be resolved to a public address" in error.message
        assert "--allow-private-media" in error.message
        assert "127" not in error.message.replace(host, "")
    assert server.requests == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "0.0.0.0"]
)
async def test_an_address_in_a_url_is_judged_without_a_resolver(host: str) -> None:
    resolver = Resolver()
    error = await failure(f"http://{host}/", MediaRules(), resolver)
    assert isinstance(error, MediaNotAllowed)
    assert "is not a public address; private ones need --allow-private-media" in error.message
    assert resolver.questions == []


async def test_metadata_is_out_of_reach_even_where_private_addresses_are_not() -> None:
    assert "never" in (await failure("http://169.254.169.254/latest/meta-data")).message
    rebound = Resolver({"media.test": [["169.254.169.254"]]})
    assert "never" in (await failure("http://media.test/", PRIVATE, rebound)).message


@pytest.mark.parametrize("rules", [MediaRules(), PRIVATE])
async def test_of_a_host_without_an_address_a_typo_is_the_first_guess(rules: MediaRules) -> None:
    resolver = Resolver({"exmaple.test": [[]], "meta.test": [["169.254.169.254"]]})
    texts = [(await failure(f"http://{host}.test/", rules, resolver)).message for host in ("exmaple", "meta")]
    assert "address: is the name of the host spelled correctly?" in texts[0]
    assert texts[0].replace("exmaple", "meta") == texts[1]  # the difference would map the network
    assert ("--allow-private-media" in texts[0]) is (rules is not PRIVATE)


async def test_the_address_that_was_checked_is_the_one_that_is_used(
    server: MediaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is resolved once: one that is bound to another address meanwhile gains nothing."""
    judged: list[str] = []

    def only_public(address: str, *, allow_private: bool) -> bool:
        judged.append(address)
        return address == "127.0.0.1"  # stands for the public address

    monkeypatch.setattr(downloads, "may_fetch_from", only_public)
    resolver = Resolver({"media.test": [["10.9.9.9", "127.0.0.1"], ["10.9.9.9"]]})
    assert await download(server.url(), MediaRules(), resolver) == b"picture"
    assert resolver.questions == ["media.test"]
    assert judged == ["10.9.9.9", "127.0.0.1"]
    assert isinstance(await failure(server.url(), MediaRules(), resolver), MediaUnavailable)


async def test_a_redirect_is_checked_as_a_url_is(server: MediaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    host = f"media.test:{server.port}"
    server.answers |= {
        "/name": redirect("http://inner.test/"),
        "/address": redirect("http://127.0.0.2/"),
        "/port": redirect("//media.test:25/"),
        "/file": redirect("file:///etc/passwd"),
        "/data": redirect("data:,x"),
        "/user": redirect(f"http://user:{SECRET}@media.test/"),
        "/domain": redirect("http://other.example/"),
        "/odd": redirect("http://h:x/"),
    }
    rules = MediaRules(allowed_domains=("media.test", "inner.test", "127.0.0.2"))
    resolver = Resolver({"inner.test": [["10.0.0.1"]]})
    monkeypatch.setattr(downloads, "may_fetch_from", lambda address, **_: address == "127.0.0.1")
    for path, complaint in (
        ("/name", "^http://inner.test cannot be resolved to a public"),
        ("/address", f"{host} redirects: 127.0.0.2 is not a public address"),
        ("/port", f"{host} redirects: port 25"),
        ("/file", f"{host} redirects: a URL is not valid"),
        ("/data", f"{host} redirects: a URL is not valid"),
        ("/user", f"{host} redirects: .*password"),
        ("/domain", f"{host} redirects: other.example is not among the domains"),
        ("/odd", f"{host} redirects to a URL that is not valid"),
    ):
        error = await failure(server.url(path), rules, resolver)
        assert re.search(complaint, error.message), error.message
    assert len(server.requests) == 8


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"])
async def test_redirects_are_followed(server: MediaServer, status: str) -> None:
    server.answers["/from"] = redirect("/?x", status)
    server.answers["/?x"] = redirect(server.url("/", host="other.test"), status)
    assert await download(server.url("/from")) == b"picture"
    assert f"Host: other.test:{server.port}" in server.requests[-1]


async def test_redirects_end(server: MediaServer) -> None:
    server.answers["/loop"] = redirect("/loop")
    assert "redirects more than 5 times" in (await failure(server.url("/loop"))).message
    assert len(server.requests) == 6
    server.answers["/nowhere"] = response(b"", "302 Found")
    assert "status 302" in (await failure(server.url("/nowhere"))).message


@pytest.mark.parametrize(
    "status", ["204 No Content", "206 Partial", "404 Not Found", "500 Oops", "304 Not Modified"]
)
async def test_other_answers_than_the_file(server: MediaServer, status: str) -> None:
    server.answers["/"] = response(b"internal details", status) if status[0] != "3" else response(b"", status)
    error = await failure(server.url())
    assert isinstance(error, MediaUnavailable)
    assert error.message == f"http://media.test:{server.port} answered with status {status[:3]}"


async def test_a_file_may_have_as_many_bytes_as_the_limit(
    server: MediaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MAX_MEDIUM_BYTES", 10)
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * (64 << 10))
            await writer.drain()
            sent += 1

    async def chunked(writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"6\r\nxxxxxx\r\n" * 2 + b"0\r\n\r\n"
        )

    server.answers |= {
        "/fits": response(b"x" * 10),
        "/announced": response(b"", length=11),
        "/absurd": response(b"", length=int("9" * 20)),
        "/chunked": chunked,
        "/endless": endless,
    }
    assert await download(server.url("/fits")) == b"x" * 10
    for path in ("/announced", "/absurd", "/chunked", "/endless"):
        assert "more than 10 bytes" in (await failure(server.url(path))).message
    assert sent < 1000


async def test_answers_that_are_cut_off_or_empty(server: MediaServer) -> None:
    server.answers |= {
        "/short": response(b"pic", length=7),
        "/empty": response(b""),
        "/nothing": b"",
        "/noise": b"SSH-2.0-OpenSSH_9.6\r\n",
        "/long": b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n",
    }
    for path, complaint in (
        ("/short", "broke off"),
        ("/empty", "without content"),
        ("/nothing", "broke off"),
        ("/noise", "not speak HTTP"),
        ("/long", "not speak HTTP"),
    ):
        error = await failure(server.url(path))
        assert isinstance(error, MediaUnavailable)
        assert complaint in error.message
    assert "cannot be connected to" in (await failure("http://media.test:1025/")).message


async def test_compressed_files_are_refused(server: MediaServer) -> None:
    """A bomb would unfold in memory; pictures and videos are compressed already."""
    server.answers["/"] = response(gzip.compress(b"0" * 1000), "200 OK", "Content-Encoding: gzip")
    assert "compressed file (gzip)" in (await failure(server.url())).message
    server.answers["/"] = response(b"picture", "200 OK", "Content-Encoding: identity")
    assert await download(server.url()) == b"picture"


async def test_the_first_address_that_answers_is_used(server: MediaServer) -> None:
    resolver = Resolver({"media.test": [["127.0.0.9", "127.0.0.1"]]})
    assert await download(server.url(), PRIVATE, resolver) == b"picture"
    many = Resolver({"media.test": [[f"127.0.1.{number}" for number in range(1, 200)]]})
    assert "cannot be connected to" in (await failure(server.url(), PRIVATE, many)).message


async def test_time_limits(server: MediaServer) -> None:
    is_over = asyncio.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not is_over.is_set():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def silent(_: asyncio.StreamWriter) -> None:
        await is_over.wait()

    server.answers |= {"/drip": drip, "/silent": silent}
    rules = MediaRules(allow_private=True, read_timeout_s=5, download_timeout_s=0.2)
    assert "has not sent the whole file in 0.2 s" in (await failure(server.url("/drip"), rules)).message
    rules = MediaRules(allow_private=True, read_timeout_s=0.2, download_timeout_s=5)
    assert "stopped sending" in (await failure(server.url("/silent"), rules)).message
    is_over.set()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http:///a", "HOST"),
        ("http:/a", "HOST"),
        ("http://", "HOST"),
        ("http://a b/", "HOST"),
        ("http://%31/", "HOST"),
        ("http://[fe80::1%25lo]/", "HOST"),
        ("http://a\r\nHost: b/", "not valid"),
        ("http://xn--/", "cannot be resolved"),
        ("http://[/", "not valid"),
        ("http://\ud800/", "not valid"),
        ("ftp://example.com/", "https://"),
        ("http://user@example.com/", "password"),
        (f"https://user:{SECRET}@example.com/", "password"),
        ("http://example.com\\@127.0.0.1/", "password"),
        ("http://example.com:22/", "port 22"),
        ("http://example.com:0/", "port 0"),
        ("http://example.com:70000/", "port 70000"),
        ("https://example.com/" + "a" * 9000, "9020 characters"),
    ],
)
async def test_urls_that_are_refused(url: str, complaint: str) -> None:
    error = await failure(url, MediaRules())
    assert complaint in error.message


@pytest.mark.parametrize(
    ("rules", "host", "is_allowed"),
    [
        ("example.com", "example.com", True),
        ("Example.COM", "EXAMPLE.com.", True),
        ("example.com", "a.example.com", False),
        ("example.com", "notexample.com", False),
        ("example.com", "example.com.evil.test", False),
        (".example.com", "a.b.example.com", True),
        ("*.example.com", "a.example.com", True),
        (".example.com", "example.com", False),
        (".example.com", "notexample.com", False),
        ("b\u00fccher.example", "xn--bcher-kva.example", True),
        ("xn--bcher-kva.example", "b\u00fccher.example", True),
        ("93.184.215.14", "93.184.215.14", True),
        ("2606:4700::1", "[2606:4700::1]", True),
        ("93.184.215.14", "93.184.215.15", False),
    ],
)
def test_domains(rules: str, host: str, is_allowed: bool) -> None:
    downloader = Downloader(MediaRules(allowed_domains=(domain_rule(rules),)), Resolver())
    if is_allowed:
        downloader.checked(f"https://{host}/a")
    else:
        with pytest.raises(MediaNotAllowed, match="not among the domains"):
            downloader.checked(f"https://{host}/a")


@pytest.mark.parametrize(
    "rule", ["", " ", ".", "*", "https://example.com", "example.com:80", "a/b", "a b", "user@a"]
)
def test_rules_that_are_no_domains(rule: str) -> None:
    with pytest.raises(ValueError, match="neither a host"):
        domain_rule(rule)


@given(text=st.text(max_size=30) | st.text("0123456789abcxABCX.:@/\\[]%#?- ", max_size=30))
def test_a_checked_url_is_public_or_a_name(text: str) -> None:
    downloader = Downloader(MediaRules(), Resolver())
    for url in (text, f"http://{text}", f"https://{text}/"):
        with contextlib.suppress(InvalidRequest):
            checked = downloader.checked(url)
            assert checked.raw_host
            assert not checked.userinfo


async def test_tls_is_verified_by_name_although_the_connection_goes_to_an_address() -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(CERTIFICATE)
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    names: list[str | None] = []
    served.sni_callback = lambda _, name, __: names.append(name)
    async with media_server(served) as server:
        assert await download(server.url(scheme="https"), tls=trusting) == b"picture"
        assert names == ["media.test"]
        assert f"Host: media.test:{server.port}" in server.requests[0]
        for url, tls in (
            (server.url(scheme="https", host="other.test"), trusting),
            (server.url(scheme="https", host="127.0.0.1"), trusting),
            (server.url(scheme="https"), None),
        ):
            with pytest.raises(MediaUnavailable, match="no valid TLS certificate"):
                await download(url, tls=tls)
        assert len(server.requests) == 1

"""What stands between us and a server is named: the proxy, the missing TLS, the certificates, a login, a web page."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.published import run_cli

import oid_async
from oid_async.errors import UnavailableError, UsageError
from oid_async.http.retry import FetchError
from oid_async.metadata.fetch import FileFetch


async def plan(mirror: str, folder: Path) -> None:
    """Ask a mirror for its tables, once."""
    await oid_async.plan(mirror=mirror, savepath=folder / "s", splits=["validation"], retries=0, max_wait=0.0)


@asynccontextmanager
async def answering(status: str, body: bytes = b"") -> AsyncIterator[str]:
    """Serve one answer to everything, and nothing of TLS."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1 << 16)
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        ("401 No", b"", "needs a login, .*HTTP 401"),
        ("403 No", b"", "is forbidden .*HTTP 403"),
        ("404 No", b"", "not published at"),
        ("200 OK", b"<!DOCTYPE html><title>Sign in</title>", "answers with a web page, not with a table"),
    ],
)
async def test_a_mirror_that_gives_no_table_is_said_to_do_so(
    status: str, body: bytes, words: str, tmp_path: Path
) -> None:
    """A login, a refusal, an object that is not there and a web page are told apart."""
    async with answering(status, body) as where:
        with pytest.raises(UnavailableError, match=words):
            await plan(f"http://{where}", tmp_path)


async def test_https_of_a_server_without_it_is_said(tmp_path: Path) -> None:
    """Who asks a plain server for https learns that it does not speak TLS."""
    async with answering("200 OK") as where:
        with pytest.raises(UnavailableError, match=f"{where} does not speak TLS"):
            await plan(f"https://{where}", tmp_path)


@pytest.mark.parametrize(
    ("mirror", "kind", "ending"),
    [
        (None, "network", "(network: cannot find the host); to try without a network: oid-async demo"),
        (None, "server_error", "(server_error: cannot find the host)"),
        ("http://mirror.example", "network", "(network: cannot find the host)"),
    ],
)
async def test_without_a_network_the_demo_is_named(
    mirror: str | None, kind: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the public site alone: who has a mirror knows what it is, and a server's trouble passes."""

    async def run(self: FileFetch) -> None:
        raise FetchError(kind, "cannot find the host")

    monkeypatch.setattr(FileFetch, "run", run)
    with pytest.raises(UnavailableError) as caught:
        await oid_async.metadata_pull(mirror=mirror)
    assert str(caught.value).endswith(ending)


async def test_a_proxy_that_wants_a_login_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """407 is the proxy's answer, and no fault of the mirror's."""
    async with answering("407 No") as where:
        monkeypatch.setenv("http_proxy", f"http://{where}")
        with pytest.raises(UnavailableError, match="the proxy wants a login"):
            await plan("http://mirror.example", tmp_path)


def test_a_proxy_that_is_down_is_named_without_its_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy and the variable that names it, not the mirror behind it; its password stays unsaid."""
    monkeypatch.setenv("http_proxy", "http://user:pa55w0rd@127.0.0.1:1")
    done = run_cli("plan", "--mirror", "http://mirror.example", "--retries", "0", "--max-wait", "0", cwd=tmp_path)
    assert done.code == 2
    assert "the proxy 127.0.0.1:1 (http_proxy) cannot be reached" in done.stderr
    assert "pa55w0rd" not in done.stderr


@pytest.mark.parametrize(("name", "what"), [("SSL_CERT_FILE", "file"), ("SSL_CERT_DIR", "folder")])
async def test_certificates_that_are_not_there_are_a_wrong_setting(
    name: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL would trust nobody then, and say something else."""
    monkeypatch.setenv(name, str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=f"^{name}: no such {what}"):
        await plan("https://127.0.0.1:9", tmp_path)

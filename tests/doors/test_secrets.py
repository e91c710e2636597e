"""What a URL may hold and nobody else may see: logins are refused, queries are neither printed nor stored."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.published import counted_origin, run_cli

from oid_async.errors import UsageError
from oid_async.openimages.catalogue import published
from oid_async.options.query import Options

TOKEN = "s3cr3t-token"
PASSWORD = "pa55w0rd"
LOGIN = f"http://user:{PASSWORD}@127.0.0.1:9/tables"


@pytest.fixture
def address(lookalike: Path) -> Iterator[str]:
    """The look-alike's address on loopback, served by a thread of its own."""
    started, stop = threading.Event(), threading.Event()
    addresses: list[str] = []

    async def serve() -> None:
        async with counted_origin(lookalike) as (url, _):
            addresses.append(url)
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(10)
    yield addresses[0]
    stop.set()
    thread.join()


@pytest.mark.parametrize("blank", ["", " ", "\t"])
@pytest.mark.parametrize("option", ["--mirror", "--label", "--annotation", "--imageURL"])
def test_a_login_in_a_url_is_refused_and_not_repeated(option: str, blank: str, tmp_path: Path) -> None:
    """user:password in any URL is exit 2, copied with a blank too; the message names the option, not the password."""
    done = run_cli("download", option, f"{blank}{LOGIN}", "--savepath", tmp_path / "s")
    assert done.code == 2
    assert f"{option}) holds" in done.stderr or f"{option} holds" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    assert not (tmp_path / "s").exists()


def test_a_login_in_the_environment_is_refused_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """OID_ASYNC_MIRROR is no way around it, and a user name alone is a login."""
    monkeypatch.setenv("OID_ASYNC_MIRROR", LOGIN)
    with pytest.raises(UsageError, match=r"mirror.* holds a user name"):
        Options()
    monkeypatch.setenv("OID_ASYNC_MIRROR", "https://user@x.org/")
    with pytest.raises(UsageError, match=r"mirror.* holds a user name"):
        Options()


@pytest.mark.parametrize("end", ["?token=x", "#part", "/a?"])
def test_a_mirror_has_neither_query_nor_fragment(end: str) -> None:
    """A key is added to a mirror's address, so that nothing may stand behind it; the query is not repeated."""
    with pytest.raises(UsageError, match=r"--mirror http://x\.org.*query or fragment") as caught:
        Options(mirror=f"http://x.org{end}")
    assert "token" not in str(caught.value)


def test_the_query_of_a_table_url_is_stored_nowhere(address: str, tmp_path: Path) -> None:
    """A table is had from a URL with a token, which is in no file and no message; query.json says ?REDACTED."""
    (boxes,), (images,) = published("boxes", ["validation"]), published("images", ["validation"])
    given = {
        option: f"{address}/{table.bucket}/{table.key}?token={TOKEN}"
        for option, table in {"--annotation": boxes, "--imageURL": images}.items()
    }
    words = [word for pair in given.items() for word in pair]
    query = [*words, "--split", "validation", "--mirror", address, "--savepath", tmp_path / "s"]
    done = run_cli("download", *query, "--cache-dir", tmp_path / "cache", "--source", "cvdf")
    assert done.code == 0, done.stderr
    stored = json.loads((tmp_path / "s" / "query.json").read_text())["query"]
    assert stored["annotation"] == given["--annotation"].replace(f"token={TOKEN}", "REDACTED")
    # A resumed run with another token is the same query: nothing is asked of the images again.
    again = run_cli(
        "download",
        *[str(word).replace(TOKEN, f"{TOKEN}2") for word in query],
        "--json",
        "--cache-dir",
        tmp_path / "cache",
        "--source",
        "cvdf",
    )
    assert json.loads(again.stdout)["requests"] == 0
    failed = run_cli("plan", "--annotation", f"{address}/nothing.csv?token={TOKEN}", "--mirror", address)
    assert failed.code == 2
    assert f"{address}/nothing.csv?REDACTED" in failed.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if TOKEN.encode() in path.read_bytes() or TOKEN in path.name] == []
    for text in (done, again, failed):
        assert TOKEN not in text.stdout + text.stderr


def test_a_stored_query_without_its_secret_asks_for_it() -> None:
    """What query.json could not keep is asked for by the option's name."""
    with pytest.raises(UsageError, match=r"--annotation: the query .* give it"):
        Options(annotation="https://x.org/boxes.csv?REDACTED")


def test_a_proxys_password_is_not_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A proxy that cannot be used is named without its login."""
    monkeypatch.setenv("http_proxy", f"socks5://user:{PASSWORD}@127.0.0.1:1")
    done = run_cli("plan", "--split", "validation", "--mirror", "http://mirror.example", cwd=tmp_path)
    assert done.code == 2
    assert "socks5://127.0.0.1:1" in done.stderr
    assert PASSWORD not in done.stderr


@pytest.mark.parametrize("option", ["--savepath", "--cache-dir", "--image-ids", "--category-file", "--allow-host"])
def test_no_option_takes_or_repeats_a_login(option: str, tmp_path: Path) -> None:
    """Also an option that takes no URL at all refuses one with a login, or keeps the password to itself."""
    done = run_cli("download", "--mirror", tmp_path, option, LOGIN, cwd=tmp_path)
    assert (done.code, PASSWORD in done.stdout + done.stderr) == (2, False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["--miror {}", "--miror={}", "--mirror http://x.org {}", "{} --mirror http://x.org"])
def test_a_mistyped_option_does_not_repeat_a_login(form: str, tmp_path: Path) -> None:
    """What the parser does not know it names, or quotes without secrets."""
    done = run_cli("plan", *form.format(f"http://user:{PASSWORD}@x.org/?token={TOKEN}").split(), cwd=tmp_path)
    said = "unknown option --miror; nearest: --mirror" if "miror" in form else "http://x.org/?REDACTED"
    assert (done.code, said in done.stderr) == (2, True)
    assert PASSWORD not in done.stderr
    assert TOKEN not in done.stderr

"""The service of examples/: it downloads on request, one folder at a time, and stops when it is told to."""

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from support.published import read_manifest
from support.shown_examples import EXAMPLES, example
from support.slow_origin import Slow, origin_in_a_thread

import oid_async

BALLS: dict[str, Any] = {"name": "balls", "query": {"categories": ["Football"], "splits": ["validation"]}}
Client = TestClient[Any, Any]


@pytest.fixture
async def origin(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Slow]:
    """Return an origin that can be told to stall; the service asks it."""
    slow = Slow()
    with origin_in_a_thread(slow) as url:
        monkeypatch.setenv("OID_ASYNC_MIRROR", url)
        yield slow
        slow.stalls = False


@pytest.fixture
def service() -> ModuleType:
    """Return the module of the service."""
    return example("service")


@pytest.fixture
async def client(service: ModuleType, origin: Slow, tmp_path: Path) -> AsyncIterator[Client]:
    """Return a client of the service."""
    async with TestClient(TestServer(service.make_app(tmp_path / "downloads"))) as client:
        yield client


async def state_of(client: Client | ClientSession, name: str, *states: str) -> dict[str, Any]:
    """Wait until a download has one of these states; return what is said of it."""
    async with asyncio.timeout(60):
        while True:
            async with client.get(f"/downloads/{name}") as response:
                said: dict[str, Any] = await response.json()
            if said["state"] in states:
                return said
            await asyncio.sleep(0.05)


async def test_a_download_is_followed_to_its_end(client: Client, origin: Slow, tmp_path: Path) -> None:
    """Who follows gets a line for each image, and the state at the end; the counts are those of the folder."""
    origin.stalls = True
    async with client.post("/downloads", json=BALLS) as response:
        assert (response.status, response.headers["Location"]) == (202, "/downloads/balls")
    async with client.get("/downloads/balls/outcomes") as response:
        origin.stalls = False
        *images, last = [json.loads(line) async for line in response.content]
    rows = read_manifest(tmp_path / "downloads" / "balls")
    assert (last["state"], last["selected"]) == ("done", len(rows))
    assert {each["image_id"]: each["file"] for each in images} == {row["ImageID"]: row["FileName"] for row in rows}
    async with client.get("/downloads/balls/outcomes") as response:
        assert json.loads(await response.read()) == last


async def test_a_folder_has_one_download_that_is_cancelled_and_goes_on(client: Client, origin: Slow) -> None:
    """A second one is refused until the first was deleted; what that has saved is there for the next."""
    origin.stalls = True
    for status in (202, 409):
        async with client.post("/downloads", json=BALLS) as response:
            assert response.status == status
    await state_of(client, "balls", "downloading")
    async with client.get("/downloads/balls/outcomes") as follower:
        async with client.delete("/downloads/balls") as response:
            assert (await response.json())["state"] == "cancelled"
        assert json.loads((await follower.read()).splitlines()[-1])["state"] == "cancelled"
    origin.stalls = False
    async with client.post("/downloads", json=BALLS) as response:
        assert response.status == 202
    assert (await state_of(client, "balls", "done", "failed"))["state"] == "done"


async def test_a_follower_that_goes_does_not_stop_the_download(client: Client, origin: Slow) -> None:
    """Its connection is closed before the first image lands."""
    origin.stalls = True
    async with client.post("/downloads", json=BALLS):
        pass
    await state_of(client, "balls", "downloading")
    (await client.get("/downloads/balls/outcomes")).close()
    origin.stalls = False
    assert (await state_of(client, "balls", "done", "failed"))["state"] == "done"


async def test_a_follower_that_takes_nothing_is_left(service: ModuleType) -> None:
    """A download waits for it so long and no longer; who waits with its response is cancelled."""

    class Stuck:
        async def write(self, line: bytes) -> None:
            await asyncio.Event().wait()

    service.PATIENCE_S = 0.01  # type: ignore[attr-defined]
    download = service.Download("balls", oid_async.Query())
    handler = asyncio.create_task(download.over.wait())
    download.followers[Stuck()] = handler
    await download.tell(oid_async.Outcome("0123456789abcdef", "present", None))
    assert download.followers == {}
    await asyncio.wait([handler])
    assert handler.cancelled()


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"name": "../up", "query": {}}, 400, "small-letters"),
        ({"name": "a", "query": {"annotation": "/etc/passwd"}}, 400, "no option 'annotation' here"),
        ({"name": "a", "query": {"splits": ["evening"]}}, 400, "evening"),
        ({"name": "a", "query": {"categories": 5}}, 400, "categor"),
        ([], 400, "small-letters"),
    ],
)
async def test_what_cannot_be_asked_for_is_refused(client: Client, body: Any, status: int, text: str) -> None:
    """No name that leaves the root, no option that names a file of the server, no wrong value."""
    async with client.post("/downloads", json=body) as response:
        assert response.status == status
        assert text in (await response.json())["error"]


async def test_no_page_elsewhere_and_no_unknown_name(client: Client) -> None:
    """A form is refused, as is what is no JSON, and a name that nobody has started."""
    async with client.post("/downloads", data=json.dumps(BALLS), headers={"Content-Type": "text/plain"}) as response:
        assert response.status == 415
    async with client.post("/downloads", data="{", headers={"Content-Type": "application/json"}) as response:
        assert response.status == 400
    for method, path in (("GET", "/downloads/x"), ("DELETE", "/downloads/x"), ("GET", "/downloads/x/outcomes")):
        async with client.request(method, path) as response:
            assert response.status == 404


async def test_limits_are_kept(client: Client, origin: Slow, service: ModuleType) -> None:
    """A wrong class and too many images fail in words; two downloads are on, others wait, one more is refused."""
    service.MAX_IMAGES = 20  # type: ignore[attr-defined]
    selects = {"many": {"categories": ["Person"], "splits": ["all"]}, "wrong": {"categories": ["Footbal"]}}
    for name, select in selects.items():
        async with client.post("/downloads", json={"name": name, "query": select}):
            pass
    assert "give a limit, 20 at most" in (await state_of(client, "many", "failed"))["error"]
    assert "nearest: Football" in (await state_of(client, "wrong", "failed"))["error"]
    origin.stalls = True
    asked = [{**BALLS, "name": f"d{number}"} for number in range(service.MAX_UNFINISHED + 1)]
    statuses = []
    for body in asked:
        async with client.post("/downloads", json=body) as response:
            statuses.append(response.status)
    assert statuses == [*[202] * service.MAX_UNFINISHED, 429]
    for name in ("d0", "d1"):
        await state_of(client, name, "downloading")
    assert (await state_of(client, "d2", "waiting", "planning", "downloading"))["state"] == "waiting"


@pytest.mark.programs
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_program_ends_when_it_is_told_to(number: signal.Signals, origin: Slow, tmp_path: Path) -> None:
    """With a download on and somebody who follows it: both end, and the folder can be used by the next run."""
    origin.stalls = True
    command = (sys.executable, "-u", str(EXAMPLES / "service.py"), "--port", "0", "--root", str(tmp_path))
    program = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        assert program.stdout is not None
        (url,) = re.findall(r"http://[\d.:]+", (await program.stdout.readline()).decode())
        async with ClientSession(url) as session:
            async with session.post("/downloads", json=BALLS):
                pass
            await state_of(session, "balls", "downloading")
            async with session.get("/downloads/balls/outcomes") as follower:
                program.send_signal(number)
                assert json.loads((await follower.read()).splitlines()[-1])["state"] == "cancelled"
        _, said = await asyncio.wait_for(program.communicate(), 30)
        assert (program.returncode, said) == (0, b"")
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    origin.stalls = False
    done = await oid_async.download(**BALLS["query"], savepath=tmp_path / "balls")
    assert done.downloaded > 0

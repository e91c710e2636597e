"""Children that were forked after every door was used, or in the midst of a run: each works or raises at once."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.published import publish_lookalike

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

DOORS = """
import asyncio, itertools, multiprocessing, os, signal, sys, threading, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import oid_async
root, mirror = Path(sys.argv[1]), sys.argv[2]
asked = {"mirror": mirror, "cache_dir": root / "cache"}
chosen = {"categories": ["Dog"], "splits": ["validation"], **asked}
numbers = itertools.count()

def new():
    return root / f"{os.getpid()}-{next(numbers)}"

async def streamed():
    async with oid_async.stream(savepath=new(), **chosen) as outcomes:
        return sum([1 async for _ in outcomes])

def opened():
    with oid_async.open(root / "d") as dataset:
        return len(dataset.boxes.collect())

def made():
    from oid_async.torch import OpenImages
    return OpenImages(root / "d")

def trained():
    from oid_async.torch import Stream
    with Stream(transform=lambda image, target: target["image_id"], **chosen) as stream:
        return len(list(stream))

doors = {
    "download": lambda: asyncio.run(oid_async.download(savepath=new(), **chosen)),
    "plan": lambda: asyncio.run(oid_async.plan(**chosen)),
    "stream": lambda: asyncio.run(streamed()),
    "export": lambda: asyncio.run(oid_async.export(savepath=root / "d", format="coco", out=new())),
    "verify": lambda: asyncio.run(oid_async.verify(savepath=root / "d")),
    "open": opened,
    "stats": lambda: asyncio.run(oid_async.stats(root / "d")),
    "stats of a query": lambda: asyncio.run(oid_async.stats(**chosen)),
    "classes": lambda: asyncio.run(oid_async.classes("dog", **asked)),
    "resolve": lambda: asyncio.run(oid_async.resolve(["0123456789abcdef"], **asked)),
    "metadata_list": lambda: asyncio.run(oid_async.metadata_list(**asked)),
    "metadata_pull": lambda: asyncio.run(oid_async.metadata_pull(splits=["validation"], **asked)),
    "repeat": lambda: asyncio.run(oid_async.repeat(root / "d", savepath=new(), **asked)),
    "prune": lambda: asyncio.run(oid_async.prune(root / "d", dry_run=True)),
    "OpenImages": made,
    "Stream": trained,
}
if sys.argv[3] == "used":
    asyncio.run(oid_async.download(savepath=root / "d", **chosen))
elif not (child := os.fork()):
    # So this process has used nothing itself.
    asyncio.run(oid_async.download(savepath=root / "d", **chosen))
    os._exit(0)
else:
    os.waitpid(child, 0)

def answer(door):
    try:
        door()
    except oid_async.errors.UsageError as error:
        return "raised" if "start it with spawn" in str(error) else f"wrong: {error}"
    except Exception as error:
        return f"wrong: {type(error).__name__}: {error}"
    return "worked"

def forked(name, door, out):
    child = os.fork()
    if not child:
        os.write(out, f"{name}: {answer(door)}\\n".encode())
        os._exit(0)
    return child

def wait(children, seconds):
    end = time.monotonic() + seconds
    while children and time.monotonic() < end:
        children = {pid: name for pid, name in children.items() if not os.waitpid(pid, os.WNOHANG)[0]}
        time.sleep(0.01)
    for pid, name in children.items():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        print(f"{name}: hung", flush=True)
"""

AFTER = """
for name, door in doors.items():
    said = answer(door)
    assert said == "worked", f"{name}: {said}"
dataset = made()
dataset[0]
doors["an image of a dataset"] = lambda: dataset[1]
# A stream in a child starts a process of its own, which takes a second.
quick = [name for name in doors if name != "Stream"]
wait({forked("Stream", doors["Stream"], 1): "Stream" for _ in range(2)}, 100)
for start in range(0, 198, 18):
    names = [quick[number % len(quick)] for number in range(start, start + 18)]
    wait({forked(name, doors[name], 1): name for name in names}, 60)
"""

DURING = """
def run():
    asyncio.run(oid_async.download(savepath=new(), **chosen))
    for name in ("export", "verify", "open", "stats", "classes"):
        answer(doors[name])

thread = threading.Thread(target=run)
thread.start()
children = {}
for name in itertools.cycle(name for name in doors if name != "Stream"):
    children[forked(name, doors[name], 1)] = name
    time.sleep(0.05)
    if not thread.is_alive() or len(children) > 60:
        break
thread.join()
# On a busy machine all of them may have come before the first door.
children[forked("open", doors["open"], 1)] = "open"
wait(children, 100)
"""

OTHERS = """
def grandchild():
    child = os.fork()
    if not child:
        os.write(1, f"open in a child of a child: {answer(doors['open'])}\\n".encode())
        os._exit(0)
    os.waitpid(child, 0)

def named(name):
    return f"{name} in a pool: {answer(doors[name])}"

doors["open"]()
wait({forked("a child", grandchild, 1): "a child"}, 60)
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map_async(named, ["plan", "classes", "resolve", "open", "OpenImages"]).get(60)
    print("\\n".join(found), flush=True)
"""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror folder of the look-alike."""
    return publish_lookalike(tmp_path_factory.mktemp("mirror"))


def answers(mirror: Path, root: Path, program: str, mode: str = "used") -> Counter[str]:
    """Return how often children worked, raised, hung or did anything else, with the name of the door if they did."""
    command = [sys.executable, "-c", DOORS + program, str(root), str(mirror), mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (line.rpartition(": ")[::2] if ": wrong" not in line else (line, line) for line in done.stdout.splitlines())
    return Counter(said if said in ("worked", "raised") else f"{name}: {said}" for name, said in lines)


def test_two_hundred_children_work_or_raise(mirror: Path, tmp_path: Path) -> None:
    """After every door was used: whatever door a child uses, it raises at once; an image of a dataset it reads."""
    said = answers(mirror, tmp_path, AFTER)
    assert set(said) == {"worked", "raised"}
    assert sum(said.values()) == 200


def test_children_of_a_run_work_or_raise(mirror: Path, tmp_path: Path) -> None:
    """Forked while a thread of the parent is in the midst of runs, from its first import on: none hangs."""
    said = answers(mirror, tmp_path, DURING, "fresh")
    assert set(said) <= {"worked", "raised"}
    assert said["raised"]


def test_children_of_children_and_of_a_pool_raise(mirror: Path, tmp_path: Path) -> None:
    """So do a child of a child, and the processes of a pool that forks; the child itself used no door."""
    assert answers(mirror, tmp_path, OTHERS) == {"raised": 6, "worked": 1}

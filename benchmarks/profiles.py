"""What download.py measures: which contestants fetch how many of which images, under which conditions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import server
from contestants import OURS, PEERS, Contestant, find_peers, offered_options, ours, ours_from_tables
from corpus import REFUSED_FORMS, Form
from figures import FACTOR
from harness import BenchError

NO_HASH = f"{OURS} --no-hash"
TABLES = f"{OURS}, from tables"
AUTO = f"{OURS}, auto"
IDS, CACHED = f"{OURS}, list of ids", f"{OURS}, category, cached tables"
SWEEP = (16, 32, 64, 128, 256, 512)
DELAYS_MS = (50, 200)
LATENCY_FEW = 1_500
SMALL_JOB = 100
CATEGORY = "Person"
# Not rivals but the goal: what an image costs a loop in Python that does nothing but fetch, hash or not, and store it.
BARE_LOOPS = ("bare-loop", "bare-loop --no-hash")
# They take minutes for what the others fetch in seconds, so they get a quarter of the images.
SLOW_PEERS, SLOWER = ("parfive", "img2dataset"), 4
# What is no image might be a broken proxy's doing: the program asks once more before it gives up an image.
ANSWERS_REFUSED = 2
# Of one host oid-async asks for 500 images anew as soon as may be, and spaces further retries out.
FEW_REFUSED = 120

# The profiles, and the peers of each; where there are none, our program is compared with itself.
OVER_HTTPS = ("curl", "aria2c")
OVER_HTTP = (*OVER_HTTPS, *SLOW_PEERS, *BARE_LOOPS)
PROCESS_PROFILES = ("processes-300k", "processes-24k", "small-jobs")
PEERS_IN: dict[str, tuple[str, ...]] = {
    "300k": OVER_HTTP,
    "24k": OVER_HTTP,
    "https-300k": OVER_HTTPS,
    "https-24k": OVER_HTTPS,
    "unwalkable": (),
    "start": (),
    **{f"latency-{delay_ms}": () for delay_ms in DELAYS_MS},
    **dict.fromkeys(PROCESS_PROFILES, ()),
}


@dataclass(frozen=True)
class Kind:
    """A set of images to serve: how many of what size, and how many of them the smaller run of a pair fetches."""

    name: str
    images: int
    size: int
    few: int
    form: Form = "usual"

    def scaled(self, scale: float) -> Kind:
        few = max(SMALL_JOB, round(self.few * scale))
        return replace(self, few=few, images=max(FACTOR * few, round(self.images * scale)))


# As many as the published validation split has, so that tables are as long as those.
LARGE = Kind("large", 41_620, 300_000, 2_500)
SMALL = Kind("small", 48_000, 24_000, 12_000)
# The 300 KB images again, such as take longer to check: a contestant for each form.
FORMS: dict[str, Form] = {
    f"{OURS}, long header": "long-header",
    f"{OURS}, early end marker": "early-end",
    f"{OURS}, no scan, refused": "no-scan",
    f"{OURS}, endless header, refused": "endless-header",
}


@dataclass(frozen=True)
class Profile:
    """What is compared under which conditions.

    `few`: images of the smaller run of each pair, FACTOR times as many in the larger one; 0 for one run of `SMALL_JOB`
    images.  `pairs`: whose speed is divided by whose; of several rivals by that of the fastest.  `kinds`: what is
    fetched by contestants that do not fetch `kind`.  `category`: only images that have it.  `is_warm`: each contestant
    runs once before the rounds, without being counted.
    """

    name: str
    title: str
    kind: Kind
    contestants: Sequence[Contestant]
    pairs: Sequence[tuple[str, tuple[str, ...]]] = ()
    few: int = 0
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    category: str | None = None
    is_warm: bool = False
    https: bool = False
    delay_ms: int = 0

    def kind_of(self, contestant: Contestant) -> Kind:
        return self.kinds.get(contestant.name, self.kind)

    def all_kinds(self) -> set[Kind]:
        return {self.kind_of(contestant) for contestant in self.contestants}

    def sizes(self, contestant: Contestant, there: int) -> tuple[int, ...]:
        """Images of each run in a round, of at most so many that are there; where they take long, fewer."""
        if not self.few:
            return (min(SMALL_JOB, there),)
        few = min(self.few, there // FACTOR) // (SLOWER if contestant.name in SLOW_PEERS else 1)
        if contestant.is_refusing:
            few = min(few, FEW_REFUSED)
        return (few, FACTOR * few)

    def answers(self, name: str) -> int:
        """How often the contestant is sent each image."""
        return next(ANSWERS_REFUSED if one.is_refusing else 1 for one in self.contestants if one.name == name)

    def only(self, is_wanted: Callable[[str], bool]) -> Profile:
        """The same with the wanted contestants alone."""
        left = [one for one in self.contestants if is_wanted(one.name)]
        names = {one.name for one in left}
        pairs = [(name, tuple(rival for rival in rivals if rival in names)) for name, rivals in self.pairs]
        return replace(self, contestants=left, pairs=[pair for pair in pairs if pair[0] in names and pair[1]])


def against_peers(name: str, title: str, kind: Kind, contestants: list[Contestant], *, https: bool = False) -> Profile:
    """Each of ours against each peer; the bare loops are there for their CPU time."""
    own = [one.name for one in contestants if one.is_ours and one.name != TABLES]
    rivals = [one.name for one in contestants if not one.is_ours and one.name not in BARE_LOOPS]
    pairs = [(our_name, (rival,)) for our_name in own for rival in rivals]
    pairs += [(other, (OURS,)) for other in (NO_HASH, TABLES) if other in [one.name for one in contestants]]
    return Profile(name, title, kind, contestants, pairs, kind.few, https=https)


def latency_profile(program: Path, delay_ms: int, kind: Kind, few: int) -> Profile:
    fixed = [ours(program, f"{OURS}, {n} at once", "--concurrency", str(n)) for n in SWEEP]
    auto = ours(program, AUTO)
    pairs = [(AUTO, tuple(one.name for one in fixed))]
    title = f"24 KB, every answer {delay_ms} ms late"
    return Profile(f"latency-{delay_ms}", title, kind, [*fixed, auto], pairs, few, delay_ms=delay_ms)


def process_profiles(program: Path, large: Kind, small: Kind) -> list[Profile]:
    """One process, two, and what the program chooses by itself."""
    counts = ("1", "2", "auto")
    names = [f"{OURS} --processes {count}" for count in counts]
    options = dict(zip(names, counts, strict=True))
    field = [ours(program, name, "--processes", count) for name, count in options.items()]
    first_use = [ours_from_tables(program, name, "--processes", count) for name, count in options.items()]
    pairs = [(name, (names[0],)) for name in names[1:]]
    few_images = "300 KB, one process and two, tables fetched and converted by each run"
    return [
        Profile("processes-300k", "300 KB, one process and two", large, field, pairs, large.few),
        Profile("processes-24k", "24 KB, one process and two", small, field, pairs, small.few),
        Profile("small-jobs", few_images, large, first_use, pairs),
    ]


def unwalkable_profile(program: Path, large: Kind) -> Profile:
    """Images that take longer to check, compared with the usual ones of their size."""
    kinds = {name: replace(large, name=form, images=FACTOR * large.few, form=form) for name, form in FORMS.items()}
    slow = [ours(program, name, is_refusing=kind.form in REFUSED_FORMS) for name, kind in kinds.items()]
    pairs = [(name, (OURS,)) for name in kinds]
    title = "300 KB, the header or the end marker hard to find"
    return Profile("unwalkable", title, large, [ours(program, OURS), *slow], pairs, large.few, kinds=kinds)


def start_profile(program: Path, large: Kind) -> Profile:
    cached = ours_from_tables(program, CACHED, category=CATEGORY, is_cached=True)
    field = [ours(program, IDS), cached]
    return Profile("start", "300 KB, from spawn to exit", large, field, category=CATEGORY, is_warm=True)


def make_profiles(
    names: list[str], program: Path, nginx: Path, scale: float, is_wanted: Callable[[str], bool] = lambda _name: True
) -> list[Profile]:
    """The named profiles as far as the installed tools allow; what is missing is named and left out."""
    large, small = LARGE.scaled(scale), SMALL.scaled(scale)
    offered = offered_options(program)
    wanted = {peer for name in names for peer in PEERS_IN[name] if is_wanted(peer)}
    peers = find_peers([peer for peer in PEERS if peer in wanted])
    own = [ours(program, OURS)]
    if "--no-hash" in offered:
        own.append(ours(program, NO_HASH, "--no-hash"))
    elif any(PEERS_IN[name] for name in names):
        leave_out([NO_HASH], "this version has no such option")
    tables = ours_from_tables(program, TABLES)

    def field(name: str) -> list[Contestant]:
        return [*(peers[peer] for peer in PEERS_IN[name] if peer in peers), *own]

    made = [
        against_peers("300k", "300 KB", large, [*field("300k"), tables]),
        against_peers("24k", "24 KB", small, [*field("24k"), tables]),
        against_peers("https-300k", "300 KB, https", large, field("https-300k"), https=True),
        against_peers("https-24k", "24 KB, https", small, field("https-24k"), https=True),
        unwalkable_profile(program, large),
        start_profile(program, large),
        *(latency_profile(program, delay_ms, small, round(LATENCY_FEW * scale)) for delay_ms in DELAYS_MS),
        *process_profiles(program, large, small),
    ]
    missing: set[str] = set()
    try:
        server.echo_module(nginx)
    except BenchError as error:
        missing |= leave_out([name for name in names if name.startswith("latency")], str(error))
    if "--processes" not in offered:
        missing |= leave_out([name for name in names if name in PROCESS_PROFILES], "this version has no --processes")
    chosen = [profile.only(is_wanted) for profile in made if profile.name in names and profile.name not in missing]
    return [profile for profile in chosen if profile.contestants]


def leave_out(names: list[str], why: str) -> set[str]:
    if names:
        print(f"left out: {', '.join(names)}: {why}", file=sys.stderr)
    return set(names)


def words_of(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def chosen_names(only: str | None) -> list[str]:
    """The profiles named, or whose name starts with a name and a dash; all if none are."""
    if only is None:
        return list(PEERS_IN)
    words = words_of(only)
    chosen = {word: [name for name in PEERS_IN if name == word or name.startswith(f"{word}-")] for word in words}
    for word, found in chosen.items():
        if not found:
            raise BenchError(f"--only: no profile {word}; there are {', '.join(PEERS_IN)}")
    return [name for name in PEERS_IN if any(name in found for found in chosen.values())]


def chosen_tools(tools: str | None) -> Callable[[str], bool]:
    """Whether a contestant is wanted: by its name, or by that of the tool for all of its contestants; all if none are.

    >>> [chosen_tools("curl,oid-async --no-hash")(name) for name in ("curl", "oid-async", "oid-async --no-hash")]
    [True, False, True]
    >>> [chosen_tools("oid-async")(name) for name in ("curl", "oid-async", "oid-async, auto")]
    [False, True, True]
    """
    words = words_of(tools)
    return lambda name: not words or name in words or name.replace(",", " ").split(" ")[0] in words

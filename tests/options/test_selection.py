"""`oid_async.Query`: what to select, as a value."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from oid_async import Query
from oid_async.errors import InputError, UsageError
from oid_async.jobs.query_document import is_taken
from oid_async.options.query import Options, option_fields
from oid_async.options.selection import SELECTING, options_of
from oid_async.version import __version__

HERE = Path(__file__).resolve()
# Said of how images are fetched and named, and yet taken from query.json by a repair.
OF_FETCHING = {"source", "names", "no_hash", "top_up", "max_image_bytes", "max_bad_rows"}
ODD: dict[str, Any] = {
    "categories": ["Dog", "Caffè latte"],
    "match": "inter",
    "is_group_of": "no",
    "image_ids": ["train/0123456789abcdef"],
    "exclude_ids": "~/no [such] list.txt",
    "limit": 7,
    "shuffle": True,
    "splits": ["test", "train"],
    "kinds": ["bbox", "label"],
    "min_confidence": 0.5,
    "all_boxes": True,
    "shard": "0/3",
    "release": "v6",
    "annotation": "../boxes.csv",
}


def test_it_has_every_option_that_selects() -> None:
    """A Query holds what a repair takes of query.json, but for what says how to fetch."""
    assert {option.name for option in option_fields() if is_taken(option.name)} - OF_FETCHING == SELECTING


def test_it_is_a_value() -> None:
    """Queries that select the same are equal and have one hash; repr, JSON, pickle and copy give the same query."""
    query = Query(**ODD)
    same = Query(**ODD | {"match": "all", "splits": ["train", "test"], "is_group_of": False, "limit_per_class": -1})
    assert (query == same, hash(query) == hash(same)) == (True, True)
    assert query != query.replace(limit=8)
    assert eval(repr(query), {"Query": Query}) == query
    assert Query.from_json(query.to_json()) == query
    assert Query.from_json(json.loads(query.to_json())) == query
    assert pickle.loads(pickle.dumps(query)) == copy.deepcopy(query) == query
    with pytest.raises(AttributeError):
        setattr(query, "limit", 8)  # noqa: B010
    assert (query.limit, query.only_matching, query.seed, query.shard) == (7, False, 0, "3/3")
    assert query.annotation == str(Path.cwd() / ".." / "boxes.csv")


def test_its_repr_shows_what_differs() -> None:
    """An option at its default is not shown, nor in the JSON."""
    assert repr(Query()) == "Query()"
    assert Query.from_json(Query().to_json()) == Query() == Query(kinds=None, categories=None)  # type: ignore[arg-type]
    assert repr(Query(categories="Dog", limit=-1, only_matching=True)) == "Query(categories=('Dog',))"
    assert repr(Query(only_matching=False)) == "Query(all_boxes=True)"
    text = Query(categories=["Dog"]).to_json()
    assert json.loads(text) == {"program": f"oid-async {__version__}", "query": {"categories": ["Dog"]}}


@pytest.mark.parametrize(
    ("given", "error", "names"),
    [
        ({"limit": -2}, UsageError, "--ndata"),
        ({"categories": []}, UsageError, "--category"),
        ({"match": "all"}, UsageError, "--type"),
        ({"image_ids": "-", "exclude_ids": "-"}, UsageError, "--image-ids and --exclude-ids"),
        ({"savepath": "d"}, TypeError, "'savepath'.*query="),
        ({"categorie": ["Dog"]}, TypeError, "'categories'"),
        ({"ndata": 3}, TypeError, "'limit'"),
        ({"rates": 3}, TypeError, "^no option 'rates'"),
    ],
)
def test_it_is_checked_when_made(given: dict[str, Any], error: type[Exception], names: str) -> None:
    """What cannot be used is refused at once, by its name."""
    with pytest.raises(error, match=names):
        Query(**given)


def test_a_query_takes_the_place_of_its_keywords() -> None:
    """`query=` gives the options that its keywords give; beside it go the others, and none of its own."""
    own: Any = {"savepath": "d", "rate": 3.0}
    assert options_of(Query(**ODD), own) == Options.of(**ODD, **own)
    for name in ("limit", "shard", "release"):
        with pytest.raises(UsageError, match=rf"^{name} is a part of the query"):
            options_of(Query(), own | {name: None})
    with pytest.raises(UsageError, match=r"oid_async\.Query"):
        options_of({"limit": 3}, {})  # type: ignore[arg-type]


def test_a_secret_of_a_table_is_not_shown() -> None:
    """repr and JSON have no query of a table's URL; without it the query cannot be made, with it it can."""
    url = "https://x.org/boxes.csv?token=secret"
    query = Query(annotation=url)
    assert "secret" not in repr(query) + query.to_json()
    with pytest.raises(UsageError, match=r"--annotation.*was not stored"):
        Query.from_json(query.to_json())
    assert Query.from_json(query.to_json(), annotation=url) == query == pickle.loads(pickle.dumps(query))


@pytest.mark.parametrize("form", ["path", "folder", "text", "object"])
def test_a_query_json_of_0_1_0_is_read(form: str) -> None:
    """Of an old folder's query.json, in each form, comes what to select and nothing of how or where to."""
    folder = HERE.parents[1] / "old_folders" / "0.1.0" / "plain"
    path = folder / "query.json"
    text = path.read_text(encoding="utf-8")
    sources: dict[str, Any] = {"path": path, "folder": str(folder), "text": text, "object": json.loads(text)}
    query = Query.from_json(sources[form])
    assert query == Query(categories=["Cat"], splits=["validation"], kinds=["all"], all_boxes=True)


def test_a_list_that_was_kept_is_found_beside_query_json(tmp_path: Path) -> None:
    """A list kept in SAVEPATH is taken from where query.json is now; one of the user's own stays where it was."""
    lists = {"image_ids": "/gone/d/image_ids.txt", "exclude_ids": "/data/exclude_ids.txt", "savepath": "/gone/d"}
    (tmp_path / "query.json").write_text(json.dumps({"query": lists}), encoding="utf-8")
    (tmp_path / "image_ids.txt").touch()
    (tmp_path / "exclude_ids.txt").touch()
    query = Query.from_json(tmp_path)
    assert (query.image_ids, query.exclude_ids) == (str(tmp_path / "image_ids.txt"), "/data/exclude_ids.txt")


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ('{"query": {"limit": "many"}}', UsageError, "--ndata"),
        ('{"query": {"seed": [[1]], "image_ids": {"a": 1}}}', UsageError, "--"),
        ('{"query": {"colour": 1}}', InputError, "'colour'"),
        ('{"query": []}', InputError, "no query.json"),
        ("{", InputError, "no JSON"),
        ("no/such/query.json", InputError, "query.json: cannot be read"),
    ],
)
def test_what_is_no_query_json_is_refused(text: str, error: type[Exception], says: str) -> None:
    """One line names the option, or says what the file is not."""
    with pytest.raises(error, match=says) as caught:
        Query.from_json(text)
    assert "\n" not in str(caught.value)

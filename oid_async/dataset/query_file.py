"""The query that filled a folder, read from query.json. Light to import."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from oid_async.errors import InputError, UsageError
from oid_async.options.query import Options


def read_query_file(savepath: Path) -> dict[str, Any]:
    """Return SAVEPATH/query.json as a dict. Raises InputError when it is not there or no JSON object."""
    path = savepath / "query.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: it is not there, so nothing says what to fetch; run the download again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(path, error) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: cannot be repeated (it is no JSON object); run the download again")
    return content


def whole_query(content: dict[str, Any], savepath: Path) -> Options:
    """Return all options of a query.json, to read what its run has saved: the cache, tables and lists that it read.

    Nothing is requested. Raises InputError when they are damaged.
    """
    try:
        return Options.from_json({**content["query"], "offline": True}, savepath=savepath)
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise _unusable(savepath / "query.json", error) from error


@dataclass(frozen=True, slots=True)
class StoredQuery:
    """The options to repeat, and the name of the site that the images came from: None for the public buckets."""

    options: Options
    site: str | None

    @classmethod
    def read(cls, savepath: Path) -> Self:
        """Read SAVEPATH/query.json. Raises InputError when it is not there or cannot be repeated."""
        content = read_query_file(savepath)
        try:
            # The run is to happen now, whatever the run that wrote this could or would request.
            query = {**content["query"], "retry_failed": False, "offline": False}
            return cls(Options.from_json(query, savepath=savepath), content.get("site"))
        except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
            raise _unusable(savepath / "query.json", error) from error


def _unusable(path: Path, error: Exception) -> InputError:
    reason = str(error).split("\n", 1)[0] or type(error).__name__
    return InputError(f"{path}: cannot be repeated ({reason}); run the download again")

"""The query that filled a folder, as query.json tells it, to be run again. Light to import."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from oid_async.errors import InputError, UsageError
from oid_async.options.query import Options


@dataclass(frozen=True, slots=True)
class StoredQuery:
    """The options, and the name of the site that the images came from: None for the public buckets."""

    options: Options
    site: str | None

    @classmethod
    def read(cls, savepath: Path) -> Self:
        """Read SAVEPATH/query.json. Raises InputError when it is not there or cannot be repeated."""
        path = savepath / "query.json"
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            # What is asked for is wanted now, whatever the run that wrote this could or would ask for.
            query = {**said["query"], "retry_failed": False, "offline": False}
            return cls(Options.from_json(query, savepath=savepath), said.get("site"))
        except FileNotFoundError as error:
            raise InputError(
                f"{path}: it is not there, so nothing says what to fetch; run the download again"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
            reason = str(error).split("\n", 1)[0] or type(error).__name__
            raise InputError(f"{path}: cannot be repeated ({reason}); run the download again") from error

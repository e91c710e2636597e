"""The query that filled a folder, as query.json tells it, to be run again. Light to import."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from oid_async.errors import InputError, UsageError
from oid_async.events import Sink
from oid_async.options.query import Options

if TYPE_CHECKING:
    from oid_async.jobs.download import Run


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

    def run(self, sink: Sink, *, retry_failed: bool = False) -> "Run":
        """Return the run that does it again: same tables, same place of the images."""
        options = replace(self.options, retry_failed=retry_failed)
        from oid_async.jobs.demo import SITE, look_alike_run
        from oid_async.jobs.download import Run

        return look_alike_run(options, sink) if self.site == SITE else Run(options, sink)

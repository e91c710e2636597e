"""The query that filled a folder, read from query.json. Light to import."""

import json
from pathlib import Path
from typing import Any

from oid_async.errors import InputError, NotPlainError
from oid_async.store.disk import read_plain


def read_query_file(savepath: Path, name: str | None = None) -> dict[str, Any]:
    """Return SAVEPATH/query.json as a dict. Raises InputError when it is not there or no JSON object.

    `name` is what messages call it, if not its path.
    """
    file = savepath / "query.json"
    path = name or file
    try:
        content = json.loads(read_plain(file).decode())
    except FileNotFoundError as error:
        raise InputError(f"{path}: it is not there, so nothing says what to fetch; run the download again") from error
    except NotPlainError as error:
        raise InputError(error.advice) from error
    except (OSError, ValueError, RecursionError) as error:
        raise unusable(path, error) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: cannot be repeated (it is no JSON object); run the download again")
    return content


def unusable(path: Path | str, error: Exception) -> InputError:
    """Return the error for a query.json that cannot be repeated."""
    reason = str(error).split("\n", 1)[0][:300] or type(error).__name__
    return InputError(f"{path}: cannot be repeated ({reason}); run the download again")

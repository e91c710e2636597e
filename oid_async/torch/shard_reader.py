"""The process that reads Parquet shards, and shards in a bucket, for one worker of a DataLoader.

`python -m oid_async.torch.shard_reader` takes pickled requests from its standard input, each a call of `ShardPictures`,
and answers with the value or the error; the first one says which place it is to read. It ends with a request that is
None, or when its input does. No PyTorch here.
"""

import os
import pickle
import sys
from pathlib import Path
from typing import Any

from oid_async.dataset.place_files import BucketFiles, FolderFiles, PlaceFiles
from oid_async.errors import InputError, OidError
from oid_async.objects.store import Objects
from oid_async.options.query import Options
from oid_async.store.folder import Folder
from oid_async.torch.pictures import ShardPictures


def main() -> int:
    """Answer requests until there are no more."""
    requests = sys.stdin.buffer
    # Nothing that a library prints comes between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    files: PlaceFiles | None = None
    try:
        place, endpoint_url = pickle.load(requests)
        while (request := pickle.load(requests)) is not None:
            what, *rest = request
            try:
                if files is None:
                    files = _files_of(place, endpoint_url)
                    pictures = ShardPictures(files)
                answer: Any = getattr(pictures, what)(*rest)
            except OidError as error:
                answer = error
            except Exception as error:
                answer = InputError(f"{place}: its shards cannot be read ({type(error).__name__}: {error})")
            pickle.dump(answer, answers)
            answers.flush()
        return 0
    except (EOFError, BrokenPipeError):
        return 0
    finally:
        if files is not None:
            files.remove()


def _files_of(place: str, endpoint_url: str | None) -> PlaceFiles:
    savepath = Options.of(savepath=place).savepath
    return (
        FolderFiles(Folder(savepath))
        if isinstance(savepath, Path)
        else BucketFiles(Objects(savepath, endpoint_url=endpoint_url))
    )


if __name__ == "__main__":
    sys.exit(main())

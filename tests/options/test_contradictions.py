"""Of two contradictions the same one is named first, whatever else is said."""

from itertools import pairwise
from typing import Any

import pytest

from oid_async.errors import UsageError
from oid_async.options.query import Options

# One contradiction of each check, in the order in which they are looked for, and a word of what is said of it.
CONTRADICTIONS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"annotation": "https://x.org/boxes.csv?REDACTED"}, "was not stored"),
    ({"negatives": 5}, "--negatives"),
    ({"balanced": 2, "limit_per_class": 3}, "--balanced"),
    ({"min_boxes": 5, "max_boxes": 2}, "--min-boxes"),
    ({"traces": True}, "--traces"),
    ({"copy": True}, "--copy"),
    ({"endpoint_url": "https://x.org"}, "--endpoint-url"),
)


@pytest.mark.parametrize(("first", "second"), list(pairwise(CONTRADICTIONS)), ids=lambda each: each[1])
def test_the_first_of_two_contradictions_is_named(
    first: tuple[dict[str, Any], str], second: tuple[dict[str, Any], str]
) -> None:
    """Each stands alone, and of neighbours the earlier one is what the caller reads."""
    with pytest.raises(UsageError, match=second[1]):
        Options(**second[0])
    with pytest.raises(UsageError, match=first[1]):
        Options(**first[0], **second[0])

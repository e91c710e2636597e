"""The condition of --image-where: what is taken, what is refused and how, which rows it fits."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.published import read_csv

import oid_async
from oid_async.errors import InputError, UsageError
from oid_async.openimages.catalogue import published
from oid_async.openimages.catalogue_tables import IMAGE_COLUMNS
from oid_async.openimages.ids import IdForm
from oid_async.select.image_where import read_image_condition
from oid_async.select.query import read_image_keys
from oid_async.tables.reading import TableFile

ROWS = """ImageID,Subset,OriginalURL,Author,Title,OriginalSize,Rotation,Mood
0000000000000001,train,https://h/1_o.jpg,X,A cat,100,0.0,calm
0000000000000002,train,https://h/2_o.jpg,,Dog,,nan,
0000000000000003,validation,https://h/3_o.jpg,Y,cat & dog,300.0,90.0,glad
0000000000000001,train,https://h/4_o.jpg,Y,again,900,180.0,glad
0000000000000004,test,https://h/5_o.jpg,y, x ,2000,270,calm
"""

# A condition, and the rows (from 1) that it fits.
FITTING = {
    "OriginalSize > 100": [3, 4, 5],
    "OriginalSize = 300": [3],
    "Rotation = 0": [1],
    "Rotation IS NULL": [2],
    "NOT Rotation = 0": [3, 4, 5],
    "Rotation <> 0 OR Rotation IS NULL": [2, 3, 4, 5],
    "Author = 'X'": [1],
    "Author <> 'X'": [3, 4, 5],
    "(Author IS DISTINCT FROM 'X') AND Rotation IS NULL": [2],
    "Author IS DISTINCT FROM 'X'": [2, 3, 4, 5],
    "((Author = 'X') IS DISTINCT FROM TRUE) AND Title <> 'again'": [2, 3, 5],
    "Author IN ('X', 'y')": [1, 5],
    "Author NOT IN ('X', NULL)": [],
    "Author = NULL": [],
    "Title LIKE '%cat%'": [1, 3],
    "Title LIKE '_og'": [2],
    "Title ILIKE '%DOG'": [2, 3],
    "Title ~ '^[A-Z]'": [1, 2],
    "Title ~* 'DOG$'": [2, 3],
    "Mood = 'glad' AND Subset = 'validation'": [3],
    "ImageID LIKE '%4'": [5],
    "UPPER(Author) = 'Y' AND LENGTH(Title) > 4": [3, 4],
    "CASE WHEN Rotation = 90 THEN TRUE ELSE Mood = 'calm' END": [1, 3, 5],
    "COALESCE(Author, 'X') = 'X'": [1, 2],
    "OriginalSize % 200 = 100 AND ROUND(Rotation / 90) BETWEEN 0 AND 2": [1, 3, 4],
    "TRY_CAST(Title AS INT) IS NULL AND Author || '!' = 'X!'": [1],
    "REPLACE(Mood, 'calm', 'still') = 'still' AS x": [1, 5],
    "\"Author\" = 'it''s; SELECT -- now()' OR Mood LIKE 'gl%'": [3, 4],
}

# A condition, and a part of what is said of it.
REFUSED = {
    "Autor = 'X'": "no column 'Autor' in the image table; nearest: Author",
    "author = 'X'": "nearest: Author",
    'Author = "X"': "a text stands in single quotes: 'X'",
    "t.Author = 'X'": "FieldByName in it",
    "__key > 1": "no column '__key'",
    "Author": "it is String, not true or false",
    "NULL": "names no column",
    "1 = 1": "names no column",
    "OriginalSize = '10'": "cannot compare string with numeric type",
    "OriginalSize >": "unable to parse 'OriginalSize >' as Expr",
    "SELECT 1": "subqueries",
    "Title ~ '('": "error: unclosed group",
    "Title SIMILAR TO 'x'": "SimilarTo",
    "Author IS DISTINCT FROM 'X' AND Rotation = 0": "put that into parentheses",
    "Rotation IS NOT DISTINCT FROM 90 OR OriginalSize > 5": "put that into parentheses",
    "(Author = 'X') IS NOT TRUE": "write ((...) IS DISTINCT FROM TRUE)",
    "NOT (Rotation = 0 is\ntrue)": "write ((...) IS NOT DISTINCT FROM true)",
    "COUNT(*) > 1": "COUNT in it does not give one value a row",
    "COUNT(DISTINCT Author) > 1": "does not give one value a row",
    "SUM(OriginalSize) > 1": "SUM in it",
    "OriginalSize > AVG(OriginalSize)": "AVG in it",
    "MIN(OriginalSize) = 1": "MIN in it",
    "Author = FIRST(Author)": "FIRST in it",
    "OriginalSize IN (1, MAX(OriginalSize))": "MAX in it",
    "OriginalSize > MEDIAN(OriginalSize)": "MEDIAN in it",
    "QUANTILE_CONT(OriginalSize, 0.5) > OriginalSize": "does not give one value a row",
    "CORR(OriginalSize, Rotation) > OriginalSize": "does not give one value a row",
    "STRING_AGG(Author, ',') = Author": "does not give one value a row",
    "ARRAY_TO_STRING(ARRAY_AGG(Author), ',') = Author": "does not give one value a row",
    "SUM(OriginalSize) OVER (PARTITION BY Author) > 1": "OVER in it",
    "ROW_NUMBER() OVER (ORDER BY Author) > 1": "OVER in it",
    "ROW_NUMBER() > OriginalSize": "does not give one value a row",
    "RANK() OVER (ORDER BY Author) > 1": "does not give one value a row",
    "LAG(Author) OVER (ORDER BY ImageID) = Author": "OVER in it",
    "UNNEST(STRING_TO_ARRAY(Title, ' ')) = 'x'": "UNNEST in it",
    "COLUMNS('.*') IS NULL": "COLUMNS in it",
    "LPAD(Author, 999999999) = 'x'": "does not give one value a row",
    "Author = ANY(ARRAY['X']) AND EXISTS (SELECT 1)": "subqueries",
    "Author IN (SELECT a FROM read_csv('/nowhere'))": "subqueries",
    "Author IN (FROM read_csv('/nowhere'))": "subqueries",
    "Author = E'\\'' || (FROM read_parquet('/nowhere')) || '' ": "subqueries",
    "OriginalSize > ALL(VALUES (1))": "subqueries",
    "NOW() > Author": "NOW is another one each time",
    "Author < CURRENT_DATE": "CURRENT_DATE is another one",
    "GREATEST() = Rotation": "GREATEST() has nothing to compare",
    "Rotation = 0 -- c": "-- has no place in a condition",
    "Rotation = 0; Rotation = 1": "; has no place",
    " OR ".join(["Rotation = 0"] * 20_000): "too many parts for Polars",
    "Author" + " IS NULL" * 20_000: "too many parts for Polars",
    "Rotation" + " BETWEEN 0 AND 1" * 40: "too many parts for Polars",
    "Rotation" + " = 0" * 600: "nested too deeply",
    "(" * 5000 + "Rotation = 0" + ")" * 5000: "unable to parse",
    "Author = '\ud800'": "surrogates not allowed",
}


def rows_that_fit(condition: str, table: TableFile) -> list[int]:
    """Return the places, from 1, of the rows of a table that meet a condition."""
    read = read_image_condition(condition)
    read.require(pl.read_csv(table.path.with_suffix(".csv"), infer_schema=False).columns, "the image table")
    rows = read_image_keys([table], IdForm(), (), read)
    assert rows.schema == {"__key": pl.UInt64, "split": pl.UInt8, "fits": pl.Boolean}
    return rows.with_row_index(offset=1).filter("fits").get_column("index").to_list()


@pytest.fixture(scope="module", params=["csv", "parquet"])
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TableFile:
    """The rows as CSV, and as Parquet with the numbers as numbers."""
    path = tmp_path_factory.mktemp("images") / "images.csv"
    path.write_text(ROWS)
    if request.param == "parquet":
        numbers = [pl.col("OriginalSize", "Rotation").cast(pl.Float64, strict=False)]
        frame = pl.read_csv(path, infer_schema=False).with_columns(numbers)
        frame.write_parquet(path.with_suffix(".parquet"))
    return TableFile(path.with_suffix(f".{request.param}"), "images")


@pytest.mark.parametrize("condition", FITTING)
def test_a_condition_fits_the_rows_that_sql_says(condition: str, table: TableFile) -> None:
    """Numbers compare as numbers, the rest as text; NULL is neither true nor false."""
    assert rows_that_fit(condition, table) == FITTING[condition]


@pytest.mark.parametrize("condition", REFUSED, ids=lambda text: text[:40])
def test_what_is_no_condition_on_one_row_is_refused(condition: str) -> None:
    """Aggregates, windows, subqueries, the clock, unknown columns: one line that says so, before any row is read."""
    with pytest.raises(UsageError) as error:
        read_image_condition(condition).require(IMAGE_COLUMNS, "the image table")
    assert REFUSED[condition] in str(error.value)
    assert str(error.value).startswith("--image-where: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_what_fails_on_a_row_names_the_table(table: TableFile) -> None:
    """A CAST of a text that is no number ends with the table, the reason and what to write instead."""
    with pytest.raises(InputError, match=r"^images: --image-where .*conversion .*TRY_CAST gives NULL"):
        rows_that_fit("CAST(Title AS INT) > 1", table)


async def test_a_condition_meets_the_other_options(lookalike: Path, tmp_path: Path) -> None:
    """It restricts classes and lists, before limits; a listed image that does not meet it is not unknown."""
    (table,) = published("images", ("validation",))
    rows = {row["ImageID"]: row for row in read_csv(lookalike / table.bucket / table.key)}
    usual: dict[str, Any] = {"mirror": lookalike, "savepath": tmp_path / "out", "kinds": ["none"]}
    upright = sorted(image_id for image_id, row in rows.items() if row["Rotation"] == "0.0")
    assert 0 < len(upright) < len(rows)
    listed = [f"validation/{image_id}" for image_id in (*rows, "00000000000000ff")]
    query = usual | {"image_ids": listed, "image_where": "Rotation = 0"}
    plan = await oid_async.plan(**query)
    assert (plan.selected, plan.unknown_ids) == (len(upright), 1)
    report = await oid_async.download(**query, limit=3, top_up=True, max_failures=1)
    saved = pl.read_parquet(tmp_path / "out" / "manifest.parquet")
    assert saved.get_column("ImageID").to_list() == upright[:3]
    assert report.selected == 3
    parts = [await oid_async.plan(**query, shard=f"{part}/2") for part in (1, 2)]
    assert sum(part.selected for part in parts) == len(upright)
    by_class = usual | {"kinds": ["bbox"], "splits": ["validation"], "categories": ["Person"]}
    counts = [
        (await oid_async.plan(**by_class, image_where=f"(Rotation IS DISTINCT FROM 0) = {said}")).selected
        for said in ("TRUE", "FALSE")
    ]
    assert sum(counts) == (await oid_async.plan(**by_class)).selected
    with pytest.raises(UsageError, match="no column 'Mood'"):
        await oid_async.plan(**by_class, image_where="Mood = 'glad'")

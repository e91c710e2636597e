"""Images that version 0.1.0 saved although no decoder opens them."""

from pathlib import Path

from support.journal_lines import as_0_1_0_wrote_it
from support.published import tiny_jpeg
from support.scripted import Answer, Scripted, http

from oid_async.events import ignore
from oid_async.jobs.download import Run
from oid_async.options.query import Options
from oid_async.report import Report

IDS = ("00000000000000a1", "00000000000000b2")


async def test_retry_failed_heals_a_saved_file_that_is_no_image(tmp_path: Path) -> None:
    """A file without a size, which its journal line says, is fetched again under its name; the others are not."""
    rows = "".join(f"train/{image_id}\n" for image_id in IDS)
    (tmp_path / "ids.txt").write_text(rows)
    broken = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xd9"
    paths = [f"/open-images-dataset/train/{image_id}.jpg" for image_id in IDS]
    answers: dict[str, list[Answer]] = {path: [http(200, tiny_jpeg(path))] for path in paths}
    out = tmp_path / "out"
    async with Scripted(answers) as server:

        async def run(*, retry_failed: bool = False) -> Report:
            options = Options.of(
                kinds=["none"],
                image_ids=tmp_path / "ids.txt",
                mirror=server.url,
                savepath=out,
                retry_failed=retry_failed,
            )
            return await Run(options, ignore).download()

        await run()
        # As 0.1.0 left it: the file, and a line of twelve fields without width and height.
        file = out / "images" / f"{IDS[0]}.jpg"
        file.write_bytes(broken)
        line = (IDS[0], "ok", "cvdf", file.name, str(len(broken)), "", "", "", "", "", "1", f"{server.url}{paths[0]}")
        as_0_1_0_wrote_it(out / ".oid_async" / "journal.tsv")
        with (out / ".oid_async" / "journal.tsv").open("a") as journal:
            journal.write("\t".join(line) + "\n")
        assert (await run()).present == 2
        report = await run(retry_failed=True)
        assert (report.present, report.downloaded, report.unselected) == (1, 1, 0)
        assert file.read_bytes() == tiny_jpeg(paths[0])
        assert sorted(path.name for path in file.parent.iterdir()) == [f"{image_id}.jpg" for image_id in IDS]
        assert not (out / ".oid_async" / "damaged").exists()

"""failures.csv of masks and recordings: there while something failed, gone when nothing did."""

from pathlib import Path

from oid_async.store.results import write_failures


def test_failures_are_sorted_and_the_file_goes_with_them(tmp_path: Path) -> None:
    """A row for each, in order of its name; without failures no file; nothing temporary stays."""
    path, scratch = tmp_path / "segmentation" / "failures.csv", tmp_path / "tmp"
    path.parent.mkdir()
    scratch.mkdir()
    rows = [("b.png", "b", "checksum", "it differs"), ("a.png", "a", "not_found", 'no "such" member, at all')]
    write_failures(path, rows, column="MaskPath", scratch=scratch)
    assert path.read_text() == (
        'MaskPath,ImageID,Reason,Detail\na.png,a,not_found,"no ""such"" member, at all"\nb.png,b,checksum,it differs\n'
    )
    for _ in range(2):
        write_failures(path, [], column="MaskPath", scratch=scratch)
        assert not path.exists()
    assert list(scratch.iterdir()) == []

"""What files are called: from URLs and ids of any kind to names that are safe everywhere."""

import os
import re
import unicodedata

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from oid_async.store.naming import PLAIN_NAME, clash_name, fold, id_name, safe_name, url_name

ID = "4fa8054781a4c382"
LONGEST = 255  # bytes, on every file system in use
SEPARATORS = frozenset("/\\\0")
FORBIDDEN = frozenset('/\\:*?"<>|\x7f').union(map(chr, range(32)))

any_text = st.text(st.characters(), max_size=300)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        pytest.param(
            "https://farm3.staticflickr.com/5310/5898076654_51085e157c_o.jpg",
            "5898076654_51085e157c_o.jpg",
            id="as-published",
        ),
        pytest.param("https://x.org/a/b.jpg?zz=1", "b.jpg", id="query"),
        pytest.param("https://x.org/a/b.jpg?u=https://y.org/c.jpg", "b.jpg", id="url-in-the-query"),
        pytest.param("https://x.org/a/b.jpg#c/d.jpg", "b.jpg", id="fragment"),
        pytest.param("https://x.org/a/b.jpg?x=1#y", "b.jpg", id="query-and-fragment"),
        pytest.param("https://x.org/a/b.jpg#y?x=1", "b.jpg", id="question-mark-in-the-fragment"),
        pytest.param("https://x.org/a/b.JPG", "b.JPG", id="upper-case-suffix-is-kept"),
        pytest.param("https://x.org/a/b.Jpg", "b.Jpg", id="mixed-case-suffix-is-kept"),
        pytest.param("https://x.org/a/b.jpeg", "b.jpeg.jpg", id="jpeg"),
        pytest.param("https://x.org/a/b.png", "b.png.jpg", id="png"),
        pytest.param("https://x.org/a/b", "b.jpg", id="no-suffix"),
        pytest.param("https://x.org/a%20b.jpg", "a b.jpg", id="space"),
        pytest.param("https://x.org/%E5%AE%89%E8%97%A4.jpg", "安藤.jpg", id="percent-decoded"),
        pytest.param("https://x.org/安藤.jpg", "安藤.jpg", id="non-ascii"),
        pytest.param("https://x.org/%ff.jpg", "\ufffd.jpg", id="not-utf-8"),
        pytest.param("https://x.org/100%.jpg", "100%.jpg", id="lone-percent"),
        pytest.param("https://x.org/e%CC%81t%C3%A9.jpg", "été.jpg", id="composed-to-nfc"),
        pytest.param("https://x.org/a/%2e%2e%2Fb.jpg", "_b.jpg", id="encoded-dots-and-slash"),
        pytest.param("https://x.org/a%2Fb%2fc.jpg", "a_b_c.jpg", id="encoded-slash"),
        pytest.param("https://x.org/a%5C..%5Cb.jpg", "a_.._b.jpg", id="encoded-backslash"),
        pytest.param("https://x.org/%252Fetc.jpg", "%2Fetc.jpg", id="decoded-once-only"),
        pytest.param("https://x.org/a%00b.jpg", "a_b.jpg", id="nul"),
        pytest.param("https://x.org/a%0d%0ab%7f.jpg", "a__b_.jpg", id="controls"),
        pytest.param("https://x.org/a:b*c|d.jpg", "a_b_c_d.jpg", id="forbidden-on-windows"),
        pytest.param("https://x.org/.hidden.jpg", "hidden.jpg", id="leading-dot"),
        pytest.param("https://x.org/a.jpg%20.", "a.jpg", id="trailing-space-and-dot"),
        pytest.param("https://x.org/CON.jpg", "_CON.jpg", id="reserved"),
        pytest.param("https://x.org/nul", "_nul.jpg", id="reserved-without-suffix"),
        pytest.param("https://x.org/lpt1.tar.jpg", "_lpt1.tar.jpg", id="reserved-with-two-suffixes"),
        pytest.param("https://x.org/console.jpg", "console.jpg", id="reserved-is-a-whole-word"),
        pytest.param("https://x.org/com10.jpg", "com10.jpg", id="com10-is-not-reserved"),
    ],
)
def test_name_comes_from_the_url(url: str, name: str) -> None:
    """The name is the last path component, percent-decoded once, without query, with .jpg kept or added."""
    assert url_name(url, ID) == name


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "not a url",
        "https://x.org",
        "https://x.org/",
        "https://x.org/a/",
        "https://x.org/?a=/b.jpg",
        "https://x.org/.",
        "https://x.org/..",
        "https://x.org/%2e%2e",
        "https://x.org/%20",
        "https://x.org/...",
    ],
)
def test_url_without_a_usable_name_gives_the_id(url: str | None) -> None:
    """Where the URL names nothing, the file is called after the ImageID."""
    assert url_name(url, ID) == f"{ID}.jpg"


@pytest.mark.parametrize(
    ("image_id", "name"),
    [
        ("0000048549557964", "0000048549557964.jpg"),
        ("00e4060885034751", "00e4060885034751.jpg"),
        ("my/own..id", "my_own..id.jpg"),
        ("../../etc/passwd", "_.._etc_passwd.jpg"),
        ("photo.jpg", "photo.jpg"),
        ("", "image.jpg"),
        ("..", "image.jpg"),
    ],
)
def test_id_name_is_safe(image_id: str, name: str) -> None:
    """An ImageID names its file, and an id of a user's own cannot leave the folder."""
    assert id_name(image_id) == name


@pytest.mark.parametrize("letter", ["x", "é", "安", "𝄞"])
def test_long_name_is_cut_between_characters(letter: str) -> None:
    """A name longer than file systems allow is cut to fit, in whole characters, with its suffix."""
    name = safe_name(letter * 400 + ".JPG")
    assert name.endswith(".JPG")
    assert set(name[:-4]) == {letter}
    assert 190 <= len(name.encode()) <= LONGEST
    assert len(clash_name(name, ID).encode()) <= LONGEST


@pytest.mark.parametrize("kind", ["con", "PRN", "aux", "Nul", "com0", "COM9", "lpt0", "LPT9"])
@pytest.mark.parametrize("rest", ["", ".jpg", ".JPG", ".a.jpg"])
def test_reserved_names_are_made_free(kind: str, rest: str) -> None:
    """No name is one of a device on Windows, with or without suffixes."""
    assert safe_name(kind + rest).startswith(f"_{kind}")


def test_lone_surrogate_becomes_a_safe_character() -> None:
    """Text that is not Unicode proper gives a name that is free of forbidden characters too."""
    assert not FORBIDDEN & set(safe_name("a\ud800b.jpg"))


@settings(derandomize=True, deadline=None)
@given(any_text)
@example("../../etc/passwd")
@example("https://x.org/" + "%2e%2e%2f" * 30)
@example("\ud800/\udfff")
def test_any_text_gives_a_name_that_stays_in_its_folder(text: str) -> None:
    """Whatever stands in a table, as URL or as id, the file name is one component, short enough, and ends in .jpg."""
    names = [url_name(text, ID), url_name(f"https://x.org/{text}", ID), id_name(text)]
    names += [clash_name(name, ID) for name in names]
    if safe := safe_name(text):
        names.append(safe)
    for name in names:
        assert not SEPARATORS & set(name)
        assert os.path.basename(name) == name
        assert len(name.encode()) <= LONGEST
        assert name.lower().endswith(".jpg")
        assert name not in (".", "..")


@settings(derandomize=True, deadline=None)
@given(st.text(max_size=300))
def test_any_text_gives_a_portable_name(text: str) -> None:
    """No name holds a control or a character that Windows forbids, starts with a dot, or is not composed."""
    name = id_name(text)
    assert not FORBIDDEN & set(name)
    assert name[0] not in ". "
    assert name[-1] not in ". "
    assert unicodedata.is_normalized("NFC", name)


@settings(derandomize=True, deadline=None)
@given(st.text(max_size=60))
def test_safe_name_is_settled(text: str) -> None:
    """Making a safe name safe again changes nothing."""
    assert safe_name(safe_name(text)) == safe_name(text)


@settings(derandomize=True, deadline=None)
@given(st.from_regex(re.compile(PLAIN_NAME, re.ASCII), fullmatch=True))
@example("con.1.jpg")
@example("lpt1.tar.jpg")
def test_plain_names_need_no_care(name: str) -> None:
    """What is taken as plain in bulk is exactly what one URL at a time would give."""
    assume(re.match(PLAIN_NAME, name))
    assert url_name(f"https://farm1.staticflickr.com/1/{name}", ID) == name


@pytest.mark.parametrize(
    ("name", "image_id", "other"),
    [
        ("a_o.jpg", ID, f"a_o_{ID}.jpg"),
        ("a_o.JPG", ID, f"a_o_{ID}.JPG"),
        ("a.b.jpg", ID, f"a.b_{ID}.jpg"),
        (f"a_{ID}.jpg", ID, f"a_{ID}_{ID}.jpg"),
        ("a.jpg", "my/own", "a_my_own.jpg"),
        ("a.jpg", "..", "a_image.jpg"),
        ("安.jpg", ID, f"安_{ID}.jpg"),
    ],
)
def test_clash_name_adds_the_id(name: str, image_id: str, other: str) -> None:
    """An image whose name is taken is called `<stem>_<ImageID>.jpg`, the suffix as it was."""
    assert clash_name(name, image_id) == other


def test_clash_name_with_a_long_id_fits() -> None:
    """A long name that clashes, of an image with a long id of a user's own, still fits on every file system."""
    name = clash_name(safe_name("n" * 400), "i" * 400)
    assert len(name.encode()) <= LONGEST
    assert name.endswith(".jpg")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a_o.jpg", "A_O.JPG", True),
        ("straße.jpg", "STRASSE.jpg", True),
        ("é.jpg", "e\u0301.jpg", True),
        ("É.jpg", "e\u0301.JPG", True),
        ("Ω.jpg", "\u2126.jpg", True),
        ("ſ.jpg", "S.jpg", True),
        ("a.jpg", "b.jpg", False),
        ("é.jpg", "e.jpg", False),
        ("a_o.jpg", "a-o.jpg", False),
    ],
)
def test_fold_tells_which_names_some_file_system_takes_for_one(one: str, other: str, same: bool) -> None:
    """Names that differ in case or composition alone fold to one, others do not."""
    assert (fold(one) == fold(other)) is same


@settings(derandomize=True, deadline=None)
@given(st.text(max_size=40))
def test_fold_is_settled(text: str) -> None:
    """Folding twice is folding once, and composition does not matter."""
    assert fold(fold(text)) == fold(text)
    assert fold(unicodedata.normalize("NFD", text)) == fold(unicodedata.normalize("NFC", text))


def test_a_name_that_clashes_again_and_again_changes_each_time() -> None:
    """However long the name is and however often it is taken, another one follows."""
    name, seen = "a" * 195 + ".jpg", set()
    for _ in range(50):
        name = clash_name(name, "0000048549557964")
        assert name not in seen
        assert len(name.encode()) <= 255
        seen.add(name)

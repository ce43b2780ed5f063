"""pipelines/gallery/site.py: strangers' texts stay text, files are whole, folders are respected."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.gallery.site import MARK, Site, static_files, to_json

NASTY = ["</script><script>alert(1)</script>", "\u2028\u2029", "\"'`", "<!--", "]]>", "\ud800"]


@given(st.text() | st.sampled_from(NASTY))
def test_a_text_is_one_ascii_string_that_means_the_same(text: str) -> None:
    coded = to_json({"text": text})
    assert coded.isascii()
    assert not set("<>&") & set(coded)
    assert "\u2028" not in coded
    assert json.loads(coded) == {"text": text}


def test_what_is_put_is_got_and_nothing_else_is_there(tmp_path: Path) -> None:
    site = Site(tmp_path / "gallery")
    site.open({"run": "x"})
    site.put("units/1", {"a": NASTY})
    assert site.get("units/1") == {"a": NASTY}
    assert site.get("units/2") is None
    assert not list(tmp_path.rglob("*.new"))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """A reader that has the old file open goes on reading the old one."""
    site = Site(tmp_path / "gallery")
    site.open({})
    site.write("x.html", b"old" * 1000)
    with (tmp_path / "gallery" / "x.html").open("rb") as reader:
        assert reader.read(3) == b"old"
        site.write("x.html", b"new")
        assert reader.read() == b"old" * 999
    assert (tmp_path / "gallery" / "x.html").read_bytes() == b"new"


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="no gallery and not empty"):
        Site(tmp_path).open({})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_site_that_was_made_otherwise_is_made_anew(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.open({"thumbnail_px": 64})
    site.put("units/1", 1)
    site.open({"thumbnail_px": 64})
    assert site.get("units/1") == 1
    site.open({"thumbnail_px": 128})
    assert site.get("units/1") is None
    assert (tmp_path / MARK).is_file()


class _Scripts(HTMLParser):
    """Collects scripts with content, handlers and styles in attributes, and the policy."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.policy = ""
        self._is_in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_in_script = tag == "script"
        self.inline += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        values = dict(attrs)
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self._is_in_script = False

    def handle_data(self, data: str) -> None:
        if self._is_in_script and data.strip():
            self.inline.append(data)


@pytest.mark.parametrize("name", ["index.html", "report.html"])
def test_pages_have_a_strict_policy_and_nothing_that_it_forbids(name: str) -> None:
    root = Path(__file__).parents[3] / "pipelines" / "gallery" / "static"
    scripts = _Scripts()
    scripts.feed((root / name).read_text())
    assert scripts.inline == []
    assert "default-src 'none'" in scripts.policy
    assert "require-trusted-types-for 'script'" in scripts.policy
    assert "unsafe" not in scripts.policy
    assert "http" not in scripts.policy


def test_scripts_never_turn_text_into_markup() -> None:
    root = Path(__file__).parents[3] / "pipelines" / "gallery" / "static"
    forbidden = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
    for name in static_files():
        if name.endswith(".js"):
            text = (root / name).read_text()
            assert not [one for one in forbidden if one in text], name

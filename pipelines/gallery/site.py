"""The folder of a gallery: data as scripts, each file whole or not there, nothing else touched.

A page that is opened as file:// may not fetch JSON, but it may load scripts: every data file is
one call, `pairloom.put(name, data)`. Texts in it are strangers': they are ASCII-only JSON with
`<`, `>` and `&` escaped as well, so that a payload stays one string wherever it is pasted.

Limits: one writer at a time. A crash leaves a temporary file at most, which the next build removes.
"""

import json
import os
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

MARK = "data/site.json"
FOLDERS = ("data", "pictures", "assets")
FORMAT = 3  # raise it with anything that changes what is in a site: it is then made anew
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def to_json(value: Any) -> str:
    """Compact JSON in ASCII that means the same in HTML, in a script and alone.

    U+2028 and U+2029, which end a line in old JavaScript, are escaped as all that is not ASCII is.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


class Site:
    """A folder that is a gallery, or becomes one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, made_with: dict[str, Any]) -> None:
        """Claims the folder; a site that was made with something else is removed first.

        Raises:
            ValueError: there is something in the folder, and it is no gallery.
        """
        mark = self.folder / MARK
        wanted = {"format": FORMAT, "made_with": made_with}
        if mark.is_file():
            if json.loads(mark.read_text()) == wanted:
                self._tidy()
                return
            for name in FOLDERS:
                shutil.rmtree(self.folder / name, ignore_errors=True)
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ValueError(
                f"{self.folder} is no gallery and not empty: give an empty or a new folder"
            )
        self.write(MARK, to_json(wanted).encode())

    def write(self, name: str, data: bytes) -> None:
        """Puts a whole file in the place of what is there; the same bytes are left alone."""
        path = self.folder / name
        if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        new.write_bytes(data)
        os.replace(new, path)

    def put(self, name: str, value: Any) -> None:
        """Writes `data/<name>.js`, which hands `value` to the page under that name."""
        self.write(f"data/{name}.js", f"pairloom.put({to_json(name)},{to_json(value)});\n".encode())

    def get(self, name: str) -> Any | None:
        """What `put` wrote under `name`, or None."""
        try:
            text = (self.folder / "data" / f"{name}.js").read_text()
        except FileNotFoundError:
            return None
        head = f"pairloom.put({to_json(name)},"
        assert text.startswith(head), f"{name} was not written by this module"
        return json.loads(text[len(head) : text.rindex(");")])

    def remove(self, name: str) -> None:
        """Removes a file; one that is not there is no error."""
        (self.folder / name).unlink(missing_ok=True)

    def write_assets(self) -> None:
        """Writes the pages and what they load, which are the same for every run."""
        for one in sorted(static_files()):
            self.write(one if one.endswith(".html") else f"assets/{one}", read_static(one))

    def _tidy(self) -> None:
        for name in FOLDERS:
            for path in (self.folder / name).rglob("*.new"):
                path.unlink(missing_ok=True)


def static_files() -> list[str]:
    """The names of the packaged files of a site; the report's template is none of them."""
    root = resources.files("pipelines.gallery") / "static"
    return [one.name for one in root.iterdir() if one.name != "report.html"]


def read_static(name: str) -> bytes:
    """One packaged file."""
    return (resources.files("pipelines.gallery") / "static" / name).read_bytes()

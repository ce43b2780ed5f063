"""The house itself: configs load, imports stay where they belong, files stay small."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import config as config_files
from pipelines.synergy import SynergyConfig

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "conf").glob("*.yaml"))
SOURCES = sorted(
    path
    for package in ("cluster", "actors", "pipelines")
    for path in ROOT.glob(f"{package}/**/*.py")
)
# Where each framework may be imported at all, besides inside a function.
FRAMEWORKS = {"torch", "diffusers", "transformers", "vllm", "tokenizers", "huggingface_hub"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
# The layout is fixed: a page of notes lies beside the code that it is about.
FOLDERS = {"cluster", "pipelines", "actors", "conf", "tests", "k8s", ".ci"}


def test_there_are_no_other_folders_at_the_top() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*/*"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {path.partition("/")[0] for path in listed.stdout.splitlines()} == FOLDERS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_loads_dumps_and_loads_equal(path: Path, tmp_path: Path) -> None:
    config = config_files.load(SynergyConfig, str(path), [f"output={tmp_path}"])
    again = tmp_path / "again.yaml"
    again.write_text(config_files.dump(config))
    assert config_files.load(SynergyConfig, str(again)) == config


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_its_purpose_and_limits_and_stays_readable(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree)
    assert docstring
    if path.name != "__init__.py" and path.name != "__main__.py":
        assert "Limits:" in docstring, "a module states its limits"
    assert text.count("\n") <= MAX_FILE_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name


def _top_imports(path: Path) -> set[str]:
    """Packages imported when the module is, those under TYPE_CHECKING left out."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_frameworks_are_imported_only_where_an_engine_is_built(path: Path) -> None:
    place = path.relative_to(ROOT).parts
    if place[:2] in {("actors", "backends"), ("actors", "scenes")}:
        return
    assert not _top_imports(path) & FRAMEWORKS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_ray_is_imported_only_in_named_modules(path: Path) -> None:
    place = path.relative_to(ROOT)
    is_allowed = place.parts[0] == "pipelines" or str(place) in {
        f"cluster/{name}.py"
        for name in ("session", "pool", "sharing", "telemetry", "metrics", "visible")
    }
    ways = r"^\s*(import|from) ray\b|import_module\(\W*ray\b"
    words = re.search(ways, path.read_text(), re.MULTILINE)
    assert is_allowed or not words


def test_importing_the_tasks_and_the_command_line_imports_no_framework() -> None:
    code = (
        "import sys, pipelines.cli, pipelines.overview, actors.text_to_image, actors.image_to_text;"
        f"bad = {FRAMEWORKS!r} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

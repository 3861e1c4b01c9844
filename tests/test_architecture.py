"""The house: rooms import from lower floors only, and no file takes part in an import circle."""

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

FLOORS = (
    {
        "errors",
        "config",
        "config_datasets",
        "config_names",
        "files",
        "processes",
        "compat",
        "registry",
        "",
    },
    {"ops"},
    {"merging"},
    {"nets", "huggingface"},
    {"models"},
    {"runtime"},
    {"checkpoints"},
    {"datasets", "evaluation"},
    {"predict"},
    {"visualization"},
    {"export"},
    {"hooks"},
    {"engine"},
    {"lab"},
    {"cli"},
    {"__main__", "tools"},
)
"""Rooms, and files beside them, from the ground up; `""` is `mmseg_tome` itself."""

PACKAGE = "mmseg_tome"
ROOTS = ("UserError", "BaseException")
"""Of errors; what derives from the second alone is never seen by users."""


def modules(repo: Path) -> dict[str, Path]:
    """Every file of the package and of the tools, by the name that others import it under."""
    found = {}
    for path in sorted((repo / PACKAGE).rglob("*.py")):
        if ".mim" not in path.parts:
            parts = path.relative_to(repo).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    found |= {f"tools.{path.stem}": path for path in (repo / "tools").glob("*.py")}
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules among `known` that a file imports, anywhere in it, as often as it does."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = ".".join([*(base if node.level else ()), *filter(None, [node.module])])
            names = [f"{start}.{alias.name}" for alias in node.names]
            wanted = {each if each in known else start for each in names}
        else:
            continue
        beside = [f"tools.{each}" for each in wanted] if name.startswith("tools.") else []
        yield from (each for each in (*wanted, *beside) if each in known and each != name)


@pytest.fixture(scope="module")
def arrows(repo) -> dict[str, list[str]]:
    known = modules(repo)
    return {name: list(imports(name, path, known)) for name, path in known.items()}


def room(name: str) -> str:
    top, _, rest = name.partition(".")
    return rest.partition(".")[0] if top == PACKAGE else top


def test_every_file_has_a_floor(arrows):
    assert {room(name) for name in arrows} <= set().union(*FLOORS)


def test_no_import_circle(arrows):
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_arrows_run_downwards(arrows):
    floor = {name: number for number, rooms in enumerate(FLOORS) for name in rooms}
    pairs = Counter((room(a), room(b)) for a, targets in arrows.items() for b in targets)
    assert {pair: n for pair, n in pairs.items() if floor[pair[0]] < floor[pair[1]]} == {}


@pytest.mark.parametrize("name", ["nets", "huggingface"])
def test_networks_need_merging_and_operations_alone(arrows, name):
    used = {room(b) for a, targets in arrows.items() if room(a) == name for b in targets}
    assert used <= {name, "merging", "ops", "errors"}


def test_errors_have_one_root(repo):
    """So that whoever ends on `UserError` ends on all of them."""
    bases: dict[str, list[str]] = {}
    for path in modules(repo).values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                bases[node.name] = [ast.unparse(base) for base in node.bases]

    def rooted(name: str) -> bool:
        return name in ROOTS or any(rooted(base) for base in bases.get(name, ()))

    assert [name for name in bases if name != "UserError" and not rooted(name)] == []


def test_the_lab_imports_in_one_direction(arrows):
    """`tune` may use `sweep`, both may use `bench`, never the other way."""
    order = ["output", "browser", "kernel_checks", "video", "bench", "sweep", "tune", "reproduce"]
    order += ["demo", "exported", "explore"]
    for name, targets in arrows.items():
        if room(name) == "lab" and name.count(".") > 2:
            allowed = order[: order.index(name.split(".")[2]) + 1]
            used = {each.split(".")[2] for each in targets if each.startswith(f"{PACKAGE}.lab.")}
            assert used <= set(allowed), name


def test_every_module_imports(repo):
    """Also what no other test runs."""
    script = (
        "import importlib, pkgutil, mmseg_tome\n"
        "from mmseg_tome import compat\n"
        "for m in pkgutil.walk_packages(mmseg_tome.__path__, 'mmseg_tome.'):\n"
        "    if not m.name.endswith('__main__'):\n"
        "        importlib.import_module(m.name)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script]
    environment = os.environ | {"PYTHONPATH": str(repo)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr

"""What the package index gets: a wheel that works from any folder, an sdist with everything."""

import ast
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

pytest.importorskip("build")

NOT_IN_SDIST = {".gitignore"}


@pytest.fixture(scope="module")
def tracked(repo) -> set[str]:
    """The checkout's files, as git knows them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return {name for name in done.stdout.split("\0") if name and (repo / name).is_file()}


@pytest.fixture(scope="module")
def distributions(repo, tracked, tmp_path_factory) -> tuple[Path, Path]:
    """Wheel and sdist, built from a copy of the checkout, the wheel from the sdist."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((repo / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory) -> Path:
    """The `bin` of an environment with the wheel and, read from this one, what it requires."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True)
    (site,) = place.glob("lib/python*/site-packages")
    # A line of a .pth file adds a folder, and not the editable installs that are named in it.
    folders = [path for path in sys.path if path.endswith("site-packages")]
    (site / "requirements.pth").write_text("\n".join(folders))
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    options = ["--no-deps", "--ignore-installed", "--no-index"]
    subprocess.run([*pip, *options, str(distributions[0])], check=True)
    return place / "bin"


@pytest.fixture(scope="module")
def elsewhere(installed, tmp_path_factory):
    """Run a program of that environment in an empty folder; gives (exit code, output, errors)."""
    folder = tmp_path_factory.mktemp("elsewhere")

    def run(program: str, *args: str) -> tuple[int, str, str]:
        command = [str(installed / program), *args]
        environment = {"PATH": f"{installed}:/usr/bin:/bin", "HOME": str(folder)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_wheel_holds_the_package_alone(distributions):
    names = zipfile.ZipFile(distributions[0]).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"mmseg_tome" if top.endswith(".dist-info") else top for top in tops} == {"mmseg_tome"}
    assert "mmseg_tome/py.typed" in names
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


def test_the_wheel_holds_what_mim_looks_for(distributions, tracked):
    names = set(zipfile.ZipFile(distributions[0]).namelist())
    parts = ("configs/", "tools/", "model-index.yml")
    expected = {f"mmseg_tome/.mim/{name}" for name in tracked if name.startswith(parts)}
    assert expected - names == set()


def test_the_sdist_holds_the_checkout(distributions, tracked):
    with tarfile.open(distributions[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked - names == NOT_IN_SDIST


def test_the_index_page_has_no_relative_link(distributions):
    wheel = zipfile.ZipFile(distributions[0])
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    text = message_from_string(wheel.read(metadata).decode()).get_payload()
    links = re.findall(r'\]\(([^)]+)\)|<img [^>]*src="([^"]+)"', text)
    addresses = [each for pair in links for each in pair if each]
    assert addresses
    assert [each for each in addresses if not each.startswith(("https://", "#"))] == []


def test_the_repository_has_one_address(repo, tracked):
    """Everything that links to this repository says what setup.py does."""
    tree = ast.parse((repo / "setup.py").read_text())
    values = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    texts = [name for name in tracked if name.endswith((".md", ".yml", ".cff", ".py", ".ipynb"))]
    found = {
        (name, address)
        for name in texts
        for address in re.findall(
            r"https://github\.com/[\w-]+/mmseg_tome\b", (repo / name).read_text(encoding="utf-8")
        )
    }
    assert {pair for pair in found if pair[1] != values["HOME"]} == set()


def test_the_command_needs_no_checkout(elsewhere):
    code, output, _ = elsewhere("mmseg-tome", "--help")
    assert code == 0
    assert output.startswith("usage: mmseg-tome COMMAND")


def test_the_environment_has_the_wheel_and_not_the_checkout(elsewhere, installed):
    code, output, _ = elsewhere("python", "-c", "import mmseg_tome; print(mmseg_tome.__file__)")
    assert code == 0
    assert Path(output).is_relative_to(installed.parent)


def test_a_config_is_found_by_its_name(elsewhere):
    """What is then missing is the checkpoint."""
    name = "segformerpp_fast_cityscapes"
    code, _, errors = elsewhere("mmseg-tome", "test", name, "none.pth")
    assert code == 2
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "none.pth" in last
    assert name not in last

"""README, docs and CONTRIBUTING: short lines, live links, and code that runs as it stands there."""

import functools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mmseg_tome import cli, compat
from mmseg_tome.ops.backend import HAVE_TRITON

REPO = Path(__file__).resolve().parents[1]
README = REPO / "README.md"
PAGES = [README, REPO / "CONTRIBUTING.md", REPO / "CHANGELOG.md", REPO / "SECURITY.md"]
PAGES += sorted((REPO / "docs").rglob("*.md"))
RUN = ("README.md", "docs/get_started/fifteen_minutes.md")
"""Pages whose code is run, each in a folder of its own, block by block."""

FENCE = re.compile(r"^```.*?^```", re.M | re.S)
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```",
    re.M | re.S,
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return page.relative_to(REPO).as_posix()


def anchors(page: Path) -> set[str]:
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    if page.name == "cli.md":  # the site puts every command's help there
        headings += cli.COMMANDS
    words = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", each).strip()) for each in words}


def test_readme_is_read_in_three_minutes():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 160
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_dead_link(page):
    dead = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_picture_says_what_it_shows(page):
    pictures = re.findall(r"!\[([^\]]*)\]", FENCE.sub("", page.read_text(encoding="utf-8")))
    assert all(len(words.split()) > 3 for words in pictures)


def test_the_site_lists_every_page():
    def pages(entries):
        for entry in entries:
            (value,) = entry.values()
            yield from pages(value) if isinstance(value, list) else [value]

    config = yaml.safe_load((REPO / "mkdocs.yml").read_text(encoding="utf-8"))
    root = {"index.md", "contributing.md", "changelog.md", "security.md"}  # by docs/site_hooks.py
    written = {path.relative_to(REPO / "docs").as_posix() for path in PAGES[4:]}
    listed = list(pages(config["nav"]))
    assert set(listed) == written | root
    assert len(listed) == len(set(listed))


@pytest.fixture(scope="module")
def command_help(environment):
    """What a command's `--help` prints."""

    @functools.cache
    def read(command: str) -> str:
        line = [sys.executable, "-m", "mmseg_tome", command, "--help"]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, cwd=REPO)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return read


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_configs_and_options_exist(page, command_help):
    """Of every command line in a block, and every command that is named in the text."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`mmseg-tome ([a-z-]+)", FENCE.sub("", text))
    assert set(named) <= {*cli.COMMANDS, "--help"}
    configs = {path.stem for path in (REPO / "configs").rglob("*.py")}
    for block in BLOCK.finditer(text):
        for line in (
            (block["code"] if block["language"] == "bash" else "").replace("\\\n", " ").splitlines()
        ):
            if not line.strip().startswith("mmseg-tome ") or "COMMAND" in line:
                continue
            _, *words = shlex.split(line, comments=True)
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            known = set(re.findall(r"--[a-z][\w-]*", command_help(words[0])))
            assert options <= known, line
            ours = {word for word in words if re.fullmatch(r"segformerpp_\w+", word)}
            assert ours <= configs, line


def test_the_recipes_of_contributing_are_programs(environment, tmp_path):
    """Each can be imported as it stands; what they do was tried by hand when they were written."""
    text = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    codes = [match["code"] for match in BLOCK.finditer(text) if match["language"] == "python"]
    if not HAVE_TRITON:
        codes = [code for code in codes if "import triton" not in code]
    assert codes
    lines = ["import runpy"]
    for index, code in enumerate(codes):
        (tmp_path / f"recipe_{index}.py").write_text(code, encoding="utf-8")
        lines.append(f"runpy.run_path('recipe_{index}.py')")
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Running the blocks -----------------------------------------------------------------------------

SERVER = """
import json, os, runpy, sys, traceback
import torch
import mmseg_tome.models, mmseg_tome.hooks, mmseg_tome.checkpoints.loading, mmseg_tome.cli

torch.set_num_threads(1)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    code = 1
    try:
        os.chdir(job["folder"])
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.path.insert(0, "")
        if "script" in job:
            runpy.run_path(job["script"], run_name="__main__")
            code = 0
        else:
            sys.argv = ["mmseg-tome", *job["words"]]
            code = mmseg_tome.cli.main(job["words"])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
"""
"""Runs scripts and command lines, each in a process of its own that has imported all already."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not compat.has("mmseg"):
        pytest.skip("needs mmseg")
    pytest.importorskip("transformers")
    environment = os.environ | {
        "PYTHONPATH": str(REPO),
        "OMP_NUM_THREADS": "1",
        "TORCH_HOME": str(tmp_path_factory.mktemp("torch_home")),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-W", "ignore", "-c", SERVER]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, env=environment, cwd=REPO, **pipes) as process:

        def run(folder: Path, **job) -> None:
            job |= dict(folder=str(folder), log=str(folder / "log.txt"))
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            while not (answer := process.stdout.readline().strip()).lstrip("-").isdigit():
                assert process.poll() is None, "the process that runs the blocks has died"
            assert answer == "0", f"{job}\n{(folder / 'log.txt').read_text()[-3000:]}"

        yield run, Path(environment["TORCH_HOME"])
        process.stdin.close()


@pytest.fixture(scope="module")
def folders(server, tmp_path_factory):
    """For each page a folder with what it takes for granted: a photo, data, weights, a config."""
    from mmseg_tome import create_model

    _, torch_home = server
    torch.manual_seed(0)
    weights = create_model("b0", num_classes=19).state_dict()
    found = {}
    for page in RUN:
        folder = found[page] = tmp_path_factory.mktemp(Path(page).stem)
        (folder / "configs").symlink_to(REPO / "configs")
        base = "./configs/b0/segformerpp_b0_none_cityscapes.py"
        (folder / "my_segformer_config.py").write_text(f"_base_ = {base!r}\n")
        torch.save(dict(state_dict=weights), folder / "segformer_b0.pth")
        draw(folder / "photo.jpg", 64, 128)
        for kind, ending in (("images", "jpg"), ("labels", "png")):
            for split in ("train", "val"):
                (folder / "data/mine" / kind / split).mkdir(parents=True)
                for index in range(2):
                    draw(folder / "data/mine" / kind / split / f"{index}.{ending}", 128, 160)
        write_huggingface(folder / "nvidia" / "segformer-b0-finetuned-ade-512-512")
    # Public weights that configs download: others of the same shapes stand in for them.
    cache = torch_home / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    backbone = {key[9:]: value for key, value in weights.items() if key.startswith("backbone.")}
    for file, state in (
        ("b0/segformerpp_b0_none_ade20k.py", create_model("b0", num_classes=150).state_dict()),
        ("b0/segformerpp_b0_none_cityscapes.py", weights),
        ("_base_/models/segformer_mit_b0.py", backbone),
    ):
        address = re.search(r"[\w-]*mit[-_]b0_[\w-]*\.pth", (REPO / "configs" / file).read_text())
        torch.save(dict(state_dict=state), cache / address[0])
    return found


def draw(path: Path, height: int, width: int) -> None:
    """A photo of a bright box on dark ground; as a PNG its label of two classes."""
    box = np.zeros((height, width), np.uint8)
    box[height // 4 : height // 2, width // 4 : width // 2] = 1
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    image = box if path.suffix == ".png" else (box[..., None] * 180 + noise).astype(np.uint8)
    Image.fromarray(image).save(path)


def write_huggingface(folder: Path) -> None:
    """A tiny model under the name of a public one: a folder of that name goes before the hub."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], decoder_hidden_size=16, num_labels=3
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    processor = dict(image_processor_type="SegformerImageProcessor", size=dict(height=64, width=64))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def blocks():
    for page in RUN:
        text = (REPO / page).read_text(encoding="utf-8")
        for index, match in enumerate(BLOCK.finditer(text)):
            if match["language"] in ("python", "bash"):
                yield pytest.param(page, match, id=f"{Path(page).stem}-{index}")


@pytest.mark.parametrize(("page", "block"), blocks())
def test_a_block_runs_as_it_stands(page, block, server, folders):
    if block["reason"]:
        pytest.skip(f"not run: {block['reason']}")
    run, folder, code = server[0], folders[page], block["code"]
    if block["language"] == "bash":
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                assert words[0] == "mmseg-tome"
                run(folder, words=words[1:])
    elif config := re.match(r"# (\w+\.py)\n", code):
        (folder / config[1]).write_text(code)
        check = (
            f"from mmengine.config import Config\nfrom mmseg.registry import MODELS\n"
            f"model = MODELS.build(Config.fromfile({config[1]!r}).model)\nassert model.backbone"
        )
        (folder / "check.py").write_text(check)
        run(folder, script="check.py")
    else:
        (folder / "block.py").write_text(code)
        run(folder, script="block.py")


def test_fifteen_minutes_leave_what_the_page_says(folders):
    folder = folders["docs/get_started/fifteen_minutes.md"]
    if not (folder / "exported").exists():
        pytest.skip("its blocks were not run")
    results = json.loads((folder / "results" / "results.json").read_text())
    assert results
    assert list((folder / "shown").rglob("*.png"))
    assert (folder / "mine.onnx").stat().st_size > 1000

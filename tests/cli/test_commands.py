"""The command line: help without torch, names that options show, the same from every door."""

import subprocess
import sys

import pytest

from mmseg_tome import cli
from mmseg_tome.cli import names

TOOLS = dict(convert="convert_checkpoint", visualize="visualize_merging")
WITHOUT = "import sys; sys.modules.update(dict.fromkeys(['torch', 'mmengine', 'mmcv', 'mmseg']))"


def run(*command, **env) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command], env=env, capture_output=True, text=True, timeout=100
    )


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_imports_neither_torch_nor_the_mm_stack(command, repo, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    path = f"{tmp_path}:{repo}"
    done = run("-m", "mmseg_tome", command, "--help", PYTHONPATH=path, COLUMNS="90")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: mmseg-tome {command} ")
    tool = TOOLS.get(command, command.replace("-", "_")) + ".py"
    script = run(repo / "tools" / tool, "--help", PYTHONPATH=path, COLUMNS="90").stdout
    options = [text.partition("\noptions:")[2] for text in (done.stdout, script)]
    assert options[0] == options[1] != ""


def test_every_command_has_a_module_and_a_tool(repo):
    tools = {TOOLS.get(name, name.replace("-", "_")) for name in cli.COMMANDS}
    assert tools == {path.stem for path in (repo / "tools").glob("*.py")}


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [([], 2, "which command"), (["trian"], 2, "no command 'trian'; is it train?")],
)
def test_without_a_command(argv, code, said, capsys):
    assert cli.main(argv) == code
    assert said in capsys.readouterr().err


def test_the_list_of_commands(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)


def test_names_are_those_of_the_modules():
    pytest.importorskip("mmseg")
    from mmseg_tome.checkpoints.config_file import POSE, SEGMENTATION
    from mmseg_tome.export import onnx_file, program
    from mmseg_tome.lab.bench import networks
    from mmseg_tome.lab.bench.as_typed.variants import LOSSES, TASKS
    from mmseg_tome.lab.sweep.scores import ScoreOptions
    from mmseg_tome.lab.sweep.settings import SWEEPS
    from mmseg_tome.merging import PRESETS

    assert names.MODELS == networks.NAMES
    assert tuple(networks.PRESETS) == names.PRESETS
    assert tuple(PRESETS) == names.MERGING_PRESETS
    assert tuple(SWEEPS) == names.SWEEPS
    assert (*TASKS, LOSSES.name) == names.AS_TYPED
    assert tuple(known.name for known in SEGMENTATION + POSE) == names.DATASETS
    assert (names.OPSET, names.SCORES_MIB) == (onnx_file.OPSET, program.SCORES_MIB)
    assert ScoreOptions.boundary_ratio == names.BOUNDARY_RATIO

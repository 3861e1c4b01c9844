"""The examples and the guide run where nothing of the mm stack can be imported."""

import re
import subprocess
import sys

import pytest

BLOCKER = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"mmcv", "mmengine", "mmseg", "mmpose", "transformers"}:
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_without_mm(script, folder):
    command = [sys.executable, "-c", BLOCKER, str(script)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)


def test_attention_block_needs_torch_alone(repo):
    done = run_without_mm(repo / "examples" / "merge_your_own_attention.py", repo)
    assert done.returncode == 0, done.stderr
    queries, keys, output = done.stdout.splitlines()
    # 32x48 tokens: int(1536 * 0.8) of them go; 16x24 windows.
    assert queries.startswith("queries: 308 of 1536 tokens kept (20%)")
    assert keys.startswith("keys/values: 384 of 1536 tokens kept (25%)")
    assert output.startswith("output: (2, 1536, 64)")


@pytest.fixture
def guide(repo):
    """The Python of that page up to the part that downloads a model, as one program."""
    text = (repo / "docs" / "concepts" / "your_own_attention.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text.split("## Hugging Face SegFormer")[0], re.S)
    assert len(blocks) == 2
    return "\n".join(blocks)


def test_guide_says_what_happens(guide, repo, tmp_path):
    script = tmp_path / "guide.py"
    checks = [
        "assert y.shape == (2, 820, 32)",
        "assert z.shape == x.shape == (2, 4096, 32)",
        "assert repr(q_strategy) == 'BipartiteMatching(ratio=0.9, stride=(4, 4))'",
        "assert [stage.reuse for stage in stages] == [1, 2]",
        "import mmseg_tome.huggingface",
    ]
    script.write_text("\n".join([guide, *checks]))
    done = run_without_mm(script, repo)
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks(repo, tmp_path):
    script = tmp_path / "needs_mm.py"
    script.write_text("import mmseg_tome.models")
    assert "is blocked" in run_without_mm(script, repo).stderr

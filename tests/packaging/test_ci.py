"""`.ci/run`, with a `make` that only sleeps in place of all that it runs; nothing is installed."""

import os
import re
import shutil
import subprocess
from itertools import accumulate

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")

MAKE = """#!/bin/sh
case "$*" in
*install*openmmlab*) exec sleep 0.1 ;;
*install*) exec sleep 0.8 ;;
esac
echo 1 >> running
echo "make $*"
sleep 0.3
echo "PORT=$PORT"
echo -1 >> running
case "$*" in *tests/ops*) exit 7 ;; esac
"""


def test_pieces_run_two_at_a_time_and_one_that_fails_is_told(repo, tmp_path):
    """The installs end one long after the other: that let three pieces run at once."""
    refused = "#!/bin/sh\nexit 1\n"
    script = (repo / ".ci/run").read_text()
    for file, text in {"make": MAKE, "apt-get": refused, ".ci/run": script}.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
        (tmp_path / file).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [tmp_path / ".ci/run", "onedl", "openmmlab"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    numbers = map(int, (tmp_path / "running").read_text().split())
    assert max(accumulate(numbers)) == 2
    outputs = re.findall(r"^make test .*\nPORT=(\d+)\nexit (\d+) after", done.stdout, re.M)
    ports, statuses = zip(*outputs, strict=True)
    assert len(set(ports)) == len(ports) > 5
    assert set(statuses) == {"0", "7"}
    assert done.returncode == 1
    # Each once with its output and once in the summary; no piece of `checks`, which was not named.
    assert len(re.findall(r"^exit \d+ after", done.stdout, re.M)) == 2 * len(ports)
    assert "make lint" not in done.stdout

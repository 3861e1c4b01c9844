"""Training by graphs under DDP: over NCCL on GPUs, on a CPU over gloo and with a stand-in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("train_in_processes.py")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_losses_are_those_of_plain_passes(processes):
    """Also where gradients accumulate; starting processes takes longest, so both go in one."""
    gpus = torch.cuda.device_count()
    if gpus and processes > gpus:
        pytest.skip("NCCL needs a GPU for each process")
    backend = "nccl" if gpus else "gloo"
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *launcher, str(SCRIPT), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stderr.splitlines() if line.startswith("[rank")]
    assert done.returncode == 0, "\n".join(lines)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert [each["accumulate"] for each in found] == [1, 2]
    for each in found:
        assert each["captured"] == [True]
        losses = [torch.tensor(each[key]) for key in ("graphed", "plain")]
        tolerance = dict(rtol=2e-2, atol=1e-3) if gpus else dict(rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(*losses, **tolerance)

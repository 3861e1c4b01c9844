"""Memory in use on the GPUs while a program runs, as `nvidia-smi` sees it.

That is more than torch's peak of allocated memory in mm's log: it holds cached blocks, the private
pools of CUDA graphs, and what libraries and the driver take.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

INTERVAL_MS = 500


def query(fields: str) -> list[list[str]]:
    """`nvidia-smi`'s answer, a list of fields for each GPU; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, text=True, capture_output=True)
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [[field.strip() for field in line.split(",")] for line in lines if line.strip()]


class Peak:
    """What was seen: ``mib`` is the largest use of one GPU, None without a GPU."""

    mib: float | None = None


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Look every half second while the body runs; the peak is there afterwards."""
    peak = Peak()
    if not query("memory.used"):
        yield peak
        return
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    with tempfile.TemporaryFile("w+") as seen:
        watcher = subprocess.Popen([*command, f"--loop-ms={INTERVAL_MS}"], stdout=seen)
        try:
            yield peak
        finally:
            watcher.terminate()
            watcher.wait()
            seen.seek(0)
            values = [float(line) for line in seen if line.strip().replace(".", "").isdigit()]
            peak.mib = max(values, default=None)

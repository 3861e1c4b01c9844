"""Runs a command, and ends it when the process that asked for it is gone, however that ended.

    python guard.py COMMAND...

Its standard input is a pipe that the asking process holds open: a process that is killed has no
other last word. Meant to lead a session of its own, in which the command's children are, too.
"""

import os
import signal
import subprocess
import sys
import threading
import time

PATIENCE = 60
"""Seconds that a command has to end by itself."""


def main(command: list[str]) -> int:
    """Run the command; returns its exit code, as shells do 128 and its number after a signal."""
    asked = []
    # Not SIG_IGN, which the command would inherit: the group's signals are for it alone.
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    if asked:  # before it was there
        process.terminate()
    threading.Thread(target=_watch, daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


def _watch() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when nobody holds the other end any more
    os.killpg(0, signal.SIGTERM)
    time.sleep(PATIENCE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

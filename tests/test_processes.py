"""Commands: what they print is kept, they end in time and with the process that runs them."""

import io
import os
import select
import signal
import subprocess
import sys

import pytest

from mmseg_tome import processes
from mmseg_tome.files import only_one


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


@pytest.fixture
def alive(tmp_path):
    """A named pipe, and a function that waits until no process holds it and returns its content."""
    pipe = tmp_path / "alive"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def content(patience: float = 10) -> bytes:
        assert select.select([reader], [], [], patience)[0]
        return os.read(reader, 99)

    yield pipe, content
    os.close(reader)


def test_output_is_logged_and_progress_shown():
    line = "01/01 - mmengine - INFO - Iter(train) [ 20/400]  lr: 6e-5  eta: 0:01:02  loss: 0.5"
    code = f"import os, sys; print({line!r}); print(os.environ['MARK'], file=sys.stderr); exit(3)"
    log, shown = io.StringIO(), []
    env = processes.environment(MARK="from the environment")
    assert processes.run(python(code), log, show=shown.append, env=env) == 3
    assert shown == ["Iter(train) [ 20/400]  eta: 0:01:02  loss: 0.5"]
    assert sorted(log.getvalue().splitlines()) == sorted([line, "from the environment"])


def test_python_is_this_interpreter(tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho another one\n")
    other.chmod(0o755)
    log = io.StringIO()
    env = processes.environment() | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert processes.run(["python", "-c", "import sys; print(sys.executable)"], log, env=env) == 0
    assert log.getvalue() == f"{sys.executable}\n"


def test_the_last_line_that_says_something():
    assert processes.last_line("a\n  b \n\n") == "b"
    assert processes.last_line("\n") == "it printed nothing"


def test_a_signal_is_an_exit_code():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert processes.run(python(code), io.StringIO()) == 137


def test_a_program_that_is_not_there():
    log = io.StringIO()
    assert processes.run(["no-such-program"], log) == 127
    assert log.getvalue() == "cannot run no-such-program: No such file or directory\n"


def test_a_command_finds_this_package_and_interpreter(monkeypatch, tmp_path, repo):
    monkeypatch.setenv("RANK", "1")
    log = io.StringIO()
    code = (
        "import mmseg_tome, os, sys\n"
        "print(mmseg_tome.__file__, sys.executable, 'RANK' in os.environ)"
    )
    assert processes.run(["python", "-c", code], log, cwd=tmp_path) == 0
    assert log.getvalue().split() == [
        str(repo / "mmseg_tome" / "__init__.py"),
        os.path.join(os.path.dirname(sys.executable), "python"),
        "False",
    ]


WITH_A_CHILD = (
    "import os, signal\n"
    "pipe = open({!r}, 'w')\n"
    "if os.fork() == 0: signal.signal(signal.SIGTERM, lambda *_: None); os.close(1); os.close(2)\n"
    "else: print('Iter(test) [1/2]', flush=True)\n"
    "while True: signal.pause()\n"
)
"""The child holds the pipe and does not mind to be asked to end."""


def test_an_interruption_ends_the_command_and_its_children(alive):
    def interrupt(text):
        raise KeyboardInterrupt

    pipe, content = alive
    with pytest.raises(KeyboardInterrupt):
        processes.run(python(WITH_A_CHILD.format(str(pipe))), io.StringIO(), show=interrupt)
    assert content() == b""


def test_a_time_limit_ends_the_command_and_its_children(alive):
    pipe, content = alive
    log = io.StringIO()
    with pytest.raises(TimeoutError, match="took more than 2 s"):
        processes.run(python(WITH_A_CHILD.format(str(pipe))), log, timeout=2)
    assert log.getvalue() == "Iter(test) [1/2]\n"
    assert content() == b""


KILLED = """
import io, os, signal
from mmseg_tome import files, processes
def kill(text):
    os.kill(os.getpid(), signal.SIGKILL)
with files.only_one({folder!r}) as lock:
    processes.run(["python", "-c", {code!r}], io.StringIO(), show=kill, lock=lock)
"""


def test_a_command_ends_with_its_caller_that_is_killed(tmp_path, alive):
    """Until it has ended, it holds the lock."""
    pipe, content = alive
    code = (
        "import signal, time\n"
        f"pipe = open({str(pipe)!r}, 'w')\n"
        "def end(*args): time.sleep(0.5); pipe.write('ended'); raise SystemExit\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('Iter(test) [1/2]', flush=True)\n"
        "while True: time.sleep(0.1)\n"
    )
    caller = python(KILLED.format(folder=str(tmp_path / "held"), code=code))
    done = subprocess.run(caller, env=processes.environment(), timeout=100)
    assert done.returncode == -signal.SIGKILL
    with only_one(tmp_path / "held", patience=10):
        assert content(patience=0) == b"ended"

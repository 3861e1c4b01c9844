import argparse
import re

from mmseg_tome.cli import progress


def test_a_log_gets_a_line_now_and_then_with_the_speed(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0)
    args = argparse.Namespace(quiet=False)
    with progress.progress_bar(args, "segmentation", None, "FPS") as (advance, _):
        advance(2)
        advance(1)
    with progress.progress_bar(args, "figures", 3) as (advance, _):
        advance(1)
    first, second, third = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"segmentation 2 \d+\.\d FPS", first)
    assert re.fullmatch(r"segmentation 3 \d+\.\d FPS", second)
    assert third == "figures 1/3"


def test_quiet_says_nothing_but_what_is_told(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0)
    with progress.progress_bar(argparse.Namespace(quiet=True), "a", 3, "FPS") as (advance, tell):
        advance(1)
        tell("error: b")
    assert capsys.readouterr().err == "error: b\n"

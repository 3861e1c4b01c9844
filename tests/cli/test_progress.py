import argparse
import re
import sys

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


def test_a_logger_that_was_made_meanwhile_prints_again_afterwards(tmp_path, capsys):
    from mmengine.logging import MMLogger

    from mmseg_tome.cli.terminal import log_to_file

    with log_to_file(sys.stdout, tables=False):
        logger = MMLogger.get_instance("of_this_test", log_file=str(tmp_path / "log"))
        print("for the log")
    logger.info("for the terminal")
    said = capsys.readouterr().out
    assert "for the terminal" in said
    assert "for the log" not in said
    assert "for the log" in (tmp_path / "log").read_text()

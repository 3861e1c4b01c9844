"""What a tool says of an error: a line for what its user can mend, nothing for a bug."""

import os
import subprocess
import sys

import pytest
from mmengine.registry import Registry

from mmseg_tome.cli.ending import explain, run
from mmseg_tome.errors import UserError
from mmseg_tome.merging import TomeConfigError

PARTS = Registry("part", scope="bikes")


@PARTS.register_module()
class Wheel:
    def __init__(self, radius, spokes=8):
        if radius < 0:
            raise TomeConfigError("a radius below 0")
        self.turn(radius)

    def turn(self, radius):
        if radius == 13:
            self.turn(radius, speed=1)


@PARTS.register_module()
class Bike:
    def __init__(self, wheel, colour="red", **kwargs):
        super().__init__(**kwargs)
        self.wheel = PARTS.build(wheel)


def said(config: dict) -> str | None:
    with pytest.raises(Exception) as caught:
        PARTS.build(config)
    return explain(caught.value)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (dict(type="Wheel", radius=1, spoks=3), "config: Wheel takes no spoks; is it spokes?"),
        (dict(type="Wheel", radius=1, xyz=3), "config: Wheel takes no xyz"),
        (
            dict(type="Bike", wheel=dict(type="Wheel", radius=1, spoks=3)),
            "config: Wheel takes no spoks; is it spokes?",
        ),
        (dict(type="Wheel"), "config: Wheel needs 'radius'"),
        (
            dict(type="Whel", radius=1),
            "config: there is no class Whel among bikes::part; is it Wheel?",
        ),
        (
            dict(type="Bike", wheel=dict(type="Rim", radius=1)),
            "config: there is no class Rim among bikes::part",
        ),
        (dict(type="Bike", wheel=dict(type="Wheel", radius=-1)), "a radius below 0"),
        # a bug inside of a class is none of the config
        (dict(type="Wheel", radius=13), None),
        (dict(type="Wheel", radius="1"), None),
    ],
)
def test_mistakes_in_a_config(config, line):
    assert said(config) == line


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyError("a"), TypeError("a"), OSError()])
def test_bugs_are_not_explained(error):
    assert explain(error) is None


@pytest.mark.parametrize("error", [UserError("one\ntwo"), TomeConfigError("one\ntwo")])
def test_with_and_without_a_name_the_line_is_the_same(error, capsys):
    def work():
        raise error

    assert run(work) == run(work, "tool.py") == 2
    assert capsys.readouterr().err == "error: one two\ntool.py: error: one two\n"


def test_a_reader_that_has_read_enough(repo):
    """`mmseg-tome configs | head -1` ends without a traceback."""
    command = [sys.executable, "-m", "mmseg_tome", "configs"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=repo)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")

"""Importing a room below the hooks changes nothing outside it; `hooks.install` does."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("mmengine")

COMMON = """
import importlib, json, pkgutil, sys, types
import torch
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.fileio.backends import backends, prefix_to_backends
from mmengine.runner import CheckpointLoader

WATCHED = ("mmengine", "mmcv", "mmseg", "mmpose", "torch.nn", "torch.serialization", "torch.optim")
CODE = (types.FunctionType, staticmethod, classmethod, property, type)

def tables():
    found = dict(loaders=CheckpointLoader._schemes, backends=backends, prefixes=prefix_to_backends,
                 packages=MODULE2PACKAGE)
    found = {name: {key: repr(value) for key, value in table.items()}
             for name, table in found.items()}
    safe = map(repr, torch.serialization.get_safe_globals())  # torch and others add their own
    return dict(found, safe=sorted(each for each in safe if "mm" in each or "numpy" in each))

def code():
    "Functions and classes of the mm packages and of torch, those of classes as well."
    found = {}
    for name, module in list(sys.modules.items()):
        if name.startswith(WATCHED) and isinstance(module, types.ModuleType):
            for key, value in list(vars(module).items()):
                if isinstance(value, CODE):
                    found[f"{name}.{key}"] = value
                if isinstance(value, type) and value.__module__ == name:
                    found |= {f"{name}.{key}.{attribute}": each
                              for attribute, each in vars(value).items() if isinstance(each, CODE)}
    found["torch.load"] = torch.load
    return found
"""

CODE = """
first = tables()
import mmseg_tome.compat
before = code()
for room in ROOMS:
    package = importlib.import_module(f"mmseg_tome.{room}")
    for each in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module(each.name)
        except ModuleNotFoundError as error:
            if error.name.startswith("mmseg_tome"):  # not a package that is not installed here
                raise
after = code()
replaced = [name for name, value in before.items() if after.get(name) is not value]
last = tables()
print(json.dumps([replaced, [name for name in first if first[name] != last[name]]]))
"""

INSTALLING = """
first = tables()
import mmseg_tome.engine  # as saved configs name it
last = tables()
mmseg_tome.engine.install()
print(json.dumps([[name for name in first if first[name] != last[name]], last == tables()]))
"""

ROOMS = (
    *("ops", "merging", "models", "huggingface", "runtime", "checkpoints"),
    *("datasets", "evaluation", "predict", "visualization", "export"),
)


def run(code: str):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{COMMON}\nROOMS = {ROOMS}\n{code}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_rooms():
    replaced, tables = run(CODE)
    assert replaced == []
    assert tables == []


def test_importing_hooks_installs_once():
    changed, stays = run(INSTALLING)
    assert {"loaders", "backends"} <= set(changed)
    assert stays

"""What is run: tasks of a user, their variants, and the command lines that are typed for them."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmseg_tome.files import CONFIGS, TOOLS
from mmseg_tome.lab.bench.networks import UsageError

from .data import CITYSCAPES_SIZE

STOCK = "stock"
OURS = "mmseg_tome."


@dataclass(frozen=True)
class Task:
    """What a user does with one tool.

    Attributes:
        name: What `--as-typed` calls it.
        tool: The script.
        config: The last part of the names of its configs.
        data: The data set, see `data.MAKERS`.
        title: What reports call it.
    """

    name: str
    tool: str
    config: str
    data: str
    title: str

    @property
    def trains(self) -> bool:
        """Whether it is a training run."""
        return self.tool == "train"


TASKS = {
    task.name: task
    for task in (
        Task("test-slide", "test", "cityscapes", "cityscapes", "test.py, Cityscapes, windows"),
        Task("test-whole", "test", "cityscapes_whole", "cityscapes", "test.py, Cityscapes, whole"),
        Task("train", "train", "cityscapes", "cityscapes", "train.py --amp, Cityscapes"),
        Task("pose-coco", "test", "coco", "coco", "test.py, COCO"),
        Task("pose-jbd", "test", "jbd", "jump_broadcast", "test.py, Jump-Broadcast"),
    )
}
LOSSES = Task("losses", "train", "cityscapes", "cityscapes", "losses of training")
"""Not timed, see `losses`."""


@dataclass(frozen=True)
class Run:
    """One variant of a task.

    Attributes:
        task: What is done.
        model: Such as "b5".
        variant: A preset of ours, or `STOCK`.
        dtype: "float32" for no switch. In training that is `--amp`.
        launch: "auto" for no switch.
        gpus: How many processes.
        repeat: Tells runs of the same command apart.
    """

    task: Task
    model: str
    variant: str
    dtype: str = "float32"
    launch: str = "auto"
    gpus: int = 1
    repeat: int = 0

    @property
    def name(self) -> str:
        """Of its work directory."""
        parts = (self.task.name, self.model, self.variant, self.dtype, self.launch, f"{self.gpus}x")
        return "-".join((*parts, str(self.repeat)))

    @property
    def checkpoint(self) -> str:
        """Name of the weights, which variants share."""
        return f"{self.task.data}_{self.model}.pth"

    @property
    def switches(self) -> list[str]:
        """The precision and the launching that are asked for, as the tools take them."""
        half = self.dtype == "bfloat16" or (self.dtype == "float16" and not self.task.trains)
        given = ["--amp"] if self.task.trains and not half else []
        given += ["--dtype", self.dtype] if half else []
        return given + (["--launch", self.launch] if self.launch != "auto" else [])


def runs_of(
    task: Task,
    model: str,
    presets: list[str],
    dtypes: list[str],
    launches: list[str],
    gpus: list[int],
) -> Iterator[Run]:
    """All variants of a task: stock once a number of processes, ours with all switches.

    In training stock takes the precision as well: it is a switch of the mm tools.
    """
    for count in gpus if task.trains else [1]:
        for dtype in dtypes if task.trains else ["float32"]:
            yield Run(task, model, STOCK, dtype, gpus=count)
        for dtype, launch, preset in itertools.product(dtypes, launches, presets):
            yield Run(task, model, preset, dtype, launch, count)


@dataclass(frozen=True)
class Workspace:
    """A folder to run the tools in: it holds `data`, as a user's does, configs and checkpoints.

    Attributes:
        root: Its path.
        size: (H, W) of the Cityscapes images.
    """

    root: Path
    size: tuple[int, int] = CITYSCAPES_SIZE
    _configs: dict[tuple, Path] = field(default_factory=dict, init=False, repr=False)

    def config(self, run: Run) -> Path:
        """The config to type: ours as it lies in `configs/`, or one that is written here.

        Raises:
            UsageError: There is no config of that model.
        """
        key = run.task.name, run.model, run.variant
        if key not in self._configs:
            self._configs[key] = self._config(run)
        return self._configs[key]

    def _config(self, run: Run) -> Path:
        preset = "none" if run.variant == STOCK else run.variant
        path = config_path(run.model, preset, run.task.config)
        resized = run.task.data == "cityscapes" and self.size != CITYSCAPES_SIZE
        wanted_whole = run.task.config.endswith("whole") and not path.stem.endswith("whole")
        if run.variant != STOCK and not resized and not wanted_whole:
            return path
        cfg = Config.fromfile(path)
        if wanted_whole:
            cfg.model.test_cfg = dict(mode="whole")
        if resized:
            resize(cfg, self.size)
        if run.variant == STOCK:
            make_stock(cfg)
        own = self.root / "configs" / f"{path.stem}_{run.task.name}_{run.variant}.py"
        own.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(own)
        return own

    def make_checkpoint(self, run: Run) -> Path:
        """Random weights, always the same, under the keys that stock and ours share."""
        path = self.root / "checkpoints" / run.checkpoint
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            stock = self.config(replace(run, variant=STOCK))
            torch.manual_seed(0)
            net = build(Config.fromfile(stock))
            torch.save(dict(state_dict=net.state_dict(), meta={}), path)
        return path

    def command(self, run: Run, options: list[str], python_args: Sequence[str] = ()) -> list[str]:
        """What to type in `root`, with settings ``options`` that measuring needs."""
        config, checkpoint = str(self.config(run)), str(self.make_checkpoint(run))
        rest = [*run.switches, "--work-dir", f"work_dirs/{run.name}"]
        if run.task.trains:
            rest.append("--no-validate")
            # Nothing to download: the random weights instead of the published ones.
            options = [f"load_from={checkpoint}", "model.backbone.init_cfg=None", *options]
        else:
            rest = [checkpoint, *rest]
        rest += ["--cfg-options", *options]
        if run.gpus > 1:
            script = TOOLS / f"dist_{run.task.tool}.sh"
            return ["bash", str(script), config, str(run.gpus), *rest]
        return [sys.executable, *python_args, str(TOOLS / f"{run.task.tool}.py"), config, *rest]


def config_path(model: str, preset: str, what: str) -> Path:
    """Our config of a model, a preset and a data set.

    Raises:
        UsageError: There is none.
    """
    stem = "segformerpp" if model == "b5" else f"{model}/segformerpp_{model}"
    for name in (what, what.removesuffix("_whole")):
        path = CONFIGS / f"{stem}_{preset}_{name}.py"
        if path.is_file():
            return path
    raise UsageError(f"there is no config {path.relative_to(CONFIGS.parent)}")


def build(cfg: Config) -> torch.nn.Module:
    """The model of a config, without weights to download."""
    model = copy.deepcopy(cfg.model)
    model.backbone.pop("init_cfg", None)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(model)


_STOCK_MODELS = {
    f"{OURS}MixVisionTransformer": "mmseg.MixVisionTransformer",
    f"{OURS}SegformerHead": "mmseg.SegformerHead",
    f"{OURS}SegformerHeatmapHead": "mmpose.StockHeatmapHead",
    f"{OURS}EncoderDecoder": "mmseg.EncoderDecoder",
    f"{OURS}TopdownPoseEstimator": "mmpose.TopdownPoseEstimator",
    f"{OURS}IoUMetric": "mmseg.IoUMetric",
    f"{OURS}SegDataPreProcessor": "mmseg.SegDataPreProcessor",
    f"{OURS}PoseDataPreprocessor": "mmpose.PoseDataPreprocessor",
}
_KEPT = {f"{OURS}JumpBroadcastDataset"}
"""What a user of the stock model would need as well."""


def make_stock(cfg: Config) -> None:
    """Take everything of ours out of a config: classes become the stock ones, additions go.

    Data sets and numbers of workers stay.

    Raises:
        UsageError: Something of ours is left that is not known here.
    """
    for key in ("tome_cfg", "down_sample"):
        cfg.model.backbone.pop(key, None)
    cfg.custom_imports = dict(imports=["mmseg_tome.compat"], allow_failed_imports=False)
    if "head" in cfg.model:
        cfg.custom_imports.imports.append("mmseg_tome.lab.bench.as_typed.stock_pose")
    if any(name in str(cfg) for name in _KEPT):
        cfg.custom_imports.imports.append("mmseg_tome.datasets")
    cfg.optim_wrapper.pop("constructor", None)
    for stage in ("train", "val", "test"):
        loader = cfg[f"{stage}_dataloader"]
        for key in ("collate_fn", "pin_memory", "prefetch_factor"):
            loader.pop(key, None)
    cfg.default_hooks = {
        name: hook for name, hook in cfg.default_hooks.items() if not _is_ours(hook)
    }
    cfg.custom_hooks = [hook for hook in cfg.get("custom_hooks") or () if not _is_ours(hook)]
    for part in _dicts(cfg._cfg_dict):
        part_type = part.get("type")
        if part_type in _STOCK_MODELS:
            part["type"] = _STOCK_MODELS[part_type]
        elif _is_ours(part) and part_type not in _KEPT:
            raise UsageError(f"the stock variant would have a {part_type}")


def resize(cfg: Config, size: tuple[int, int]) -> None:
    """Make a Cityscapes config one of smaller images, crops and windows."""
    height, width = size
    crop = (height, height)
    cfg.crop_size = crop
    cfg.model.data_preprocessor["size"] = crop
    if cfg.model.test_cfg.get("mode") == "slide":
        cfg.model.test_cfg.update(crop_size=crop, stride=(3 * height // 4,) * 2)
    for stage in ("train", "val", "test"):
        for step in cfg[f"{stage}_dataloader"].dataset.pipeline:
            if "scale" in step:
                step["scale"] = (width, height)
            if "crop_size" in step:
                step["crop_size"] = crop


def batch_size(cfg: Config, run: Run) -> int:
    """Images of one iteration, all processes together."""
    stage = "train" if run.task.trains else "test"
    return cfg[f"{stage}_dataloader"].batch_size * run.gpus


def _is_ours(part: dict) -> bool:
    return str((part or {}).get("type", "")).startswith(OURS)


def _dicts(node) -> Iterator[dict]:
    if isinstance(node, dict):
        yield node
        node = node.values()
    elif not isinstance(node, list | tuple):
        return
    for value in node:
        yield from _dicts(value)

"""The model zoo: metafiles for `mim` and mm's inferencers, and docs/zoo.md, made from the configs.

    python -m mmseg_tome.lab.zoo

Links and numbers are as others published them; nothing here was downloaded or measured.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmseg_tome.lab.reproduce.tables import TABLES, Published, Table

REPO = Path(__file__).resolve().parents[2]
INDEX, PAGE = "model-index.yml", "docs/zoo.md"
PRESETS = ("none", "hq", "fast", "n2d", "quality", "speed", "downsample")
PAPER = ("none", "hq", "fast", "n2d", "downsample")
"""The rows of the paper's tables."""

AUTHORS_CODE = "https://github.com/KieDani/SegformerPlusPlus"
AUTHORS_FILES = "https://mediastore.rz.uni-augsburg.de/get/"
AUTHORS = {
    "cityscapes-inference": dict.fromkeys(PAPER, "yzE65lzm6N"),
    "cityscapes-training": {
        "none": "yzE65lzm6N",
        "hq": "i8fY8uXJrV",
        "fast": "cmG974iAxt",
        "n2d": "p0uMKbw531",
        "downsample": "73zkKSO21t",
    },
    "ade20k": {
        "none": "nKEjUHNAfK",
        "hq": "Odyie8usgj",
        "fast": "K0IGkx4O2s",
        "n2d": "w5_Pxx4Q5C",
        "downsample": "dFVvZQL6iL",
    },
    "jbd": {
        "none": "psolrWXLLp",
        "hq": "jx1eyecMLF",
        "fast": "K0IGkx4O2s",
        "n2d": "HumKbSB1vI",
    },
    "coco": {
        "none": "ZOgj2NmQLy",
        "hq": "oAH5IlPxG8",
        "fast": "3E2mMNLAAn",
        "n2d": "rzlgKC5XLc",
    },
}
"""Names of the files in the tables of the authors' README, by our tables and rows."""

SHARED = "K0IGkx4O2s"
"""Stands in two rows there, ADE20K fast and Jump-Broadcast fast: in one of them by mistake."""

OPENMMLAB = {
    "cityscapes": {"b0": (76.54, 78.22), "b1": (78.56, 79.73), "b2": (81.08, 82.18)}
    | {"b3": (81.94, 83.14), "b4": (81.89, 83.38), "b5": (82.25, 83.48)},
    "ade20k": {"b0": (37.41, 38.34), "b1": (40.97, 42.54), "b2": (45.58, 47.03)}
    | {"b3": (47.82, 48.81), "b4": (48.46, 49.76), "b5": (49.62, 50.36)},
    "twins_pcpvt_s": (46.04, 46.92),
    "twins_svt_s": (46.08, 46.96),
    "deit_s16": (43.82, 45.07),
}
"""mIoU of the unmerged models in mmseg's metafiles: of one scale, and of several with flips."""

NVIDIA = {"cityscapes": {"b5": "84.0"}, "ade20k": {"b0": "37.4", "b4": "50.3", "b5": "51.0"}}
"""mIoU of NVIDIA's own models in the SegFormer paper (arXiv 2105.15203, abstract and figure 1)."""

NVLABS_FILES = "https://drive.google.com/drive/folders/1GAku0G0iR9DsBxCbfENWMJ27c5lYUeQA"
DATASETS = {
    "cityscapes": "Cityscapes",
    "ade20k": "ADE20K",
    "coco": "COCO",
    "jbd": "Jump-Broadcast",
}
SEGMENTATION, POSE = "Semantic Segmentation", "Body 2D Keypoint"
COLLECTION = "SegFormer++"
COLLECTIONS = [
    dict(
        Name=name,
        License="Apache License 2.0",
        Metadata={"Training Data": list(data)},
        Paper=dict(Title=title, URL=url),
        README="docs/zoo.md",
        Frameworks=["PyTorch"],
    )
    for name, data, title, url in (
        (
            COLLECTION,
            DATASETS.values(),
            "Segformer++: Efficient Token-Merging Strategies for High-Resolution Semantic "
            "Segmentation",
            "https://arxiv.org/abs/2405.14467",
        ),
        (
            "Twins with token merging",
            ["ADE20K"],
            "Twins: Revisiting the Design of Spatial Attention in Vision Transformers",
            "https://arxiv.org/abs/2104.13840",
        ),
        (
            "DeiT with token merging",
            ["ADE20K"],
            "Training data-efficient image transformers & distillation through attention",
            "https://arxiv.org/abs/2012.12877",
        ),
    )
]


@dataclass(frozen=True)
class Model:
    """A config with weights.

    Attributes:
        name: As `mim` and inferencers know it: the config's, with `_trained` where the weights were
            trained with its merging, `_authors` where they are the authors' unmerged ones.
        path: Of the config, in the repository.
        weights: Their address.
        origin: Who trained them, and how.
        metrics: What was measured with these weights and this merging; empty if nothing was.
        measured: Who did.
    """

    name: str
    path: Path
    weights: str
    origin: str
    metrics: dict[str, float]
    measured: str = ""

    @property
    def preset(self) -> str:
        return next(p for p in PRESETS if p in self.path.stem.split("_"))

    @property
    def size(self) -> str:
        return self.path.parent.name if self.path.parent.name in SIZES else "b5"

    @property
    def dataset(self) -> str:
        return _dataset(self.path)


SIZES = ("b0", "b1", "b2", "b3", "b4")
UNMERGED = "without merging"


def main() -> int:
    """Write all files that `files` gives; returns the exit code."""
    for path, text in files(REPO).items():
        (REPO / path).write_text(text, encoding="utf-8")
        print(path)
    return 0


def files(repo: Path) -> dict[str, str]:
    """The text of each file of the zoo, by its path in the repository."""
    models = find_models(repo)
    folders: dict[Path, list[Model]] = defaultdict(list)
    for model in models:
        folders[model.path.parent].append(model)
    found = {f"{folder.as_posix()}/metafile.yml": _metafile(folders[folder]) for folder in folders}
    return {
        **found,
        INDEX: _yaml(dict(Import=list(found))),
        PAGE: _page(models),
    }


def find_models(repo: Path) -> list[Model]:
    """Every config that names a checkpoint, then the authors' other checkpoints, by config."""
    found = []
    for path in sorted((repo / "configs").rglob("*.py")):
        if "_base_" in path.parts:
            continue
        if weights := load_from(path):
            found += _models(path.relative_to(repo), weights)
    order = [*DATASETS]
    return sorted(
        found, key=lambda m: (m.path.parent, order.index(m.dataset), PRESETS.index(m.preset))
    )


def load_from(path: Path) -> str | None:
    """The checkpoint that a config names, itself or by what it inherits, without mmengine."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id in ("load_from", "_base_"):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    if "load_from" in found:
        return found["load_from"]
    bases = found.get("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    return next(filter(None, (load_from(path.parent / base) for base in bases)), None)


def _models(path: Path, weights: str) -> Iterator[Model]:
    name = path.stem
    ours = weights.startswith(AUTHORS_FILES)
    origin = f"{'the authors' if ours else 'OpenMMLab'}, {UNMERGED}"
    metrics, measured = _of_config(path, ours)
    if ours:  # the same file for all presets
        weights = _named(weights, f"segformerpp_none_{_dataset(path)}")
    yield Model(name, path, weights, origin, metrics, measured)
    for table in TABLES.values():
        for row, published in table.rows.items():
            if table.config.format(row=row) == name + ".py" and path.parent.name == "configs":
                yield from _by_the_authors(table, row, published, path, weights)


def _by_the_authors(
    table: Table, row: str, published: Published, path: Path, weights: str
) -> Iterator[Model]:
    """The checkpoint of a row of the authors' tables, if it is not the config's own."""
    link = f"{AUTHORS_FILES}{AUTHORS[table.name][row]}/"
    if weights.startswith(link) or (table.name == "cityscapes-training" and row == "none"):
        return
    trained = table.trains and row != "none"
    name = f"{path.stem}_{'trained' if trained else 'authors'}"
    how = f"with {row}" if trained else UNMERGED
    metrics = _metrics(table, published)
    yield Model(name, path, _named(link, name), f"the authors, {how}", metrics, "the authors")


def _dataset(path: Path) -> str:
    return next(key for key in DATASETS if key in path.stem.split("_"))


def _of_config(path: Path, ours: bool) -> tuple[dict[str, float], str]:
    """What is known of a config with the weights that it names, and from whom."""
    parts = path.stem.split("_")
    if "none" not in parts or parts[-1] in ("whole", "detections"):
        return {}, ""
    if ours:
        table = TABLES[parts[-1]]
        return _metrics(table, table.rows["none"]), "the authors"
    known = OPENMMLAB.get("_".join(parts[:-2]))
    if known is None:
        known = OPENMMLAB[parts[-1]][path.parent.name if path.parent.name in SIZES else "b5"]
    return {"mIoU": known[0], "mIoU(ms+flip)": known[1]}, "OpenMMLab"


def _metrics(table: Table, published: Published) -> dict[str, float]:
    return dict(zip((m.label for m in table.metrics), published.accuracy, strict=True))


def _named(link: str, name: str) -> str:
    """An address without a file name, with one that `mim` saves it under and no server sees."""
    return f"{link}#/{name}.pth"


def _metafile(models: list[Model]) -> str:
    used = list(dict.fromkeys(map(_collection, models)))
    collections = [each for each in COLLECTIONS if each["Name"] in used]
    return _yaml(dict(Collections=collections, Models=[_entry(model) for model in models]))


def _collection(model: Model) -> str:
    names = {"twins": "Twins with token merging", "vit": "DeiT with token merging"}
    return names.get(model.path.parent.name, COLLECTION)


def _entry(model: Model) -> dict:
    pose = model.dataset in ("coco", "jbd")
    result = dict(
        Task=POSE if pose else SEGMENTATION,
        Dataset=DATASETS[model.dataset],
        Metrics=model.metrics,
    )
    metadata = {
        "Training Data": DATASETS[model.dataset],
        "Architecture": [_architecture(model)],
        "Token Merging": model.preset,
        "Weights By": model.origin,
    }
    if model.measured:
        metadata["Measured By"] = model.measured
    if SHARED in model.weights:
        metadata["Note"] = "the authors give the same link for ADE20K fast and Jump-Broadcast fast"
    return {
        "Name": model.name,
        "In Collection": _collection(model),
        "Config": model.path.as_posix(),
        "Metadata": metadata,
        "Results": [result],
        "Weights": model.weights,
    }


def _architecture(model: Model) -> str:
    other = {"twins_pcpvt": "Twins-PCPVT-S", "twins_svt": "Twins-SVT-S", "deit": "DeiT-S16"}
    known = [name for key, name in other.items() if model.name.startswith(key)]
    return known[0] if known else f"MiT-{model.size.upper()}"


def _yaml(content: dict) -> str:
    import yaml  # mmengine needs it too

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data):
            return True

    text = yaml.dump(content, Dumper=Plain, sort_keys=False, width=1000, allow_unicode=True)
    return f"# Made by `make zoo` (mmseg_tome/lab/zoo.py).\n{text}"


INTRODUCTION = f"""# Model zoo

<!-- Made by `make zoo` (mmseg_tome/lab/zoo.py): change it there. -->

Every checkpoint here is somebody else's, and was neither downloaded nor measured by us: links are
as published, and each number stands beside the name of who measured it. *Not measured* means that
nobody has reported this preset with these weights.

```python
import mmseg_tome

predictor = mmseg_tome.load("segformerpp_fast_cityscapes")  # any name below; downloads the weights
predictor = mmseg_tome.load("segformerpp_fast_cityscapes", weights="my.pth")
predictor.predict("street.jpg").draw().save("overlay.png")
```

`mim search mmseg_tome`, `mim download mmseg_tome --config NAME --dest .` and, after
`mmseg_tome.add_to_inferencers()`, `MMSegInferencer(NAME)` and `Pose2DInferencer(NAME)` know the
same names (where mmdet is missing, which finds persons: `det_model="whole_image"`). A config's own
name stands for the weights in its `load_from`, which were trained without merging: merging needs no
training. Names that end in `_trained` stand for weights that the authors of SegFormer++ trained
with that preset, names in `_authors` for those that they trained without.

**Who offers what**

- *OpenMMLab*: the SegFormer of
  [mmseg's zoo](https://github.com/open-mmlab/mmsegmentation/tree/main/configs/segformer), trained
  without merging; here by the address of the maintained fork's mirror. Every segmentation config
  names it.
- *The authors*: the tables of [their README]({AUTHORS_CODE}),
  which does not say on which GPU and in which precision they measured. Pose has no other source.
  One link stands there for two models, ADE20K `fast` and Jump-Broadcast `fast` ({SHARED}), so
  one of them is wrong; loading the wrong one ends in an error that says what does not fit.
- *NVIDIA*, for research only by its
  [licence](https://github.com/NVlabs/SegFormer/blob/master/LICENSE): the original SegFormer, as one
  [folder of files]({NVLABS_FILES})
  and on Hugging Face. `mmseg_tome.load("segformer.b5.1024x1024.city.160k.pth", preset="fast")`
  reads a file of it, `mmseg_tome.load("nvidia/segformer-b5-finetuned-cityscapes-1024-1024",
  preset="fast")` a Hugging Face model, and `apply_merging` merges in the model of `transformers`
  itself. Heads of B2 to B5 have 768 channels, not 256 as the configs below.

Where there is no network, the error says where to put the file.
"""

TITLES = {
    "cityscapes": "Cityscapes: MiT-B5, crops of 1024x1024",
    "ade20k": "ADE20K: MiT-B5, 640x640",
    "coco": "COCO keypoints: MiT-B5, 384x288, given boxes",
    "jbd": "Jump-Broadcast keypoints: MiT-B5, 640x480",
}
WITHOUT = """
These configs are in none of the tables above: no weights are published for them as they stand.
Train them by `mmseg-tome train NAME`.

| configs | why |
| --- | --- |
| `b0/segformerpp_b0_{preset}_coco`, `..._jbd` | pose on B0: the authors published B5 alone |
| `camvid/segformerpp_{b0,b1,b2}_{preset}_camvid...` | for [our own tables](results/accuracy.md) |
| `pvt/{pvt_s,pvtv2_b2}_{preset}_coco` | MMPose's weights are for 256x192, these for 384x288 |
| `demo/segformerpp_{preset}_demo`, `..._demo_pose` | `make demo` and `make demo-pose` train them |
"""
"""Configs that `find_models` gives nothing for, and why."""

NOTES = {
    "cityscapes": "mIoU, one scale (in brackets: several scales and flips). "
    "`segformerpp_{preset}_cityscapes_whole` are the same models, tested on whole images of "
    "1024x2048 instead of by a sliding window.",
    "ade20k": "mIoU, one scale (in brackets: several scales and flips).",
    "coco": "`segformerpp_{preset}_coco_detections` are the same models, tested with the boxes of "
    "a detector. AP was not published.",
    "jbd": "",
}


def _page(models: list[Model]) -> str:
    parts = [INTRODUCTION]
    for dataset, title in TITLES.items():
        rows = [m for m in models if m.dataset == dataset and m.path.parent.name == "configs"]
        rows = [m for m in rows if not m.path.stem.endswith(("_whole", "_detections"))]
        rows = sorted(rows, key=lambda m: m.name.endswith("_trained"))
        rows = sorted(rows, key=lambda m: PRESETS.index(m.preset))
        pose = dataset in ("coco", "jbd")
        labels = ["PCK@0.1", "PCK@0.05"] if pose else ["mIoU"]
        lines = [
            _row("name, config", "preset", "weights", *labels, "measured by"),
            _row(*["---"] * (4 + len(labels))),
            *(_model_row(model, labels) for model in rows),
        ]
        parts += [f"## {title}", NOTES[dataset], "\n".join(lines)]
        if not pose:
            parts += [f"**Other sizes, {DATASETS[dataset]}**", _sizes(models, dataset)]
    parts += ["## Other backbones", _others(models), "## Without public weights", WITHOUT]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _model_row(model: Model, labels: list[str]) -> str:
    values = [_value(model, label) for label in labels]
    if not model.metrics:
        values = ["not measured", *[""] * (len(labels) - 1)]
    link = f"[{model.origin}]({model.weights.partition('#')[0]})"
    name = _config(model, f"`{model.name}`")
    return _row(name, f"`{model.preset}`", link, *values, model.measured)


def _value(model: Model, label: str) -> str:
    more = model.metrics.get(f"{label}(ms+flip)")
    return f"{model.metrics.get(label, float('nan')):.2f}{f' ({more:.2f})' if more else ''}"


def _config(model: Model, text: str) -> str:
    return f"[{text}](../{model.path.as_posix()})"


def _sizes(models: list[Model], dataset: str) -> str:
    """A line for each size: its unmerged model, which all presets run."""
    lines = [
        _row("size", "configs, by preset", "OpenMMLab's weights, mIoU", "NVIDIA's, mIoU"),
        _row(*["---"] * 4),
    ]
    for size in (*SIZES, "b5"):
        some = [
            m
            for m in models
            if m.dataset == dataset
            and m.size == size
            and m.name == m.path.stem
            and m.name.startswith("segformerpp")
            and not m.name.endswith("_whole")
        ]
        none = next(m for m in some if m.preset == "none")
        pixels = (
            "1024-1024" if dataset == "cityscapes" else "640-640" if size == "b5" else "512-512"
        )
        name = "cityscapes" if dataset == "cityscapes" else "ade"
        hub = f"nvidia/segformer-{size}-finetuned-{name}-{pixels}"
        reported = NVIDIA[dataset].get(size)
        lines.append(
            _row(
                f"MiT-{size.upper()}",
                ", ".join(_config(m, m.preset) for m in some),
                f"[{_value(none, 'mIoU')}]({none.weights})",
                f"[`{hub}`](https://huggingface.co/{hub})"
                + (f", {reported} in the SegFormer paper" if reported else ""),
            )
        )
    return "\n".join(lines)


def _others(models: list[Model]) -> str:
    """Twins and DeiT, on ADE20K."""
    lines = [
        _row("model", "configs, by preset", "OpenMMLab's weights, mIoU"),
        _row(*["---"] * 3),
    ]
    groups: dict[str, list[Model]] = defaultdict(list)
    for model in models:
        if _collection(model) != COLLECTION:
            groups[_architecture(model)].append(model)
    for name, some in groups.items():
        none = next(m for m in some if m.preset == "none")
        link = f"[{_value(none, 'mIoU')}]({none.weights})"
        lines.append(_row(name, ", ".join(_config(m, m.preset) for m in some), link))
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())

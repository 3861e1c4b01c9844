"""Jump-Broadcast: athletes of triple, high and long jump, 20 keypoints.

Ludwig, Lorenz, Schön, Lienhart: *All Keypoints You Need: Detecting Arbitrary Keypoints on the Body
of Triple, High, and Long Jump Athletes* (2023).
"""

from itertools import pairwise

from mmpose.datasets.datasets.base import BaseCocoStyleDataset

from mmseg_tome.registry import DATASETS

# Names are the release's: r and l are the athlete's own right and left.
UPPER = [
    "head",
    "neck",
    *(f"{side}{part}" for side in "rl" for part in ("sho", "elb", "wri", "han")),
]
LOWER = [f"{side}{part}" for side in "rl" for part in ("hip", "kne", "ank", "hee", "toe")]
KEYPOINTS = [*UPPER, *LOWER]
CHAINS = [
    ("head", "neck"),
    *(("neck", f"{s}sho", f"{s}elb", f"{s}wri", f"{s}han") for s in "rl"),
    *((f"{s}sho", f"{s}hip", f"{s}kne", f"{s}ank", f"{s}hee", f"{s}toe") for s in "rl"),
]
LINKS = [link for chain in CHAINS for link in pairwise(chain)]
# The colours that MMPose gives to COCO's sides.
COLOURS = {"r": [255, 128, 0], "l": [0, 255, 0], "": [51, 153, 255]}


def _side(name: str) -> str:
    return "" if name in ("head", "neck") else name[0]


def _twin(name: str) -> str:
    """The keypoint that a mirrored image shows in this one's place; none on the body's axis."""
    return {"r": "l", "l": "r"}[name[0]] + name[1:] if _side(name) else ""


@DATASETS.register_module()
class JumpBroadcastDataset(BaseCocoStyleDataset):
    """Jump-Broadcast in COCO's format, for top-down pose.

    Annotations lie in `annotations/{train,val}_jump.json`, images in `images/{train,val}/`. The
    arguments are those of `mmpose.datasets.BaseCocoStyleDataset`.
    """

    METAINFO = dict(
        dataset_name="jump_broadcast",
        paper_info=dict(
            author="Katja Ludwig, Julian Lorenz, Robin Schön, Rainer Lienhart",
            title="All Keypoints You Need: Detecting Arbitrary Keypoints on the Body of Triple, "
            "High, and Long Jump Athletes",
            year="2023",
        ),
        keypoint_info={
            i: dict(
                name=name,
                id=i,
                color=COLOURS[_side(name)],
                type="upper" if name in UPPER else "lower",
                swap=_twin(name),
            )
            for i, name in enumerate(KEYPOINTS)
        },
        skeleton_info={
            i: dict(link=link, id=i, color=COLOURS[_side(link[1])]) for i, link in enumerate(LINKS)
        },
        joint_weights=[1.0] * len(KEYPOINTS),
        sigmas=[0.1] * len(KEYPOINTS),
    )

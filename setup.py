"""Packages mmseg_tome, with configs and tools where `mim` looks for them."""

import re
import shutil
from contextlib import suppress
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
HOME = "https://github.com/mmseg-tome/mmseg_tome"
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings[python]>=1.0"]
MIM_PARTS = ("configs", "tools", "model-index.yml")


class BuildPyWithMim(build_py):
    """Add `mmseg_tome/.mim/{configs,tools}`: copies in a wheel, links in an editable install."""

    def run(self):
        super().run()
        linked = getattr(self, "editable_mode", False)
        base = ROOT if linked else Path(self.build_lib)
        mim = base / "mmseg_tome" / ".mim"
        if not linked:
            shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True, exist_ok=True)
        for part in filter(lambda part: (ROOT / part).exists(), MIM_PARTS):
            if linked:
                with suppress(FileExistsError):  # of another environment, maybe at the same time
                    (mim / part).symlink_to(Path("..") / ".." / part)
            elif (ROOT / part).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / part, mim / part, ignore=ignored)
            else:
                shutil.copy(ROOT / part, mim / part)


def long_description() -> str:
    """The README, its links absolute, for the package index has none of the files beside it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    relative = r"(?!https?:|#|mailto:)"
    text = re.sub(rf'(!\[[^\]]*\]\(|<img [^>]*src="){relative}', rf"\1{HOME}/raw/main/", text)
    return re.sub(rf"(\]\(){relative}", rf"\1{HOME}/blob/main/", text)


setup(
    name="mmseg_tome",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "mmseg_tome/__init__.py").read_text())[1],
    description="SegFormer++ token merging for MMSegmentation, MMPose and Hugging Face",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    url=HOME,
    project_urls={
        "Documentation": "https://mmseg-tome.github.io/mmseg_tome/",
        "Changelog": f"{HOME}/blob/main/CHANGELOG.md",
        "Issues": f"{HOME}/issues",
        "Paper": "https://arxiv.org/abs/2405.14467",
    },
    keywords="segformer token-merging semantic-segmentation pose-estimation openmmlab mmseg",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["mmseg_tome", "mmseg_tome.*"]),
    package_data={"mmseg_tome": ["py.typed", "export/web/*"]},
    entry_points={"console_scripts": ["mmseg-tome = mmseg_tome.cli:main"]},
    cmdclass={"build_py": BuildPyWithMim},
    # Nothing of the mm stack: two families of distributions share its import names, and a
    # requirement on one would overwrite the other in a user's environment.
    install_requires=["torch>=2.6", "numpy", "filelock>=3.24"],
    extras_require={
        "onedl": [
            "onedl-mmcv>=2.3.6",
            "onedl-mmengine>=0.10.12",
            "onedl-mmsegmentation>=1.4.2",
            "safetensors",
        ],
        # mmcv-lite needs no compiler; where mmcv itself is installed, leave this extra out.
        "openmmlab": [
            "mmcv-lite>=2.1,<2.2",
            "mmengine>=0.10.7",
            "mmsegmentation>=1.2.2",
            "ftfy",
            "regex",
            # mmengine imports its pkg_resources; CVE-2025-47273 is mended in 78.1.1.
            "setuptools>=78.1.1,<81",
            "safetensors",
        ],
        # tools/export.py, and tools/infer.py with an exported file.
        "export": ["onnx", "onnxscript", "onnxruntime"],
        # mmseg-tome export --format executorch, and mmseg-tome infer with its file.
        "executorch": ["executorch>=1.5.1"],
        # tools/tune.py.
        "tune": ["optuna", "matplotlib", "rich"],
        # tools/explore.py.
        "explore": ["gradio>=6.10", "matplotlib"],
        # mmseg_tome.huggingface.
        "huggingface": ["transformers>=4.57"],
        # The documentation's site.
        "docs": DOCS,
        "dev": [
            *DOCS,
            "build",
            "hypothesis",
            "mypy",
            "pytest",
            "ruff",
            "tomesd",
            "matplotlib",
            "rich",
            "onnx",
            "onnxscript",
            "onnxruntime",
            "openvino",
            "optuna",
            "transformers",
            # The page of mmseg-tome explore, and what drives it and the exported page in Chromium.
            "gradio",
            "selenium",
            # Its interpreter checks the kernels where there is no GPU.
            "triton; sys_platform == 'linux' and platform_machine == 'x86_64'",
        ],
    },
)

"""The runtimes of exported networks that `benchmark-export` times: one class each."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import torch

from mmseg_tome.errors import UserError
from mmseg_tome.export import executorch_file, onnx_file, parity, program, web_page
from mmseg_tome.export.metadata import INPUT, Metadata
from mmseg_tome.export.network import Network
from mmseg_tome.export.ort_web import VERSION, copy_ort_web
from mmseg_tome.export.requirements import require
from mmseg_tome.export.runtime import ExecutorchNetwork, OnnxNetwork
from mmseg_tome.lab import browser


@dataclass
class Task:
    """What all runtimes run.

    Attributes:
        folder: For files.
        metadata: Of all files.
        image: `[H, W, 3]` uint8 BGR; None where a network takes other channels.
        images: The same as networks take it, `[1, C, H, W]` float32.
        threads: Of each runtime.
        opset: Of ONNX.
        scores_mib: As `program.trace` takes it.
        ort_web: As `copy_ort_web` takes it.
    """

    folder: Path
    metadata: Metadata
    image: np.ndarray | None
    images: np.ndarray
    threads: int
    opset: int
    scores_mib: int
    ort_web: Path | None

    def onnx(self, name: str, network: Network) -> Path:
        """A network's ONNX file; several runtimes take the same."""
        path = self.folder / f"{name}.onnx"
        if not path.exists():
            size = tuple(self.metadata.input_size)
            traced = program.trace(network, size, scores_mib=self.scores_mib)
            onnx_file.write(traced, path, self.metadata, self.opset)
        return path


class Runtime(ABC):
    """Where networks run.

    Attributes:
        title: What tables call it.
        package: What it is installed as.
        stack: Closes what it has open.
    """

    title: ClassVar[str]
    package: ClassVar[str]

    @classmethod
    def check(cls) -> str:
        """Its version.

        Raises:
            UserError: It is not installed.
        """
        require(cls.package, what=cls.title)
        return version(cls.package)

    def __init__(self, task: Task):
        self.task = task
        self.stack = ExitStack()

    @abstractmethod
    def add(self, name: str, network: Network) -> None:
        """Prepare one more network."""

    @abstractmethod
    def agreement(self, name: str, expected: np.ndarray) -> float:
        """Share of positions that have the class, or the highest heat, that torch gives.

        Args:
            name: Of the network.
            expected: What it gives in torch.

        Raises:
            UserError: It is another function.
        """

    @abstractmethod
    def time(self, name: str) -> float:
        """Run a network once: milliseconds."""


class Local(Runtime):
    """A runtime in this process."""

    def __init__(self, task: Task):
        super().__init__(task)
        self.networks: dict[str, Callable[[np.ndarray], np.ndarray]] = {}

    def agreement(self, name: str, expected: np.ndarray) -> float:
        got = self.networks[name](self.task.images)
        metadata = self.task.metadata
        found = parity.compare(got, expected, metadata.task, metadata.threshold)
        if not found.holds():
            raise UserError(f"{name} in {self.title} differs from torch: {found}")
        return found.agreement

    def time(self, name: str) -> float:
        start = time.perf_counter()
        self.networks[name](self.task.images)
        return (time.perf_counter() - start) * 1e3


class Torch(Local):
    """torch itself, eagerly."""

    title = "torch"

    @classmethod
    def check(cls) -> str:
        return torch.__version__

    def add(self, name: str, network: Network) -> None:
        self.networks[name] = torch.no_grad()(
            lambda images: network(torch.from_numpy(images)).numpy()
        )


class OnnxRuntime(Local):
    """ONNX Runtime on the CPU, as `infer --model` has it."""

    title, package = "ONNX Runtime", "onnxruntime"

    def add(self, name: str, network: Network) -> None:
        self.networks[name] = OnnxNetwork(self.task.onnx(name, network), self.task.threads)


class OpenVino(Local):
    """OpenVINO on the CPU, in float32."""

    title, package = "OpenVINO", "openvino"

    def add(self, name: str, network: Network) -> None:
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self.task.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        file = self.task.onnx(name, network)
        compiled = _openvino().compile_model(str(file), "CPU", options)
        self.networks[name] = lambda images: compiled({INPUT: images})[0]


class ExecuTorch(Local):
    """ExecuTorch with XNNPACK, as `infer --model` has it; it takes as many threads as it likes."""

    title, package = "ExecuTorch", "executorch"

    def add(self, name: str, network: Network) -> None:
        path = self.task.folder / f"{name}.pte"
        size = tuple(self.task.metadata.input_size)
        traced = executorch_file.trace(network, size, self.task.scores_mib)
        executorch_file.write(traced, path, self.task.metadata)
        self.networks[name] = ExecutorchNetwork(path)


class Browser(Runtime):
    """The page of `export --format web` in Chromium: its own milliseconds."""

    title = "ONNX Runtime Web"

    @classmethod
    def check(cls) -> str:
        browser.check()
        return VERSION

    def __init__(self, task: Task):
        super().__init__(task)
        web_page.check_metadata(task.metadata)
        copy_ort_web(task.folder / "ort", task.ort_web)  # now: what npm lacks is told before hours
        self.files: list[tuple[str, Path, parity.Parity]] = []

    def add(self, name: str, network: Network) -> None:
        self.files.append((name, self.task.onnx(name, network), parity.Parity(1.0, 1.0, 0.0, True)))

    @cached_property
    def driver(self):
        """Of the browser, whose page has run every network."""
        folder = self.task.folder
        web_page.write_page(folder, self.task.metadata, self.files)
        cv2.imwrite(str(folder / "image.png"), self.task.image)
        driver = self.stack.enter_context(browser.chromium())
        driver.set_script_timeout(600)
        driver.get(self.stack.enter_context(browser.served(folder)))
        browser.wait_for(driver, "status", "Ready")
        driver.find_element("id", "file").send_keys(str(folder / "image.png"))
        browser.wait_for(driver, "status", "Done")
        return driver

    def agreement(self, name: str, expected: np.ndarray) -> float:
        metadata = self.task.metadata
        size = tuple(metadata.input_size)
        head = metadata.inference["model"]["decode_head"]
        logits = torch.nn.functional.interpolate(
            torch.from_numpy(expected),
            size,
            mode="bilinear",
            align_corners=bool(head["align_corners"]),
        )
        classes = parity.decisions(logits.numpy(), metadata.task, metadata.threshold)[0]
        got = np.array(self._segment(name, "Array.from(result.classes)")).reshape(size)
        agreement = float((got == classes).mean())
        if agreement < parity.AGREEING_ENOUGH:
            found = f"{100 * agreement:.3f} % agreement"
            raise UserError(f"{name} in {self.title} differs from torch: {found}")
        return agreement

    def time(self, name: str) -> float:
        return self._segment(name, "result.ms")

    def _segment(self, name: str, wanted: str):
        script = (
            "const done = arguments[1]; segment(arguments[0])"
            f".then((result) => done([{wanted}]), (error) => done(String(error.message)))"
        )
        found = self.driver.execute_async_script(script, name)
        if isinstance(found, str):
            raise UserError(f"{name} in {self.title}: {found}")
        return found[0]


RUNTIMES: dict[str, type[Runtime]] = {
    "torch": Torch,
    "onnx": OnnxRuntime,
    "openvino": OpenVino,
    "executorch": ExecuTorch,
    "web": Browser,
}
"""By the name that a command line gives."""


@cache
def _openvino():
    """OpenVINO's core: one, as it changes where signals are handled, and back when it goes."""
    import openvino

    return openvino.Core()

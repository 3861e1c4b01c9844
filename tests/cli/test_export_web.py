"""`mmseg-tome export --format web`, and its page in a real browser: nothing is mocked there."""

import base64
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmseg_tome import compat
from mmseg_tome.errors import UserError
from mmseg_tome.export.ort_web import PACKAGE, SHA512
from mmseg_tome.lab.browser import check, chromium, served, wait_for

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg"),
    pytest.mark.usefixtures("one_thread"),
]

SEGMENTATION = "configs/camvid/segformerpp_b0_hq_camvid_480x360.py"
SIZE = (90, 120)
PRESETS = ("none", "hq")
CAMERA = "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
SOFTWARE_GPU = "--enable-unsafe-webgpu --use-webgpu-adapter=swiftshader"


@pytest.fixture(scope="module")
def segmenter(repo, make_tiny) -> list[str]:
    return make_tiny(Config.fromfile(repo / SEGMENTATION))


@pytest.fixture(scope="module")
def web_options(segmenter) -> list[str]:
    return [*segmenter, "--format", "web", "--size", "x".join(map(str, SIZE))]


@pytest.fixture(scope="module")
def has_browser():
    try:
        check()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def browser(has_browser):
    """Chromium with a camera of its own that logs every request."""
    with chromium(f"{CAMERA} --disable-gpu") as driver:
        yield driver


@pytest.fixture
def gpu_page(has_browser, address):
    """The page where there is WebGPU, by a software adapter."""
    with chromium(SOFTWARE_GPU) as driver:
        driver.get(address)
        wait_for(driver, "status", "Ready")
        yield driver


@pytest.fixture(scope="module")
def folder(browser, web_options, tmp_path_factory) -> Path:
    """An export, by npm's package or by what MMSEG_TOME_ORT_WEB names."""
    from mmseg_tome.cli.export import main

    given = os.environ.get("MMSEG_TOME_ORT_WEB")
    if not given and not shutil.which("npm"):
        pytest.skip(f"needs npm, or {PACKAGE} named by MMSEG_TOME_ORT_WEB")
    out = tmp_path_factory.mktemp("web") / "page"
    source = ["--ort-web", given] if given else []
    try:
        code = main([*web_options, "--out", str(out), "--presets", *PRESETS, *source])
    except SystemExit as stop:
        code = stop.code
    assert not code
    return out


@pytest.fixture(scope="module")
def address(folder):
    with served(folder) as found:
        yield found


@pytest.fixture
def page(browser, address):
    """The page, ready for an image."""
    browser.get_log("performance")
    browser.get(address)
    wait_for(browser, "status", "Ready")
    return browser


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """Blocks of colours with noise, wider than the network's input."""
    generator = np.random.default_rng(0)
    image = np.kron(generator.integers(0, 200, (6, 10, 3)), np.ones((30, 20, 1)))
    image = image + generator.integers(0, 50, image.shape)
    path = tmp_path_factory.mktemp("picture") / "blocks.png"
    cv2.imwrite(str(path), image.astype(np.uint8))
    return path


def element(driver, name: str):
    return driver.find_element("id", name)


def classes(driver) -> tuple[str, np.ndarray]:
    """What the page shows: preset, and the class of each pixel, `[height, width]`."""
    preset, height, width, flat = driver.execute_script(
        "const s = globalThis.segmentation;"
        "return [s.preset, s.height, s.width, Array.from(s.classes)]"
    )
    return preset, np.array(flat).reshape(height, width)


@torch.no_grad()
def torchs_classes(segmenter, preset: str, picture: Path) -> np.ndarray:
    """The same by the model in torch, as the file's metadata says."""
    from mmseg_tome.checkpoints.model import load_model
    from mmseg_tome.export.metadata import describe
    from mmseg_tome.export.network import Network
    from mmseg_tome.runtime.merging_switch import set_merging

    cfg = Config.fromfile(segmenter[1])
    model = load_model(cfg, segmenter[3])
    set_merging(model, None if preset == "none" else preset)
    image = cv2.imread(str(picture))
    prepared = describe(cfg, model, SIZE).prepare(image)
    logits = Network(model)(torch.from_numpy(prepared)[None])
    labels = torch.nn.functional.interpolate(logits, SIZE, mode="bilinear").argmax(1)[0]
    scale = min(SIZE[0] / image.shape[0], SIZE[1] / image.shape[1])
    height, width = (round(side * scale) for side in image.shape[:2])
    return labels[:height, :width].numpy()


def test_the_page_gives_torchs_classes(page, segmenter, picture):
    element(page, "file").send_keys(str(picture))
    wait_for(page, "status", "Done")
    preset, found = classes(page)
    expected = torchs_classes(segmenter, "none", picture)
    assert preset == "none"
    assert found.shape == expected.shape
    assert len(np.unique(expected)) > 2
    assert (found == expected).mean() > 0.99
    listed = element(page, "legend").text
    assert len(listed.splitlines()) == len(np.unique(found))
    rows = [row.text.split() for row in page.find_elements("css selector", "#presets tr")]
    assert [row[0] for row in rows] == list(PRESETS)
    assert rows[0][3:] == ["100.0", "%"]
    assert all(float(value) > 0 for row in rows for value in row[1:4])

    # By keyboard, to the next preset.
    page.find_element("css selector", "input[value=none]").send_keys("\ue015")  # arrow down
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 60).until(lambda driver: classes(driver)[0] == "hq")
    _, merged = classes(page)
    assert (merged == torchs_classes(segmenter, "hq", picture)).mean() > 0.99
    assert float(rows[1][3]) == pytest.approx(100 * (merged == found).mean(), abs=0.06)
    assert "hq" in element(page, "view").get_attribute("aria-label")


def test_a_dropped_image_is_segmented_and_what_is_none_is_named(page, picture):
    drop = (
        "const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));"
        "const dataTransfer = new DataTransfer();"
        "dataTransfer.items.add(new File([bytes], arguments[1]));"
        "document.dispatchEvent(new DragEvent('drop', { dataTransfer, cancelable: true }));"
    )
    page.execute_script(drop, base64.b64encode(b"no image").decode(), "notes.png")
    said = wait_for(page, "problem", "notes.png")
    assert said.startswith("notes.png is no image that this browser can read")
    page.execute_script(drop, base64.b64encode(picture.read_bytes()).decode(), "blocks.png")
    wait_for(page, "status", "Done")
    assert not element(page, "problem").is_displayed()


def test_the_camera_starts_and_stops(page):
    element(page, "camera").click()
    wait_for(page, "status", "frames a second")
    assert element(page, "camera").text == "Stop camera"
    element(page, "camera").click()
    wait_for(page, "status", "Camera stopped")
    assert element(page, "camera").get_attribute("aria-pressed") == "false"


@pytest.mark.slow
def test_webgpu_gives_the_same_and_webassembly_follows_when_it_fails(gpu_page, segmenter, picture):
    from selenium.webdriver.support.ui import Select

    def offered() -> list[str]:
        select = Select(element(gpu_page, "backend"))
        return [option.get_attribute("value") for option in select.options]

    if offered() == ["wasm"]:
        pytest.skip("this Chromium has no software adapter")
    assert offered() == ["wasm", "webgpu"]  # for this one is slower
    Select(element(gpu_page, "backend")).select_by_value("webgpu")
    wait_for(gpu_page, "about", "WebGPU")
    wait_for(gpu_page, "status", "Ready")
    element(gpu_page, "file").send_keys(str(picture))
    wait_for(gpu_page, "status", "Done")
    expected = torchs_classes(segmenter, "none", picture)
    assert (classes(gpu_page)[1] == expected).mean() > 0.99
    assert "WebGPU" in element(gpu_page, "about").text

    lose = (
        "const ort = await import('./ort/ort.webgpu.min.mjs');"
        "(await ort.env.webgpu.device).destroy(); globalThis.segmentation = null;"
    )
    gpu_page.execute_async_script(f"(async () => {{{lose}}})().then(arguments[0])")
    element(gpu_page, "measure").click()
    said = wait_for(gpu_page, "problem", "WebGPU failed on this device: WebAssembly runs")
    wait_for(gpu_page, "status", "Done", known=said)
    assert offered() == ["wasm"]
    assert "WebAssembly" in element(gpu_page, "about").text
    assert (classes(gpu_page)[1] == expected).mean() > 0.99


def test_everything_has_a_name_and_fits_a_telephone(page):
    controls = page.find_elements("css selector", "input, button, select, canvas")
    assert len(controls) > 6
    assert all(control.accessible_name for control in controls)
    override = dict(width=400, height=800, deviceScaleFactor=1, mobile=True)
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", override)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") == 400
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_no_request_leaves_the_machine(page, address, picture):
    element(page, "file").send_keys(str(picture))
    wait_for(page, "status", "Done")
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [m["params"]["request"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    urls = [request["url"] for request in sent]
    assert any(url.endswith("models/hq.onnx") for url in urls)
    assert [url for url in urls if not url.startswith((address, "blob:", "data:"))] == []
    assert {request["method"] for request in sent} == {"GET"}


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("models/none.onnx", "models/none.onnx could not be loaded: it must lie beside this page"),
        ("ort/ort.wasm.min.mjs", "ONNX Runtime Web could not be loaded: the folder ort/"),
        ("ort/ort-wasm-simd-threaded.wasm", "WebAssembly could not be started"),
        ("model.json", "model.json could not be loaded"),
    ],
)
def test_a_file_that_is_missing_is_named(browser, address, folder, picture, lacking, message):
    aside = folder.parent / "aside"
    (folder / lacking).rename(aside)
    try:
        browser.get(address)
        if lacking in ("models/none.onnx", "ort/ort-wasm-simd-threaded.wasm"):
            wait_for(browser, "status", "Ready")
            element(browser, "file").send_keys(str(picture))
        assert message in wait_for(browser, "problem", message)
    finally:
        aside.rename(folder / lacking)


def test_the_folder_is_whole(folder):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    ort = {f"ort/{Path(name).name}" for name in SHA512}
    page = {"index.html", "page.css", "page.js", "isolate.js", "model.json"}
    assert names == page | ort | {f"models/{preset}.onnx" for preset in PRESETS}
    settings = json.loads((folder / "model.json").read_text())
    assert settings["input_size"] == list(SIZE)
    assert [each["preset"] for each in settings["models"]] == list(PRESETS)
    assert all(each["agreement_with_torch"] > 0.99 for each in settings["models"])
    assert [path.name for path in folder.parent.iterdir()] == ["page"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--half"], "--format web takes float32 and one size"),
        (["--dynamic-size"], "--format web takes float32 and one size"),
        (["--preset", "hq"], "--format web takes --presets"),
        (["--presets", "none", "hqq"], "--presets hqq is unknown: none, hq, fast"),
        (["--ort-web", "missing.tgz"], "--ort-web missing.tgz cannot be read"),
        (["--ort-web", "."], "--ort-web . is not onnxruntime-web@"),
        (["--format", "onnx", "--out", "m.onnx", "--ort-web", "."], "are for --format web"),
    ],
)
def test_mistakes_end_in_one_line(tool, web_options, tmp_path, args, message):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "model.json").write_text("good")
    code, _, errors = tool("export", *web_options, "--out", tmp_path / "page", *args)
    assert code == 2
    assert len(errors) == 1
    assert message in errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
    assert (tmp_path / "page" / "model.json").read_text() == "good"

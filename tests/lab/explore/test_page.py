"""The page in a headless browser, as a visitor uses it."""

import json
import re
import shutil
import time
from contextlib import suppress
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from mmseg_tome.lab.browser import PROGRAMS, chromium

MISSING = [name for name in ("gradio", "selenium") if find_spec(name) is None]
MISSING += [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]
CAMERA = "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
WAIT = 40  # seconds, for machines that do other things, too


@pytest.fixture(scope="module")
def page(explorer):
    from mmseg_tome.lab.explore.page import build

    page, options = build(explorer)
    page.launch(server_name="127.0.0.1", prevent_thread_lock=True, **options)
    yield page
    page.close()


@pytest.fixture(scope="module")
def address(page) -> str:
    return page.local_url


def event_of(page, name: str) -> tuple[int, list]:
    """Number of what happens first at an event, and what it is given besides an image."""
    events = page.fns.items()
    number, event = next(e for e in events if any(kind == name for _, kind in e[1].targets))
    return number, [getattr(each, "value", None) for each in event.inputs[1:]]


@pytest.fixture(scope="module")
def change(page) -> tuple[int, list]:
    """When an image changes."""
    return event_of(page, "change")


@pytest.fixture(scope="module")
def browser():
    with chromium(f"--disable-gpu --window-size=1440,1400 {CAMERA}") as driver:
        driver.set_script_timeout(WAIT)
        yield driver


class Visitor:
    """What a visitor does and sees."""

    def __init__(self, driver, address: str):
        self.driver, self.address = driver, address
        self.driver.get(address)
        self.until(lambda: "Choose an image" in self.text("status"))

    def until(self, condition):
        """Wait for a condition and return what it gives."""
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            with suppress(WebDriverException, IndexError):
                if found := condition():
                    return found
            time.sleep(0.1)
        raise AssertionError(f"waited in vain; the page says {self.text('status')!r}")

    def find(self, css: str):
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self, place: str) -> str:
        return "".join(each.text for each in self.find(f"#{place}"))

    def source(self, place: str) -> str:
        """Address of a picture that is shown."""
        shown = [each.get_attribute("src") for each in self.find(f"#{place} img")]
        return " ".join(filter(None, shown))

    def choose(self, place: str, text: str) -> None:
        """Take an entry of a list, with the keyboard."""
        from selenium.webdriver.common.keys import Keys

        (field,) = self.find(f"#{place} input")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.click()
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)
        self.until(lambda: [e for e in self.find("ul[role=listbox] li") if text in e.text])
        field.send_keys(Keys.ENTER)

    def drop(self, path) -> None:
        """Give the page an image file."""
        for clear in self.find("#photo button[aria-label='Clear']"):
            self.driver.execute_script("arguments[0].click()", clear)
            self.until(lambda: "Choose an image" in self.text("status"))
        field = self.until(lambda: self.find("#photo input[type=file]"))[0]
        field.send_keys(str(path))

    def open_camera(self) -> None:
        """Open its section and let the page use it."""
        self.find("#live > button")[0].click()
        allow = self.until(lambda: self.find("#camera [title='grant webcam access'] button"))[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", allow)
        allow.click()
        self.until(lambda: self.find("#camera .button-wrap button"))

    def press(self, name: str) -> None:
        """Press the camera's button, once it has a name."""
        (button,) = self.find("#camera .button-wrap button")
        self.until(lambda: button.accessible_name == name)
        button.click()

    def frames(self) -> int:
        """Frames that the camera's section has counted."""
        found = re.match(r"Frame (\d+):", self.text("live-numbers"))
        return int(found[1]) if found else 0

    def value(self, place: str) -> str:
        return self.find(f"#{place} input")[0].get_attribute("value")

    def code(self) -> str:
        return self.text("tome-cfg").replace("\u00a0", " ")

    def requests(self) -> list[str]:
        """Addresses that the browser asked since the last look."""
        events = [
            json.loads(each["message"])["message"] for each in self.driver.get_log("performance")
        ]
        return [
            each["params"]["request"]["url"]
            for each in events
            if each["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture
def visitor(browser, address) -> Visitor:
    return Visitor(browser, address)


@pytest.fixture
def photo(street, tmp_path):
    Image.fromarray(street).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_visit(visitor, photo):
    visitor.drop(photo)
    visitor.until(lambda: "changes the class of" in visitor.text("status"))
    numbers = visitor.text("numbers")
    assert "pixels that keep their class" in numbers
    assert "tokens kept, stage 3: queries" in numbers
    assert 'tome_cfg="hq"' in visitor.code()
    assert len(visitor.source("compared").split()) == 2

    visitor.choose("preset", "fast")
    visitor.until(lambda: 'tome_cfg="fast"' in visitor.code())
    assert visitor.text("numbers") != numbers

    visitor.find("#stages > button")[0].click()
    (ratio,) = visitor.until(lambda: visitor.find("#s1-kv-ratio input[type=number]"))
    assert ratio.get_attribute("value") == "0.9"
    visitor.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", ratio)
    ratio.send_keys("\ue009a")  # control-a
    ratio.send_keys("0.5", "\ue004")  # and tab
    visitor.until(lambda: "ratio=0.5" in visitor.code())
    visitor.until(lambda: visitor.value("preset") == "own")
    assert "stride=(4, 4)" in visitor.code()

    visitor.until(lambda: "kept" in visitor.text("token"))
    visitor.until(lambda: "speed-up" in visitor.text("times"))  # all is in its place
    before = visitor.source("groups")
    picture = visitor.until(lambda: visitor.find("#groups img"))[0]
    visitor.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
    picture.click()
    visitor.until(lambda: "The token in row" in visitor.text("token"))
    visitor.until(lambda: visitor.source("groups") != before)
    visitor.until(lambda: visitor.value("row").isdecimal())

    before = visitor.source("groups")
    visitor.find("#zoom input")[2].click()
    visitor.until(lambda: visitor.source("groups") != before)
    before = visitor.source("groups")
    visitor.find("#view input")[1].click()
    visitor.until(lambda: visitor.source("groups") != before)

    # A token stays chosen under other merging, but not of another image.
    before, row = visitor.source("groups"), visitor.value("row")
    visitor.choose("preset", "n2d")
    visitor.until(lambda: visitor.source("groups") != before)
    assert 'tome_cfg="n2d"' in visitor.code()
    assert f"The token in row {row}" in visitor.text("token")
    visitor.choose("scene", "street 3")
    visitor.until(lambda: visitor.value("row") == "")
    visitor.until(lambda: "The token" not in visitor.text("token"))

    asked = visitor.requests()
    assert asked
    away = [url for url in asked if not url.startswith((visitor.address, "data:", "blob:"))]
    assert away == []


def test_the_copy_button_copies(visitor):
    visitor.driver.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    (button,) = visitor.until(lambda: visitor.find("#tome-cfg button[aria-label='Copy']"))
    visitor.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    script = "navigator.clipboard.readText().then(arguments[0], e => arguments[0](String(e)))"
    visitor.until(lambda: visitor.driver.execute_async_script(script) == 'tome_cfg="hq"')


def test_broken_uploads_do_not_end_it(visitor, photo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    visitor.drop(tmp_path / "broken.png")
    visitor.until(lambda: "not an image, or a damaged one" in visitor.text("status"))
    visitor.drop(photo)
    visitor.until(lambda: "changes the class of" in visitor.text("status"))


def test_an_image_of_12000_pixels(visitor, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 120, 3), np.uint8)
    large = Image.fromarray(noise).resize((12_000, 6_000), Image.Resampling.NEAREST)
    large.save(tmp_path / "large.jpg", quality=30)
    visitor.drop(tmp_path / "large.jpg")
    visitor.until(lambda: "changes the class of" in visitor.text("status"))


def test_a_scene_of_the_demo(visitor):
    visitor.choose("scene", "street 2")
    visitor.until(lambda: "changes the class of" in visitor.text("status"))


def test_the_slider_has_keys_and_its_pictures_names(visitor, photo):
    visitor.drop(photo)
    visitor.until(lambda: "speed-up" in visitor.text("times"))  # all is in its place
    (handle,) = visitor.until(lambda: visitor.find("#compared [role=slider]"))
    names = [each.accessible_name for each in visitor.find("#compared img")]
    assert names == ["prediction without merging", "prediction with merging"]
    visitor.driver.execute_script("arguments[0].focus()", handle)
    visitor.until(lambda: handle.get_attribute("aria-valuenow") == "50")
    handle.send_keys("\ue014")  # arrow right
    visitor.until(lambda: handle.get_attribute("aria-valuenow") == "55")
    handle.send_keys("\ue011")  # home
    visitor.until(lambda: handle.get_attribute("aria-valuenow") == "0")
    clip = visitor.find("#compared img")[1].value_of_css_property("clip-path")
    assert clip.replace("px", "") == "inset(0 0 0 0%)"


def test_every_field_has_a_name(visitor):
    """For screen readers: a label, or aria-label."""
    visitor.open_camera()
    script = """return [...document.querySelectorAll('input, select, textarea, button')].filter(
        e => e.offsetParent !== null && !(e.labels && e.labels.length) && !e.ariaLabel
        && !e.title && !e.innerText.trim()).map(e => e.outerHTML.slice(0, 200))"""
    assert visitor.driver.execute_script(script) == []


class Session:
    """A visitor without a browser: browsers keep no ten pages of one server open at once."""

    def __init__(self, address: str, number: object, event: int, data: list):
        import httpx

        self.http = httpx.Client(base_url=f"{address.rstrip('/')}/gradio_api", timeout=WAIT)
        self.wish = dict(data=data, fn_index=event, session_hash=f"session{number}")
        self.event = self.http.post("/queue/join", json=self.wish).json()["event_id"]

    def answer(self) -> dict:
        """What is said first: of a camera, which has more to come, or at the end."""
        with self.http.stream("GET", "/queue/data", params=self.wish) as answer:
            for line in answer.iter_lines():
                if "process_completed" in line or "process_streaming" in line:
                    return json.loads(line.removeprefix("data:"))
        raise AssertionError("the answer ended early")


@pytest.fixture
def uploaded(address, photo) -> dict:
    """The photo as a page that has uploaded it names it."""
    import httpx

    with photo.open("rb") as file:
        place = f"{address.rstrip('/')}/gradio_api/upload"
        (path,) = httpx.post(place, files={"files": file}, timeout=WAIT).json()
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_ten_visitors_at_once(address, change, uploaded):
    event, (stage, *controls) = change
    merging = [controls, ["none" if each == "bsm" else each for each in controls]]
    sessions = [
        Session(address, number, event, [uploaded, stage, *merging[number % 2]])
        for number in range(10)
    ]
    said = [session.answer()["output"]["data"][0] for session in sessions]
    assert ["changes the class of 0.00 %" in each for each in said] == [False, True] * 5
    assert len(set(said)) == 2


def test_a_wish_may_name_a_stage_that_is_gone(address, change, uploaded):
    """Of two wishes that follow each other closely the second knows no answer to the first."""
    event, (_, *controls) = change
    for merging in (controls, ["none" if each == "bsm" else each for each in controls]):
        answer = Session(address, 200, event, [uploaded, "stage3_q", *merging]).answer()
        assert answer["success"]
        assert "changes the class of" in answer["output"]["data"][0]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/etc/hostname", "not uploaded by a user"),
        ("http://127.0.0.1:1/a.png", "an address is no image"),
    ],
)
def test_no_path_and_no_address_is_read(address, change, path, said):
    event, given = change
    image = {"path": path, "meta": {"_type": "gradio.FileData"}}
    answer = Session(address, len(path) + 100, event, [image, *given]).answer()
    assert answer["success"] is False
    assert said in str(answer)


def test_a_camera(visitor):
    visitor.requests()
    visitor.open_camera()
    visitor.press("Record")
    visitor.until(lambda: visitor.frames() > 2)
    said = visitor.text("live-numbers")
    assert re.fullmatch(
        r"Frame \d+: \d+ ms of the network \(median of \d+\), [\d.]+ frames a second, [\d.]+ % of "
        r"the pixels as without merging\.",
        said,
    )
    before = visitor.source("live-picture")
    assert before.startswith("data:image/jpeg;base64,")
    visitor.until(lambda: visitor.source("live-picture") != before)

    visitor.until(lambda: visitor.frames() > 12)
    (every,) = visitor.find("#every input[type=number]")
    every.send_keys("\ue009a")  # control-a
    every.send_keys("4", "\ue004")  # and tab
    visitor.until(lambda: visitor.frames() < 12)
    assert visitor.text("live-status") == ""
    visitor.choose("preset", "n2d")
    visitor.until(lambda: "nothing is matched" in visitor.text("live-status"))
    visitor.choose("preset", "none")
    visitor.until(lambda: "Nothing merges" in visitor.text("live-status"))

    visitor.press("Stop")
    visitor.until(lambda: visitor.find("#camera [title='start recording']"))
    frames = visitor.frames()
    time.sleep(1)
    assert visitor.frames() == frames
    asked = visitor.requests()
    assert [url for url in asked if not url.startswith((visitor.address, "data:", "blob:"))] == []


def test_a_camera_stops_as_its_section_closes(visitor):
    visitor.open_camera()
    visitor.press("Record")
    visitor.until(lambda: visitor.frames() > 1)
    visitor.find("#live > button")[0].click()
    visitor.until(lambda: visitor.find("#camera [title='start recording']"))
    asked = [url for url in visitor.requests() if "/stream/" in url]
    assert asked[-1].endswith("/close")


META = {"_type": "gradio.FileData"}


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (dict(path="/etc/hostname", meta=META), "not uploaded by a user"),
        (dict(path="/etc/hostname", meta=META, is_stream=True), "not uploaded by a user"),
        (dict(path="http://127.0.0.1:1/a.png", meta=META), "sends frames, no files"),
        (dict(path="http://127.0.0.1:1/a.png", meta=META, is_stream=True), "no frame of a camera"),
        (dict(path="/etc/hostname"), "no frame of a camera"),
        (dict(url="/etc/hostname", meta=META), "no frame of a camera"),
        (dict(url="http://127.0.0.1:1/a.png", meta=META), "no frame of a camera"),
        (dict(url="data:image/svg+xml,<svg></svg>", meta=META), "no frame of a camera"),
        (dict(url="data:image/jpeg;base64,a", meta=META), "no frame of a camera"),
        (dict(url="data:image/jpeg;base64,aaaa", meta=META), "not an image, or a damaged one"),
    ],
)
def test_a_frame_that_is_none(address, page, frame, said):
    """Of a visitor who makes up what a browser would send."""
    event, given = event_of(page, "stream")
    session = Session(address, f"frame {frame}", event, [frame, *given])
    answer = session.answer()
    session.http.post(f"/stream/{session.event}/close")
    assert said in str(answer).replace("\\", "")


@pytest.mark.parametrize("extra", [{}, dict(meta={}), dict(meta=dict(_type="a"))])
def test_no_image_of_the_server_is_read(address, change, photo, extra):
    """Gradio checks paths of what calls itself a file alone."""
    event, given = change
    wish = dict(path=str(photo), **extra)
    answer = Session(address, f"image {extra}", event, [wish, *given]).answer()
    assert "no uploaded image" in answer["output"]["data"][0]


@pytest.mark.parametrize("width", [1440, 400])
def test_nothing_is_cut_off(visitor, width, photo):
    visitor.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        dict(width=width, height=900, deviceScaleFactor=1, mobile=False),
    )
    try:
        visitor.drop(photo)
        visitor.until(lambda: "changes the class of" in visitor.text("status"))
        visitor.open_camera()
        wide = visitor.driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width
    finally:
        visitor.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

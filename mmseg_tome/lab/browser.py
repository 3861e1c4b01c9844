"""A browser without a window, and a folder served to it, for what runs in web pages."""

import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mmseg_tome.errors import UserError
from mmseg_tome.export.requirements import require

PROGRAMS = ("chromium", "chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
)


def check() -> None:
    """Raise UserError unless there is a browser that a program can drive."""
    require("selenium", what="driving a browser")
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        raise UserError(
            f"driving a browser needs {' and '.join(missing)} (on Debian: apt install chromium "
            "chromium-driver)"
        )


@contextmanager
def chromium(flags: str = "--disable-gpu") -> Iterator:
    """Selenium's driver of a new Chromium, whose logs hold every request of its pages.

    Args:
        flags: Of its command line, besides `FLAGS`.

    Raises:
        UserError: Selenium or the browser is missing.
    """
    check()
    from selenium import webdriver

    browser, driver = map(shutil.which, PROGRAMS)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS.split(), *flags.split(), f"--user-data-dir={profile}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(driver, env={**os.environ, "TMPDIR": profile})
        started = webdriver.Chrome(options, service)
        try:
            started.get("about:blank")
            started.get_log("performance")  # what its first, own page asked for
            yield started
        finally:
            started.quit()


def wait_for(driver, name: str, text: str, seconds: float = 900, known: str = "") -> str:
    """Wait until an element of a page says something: all that it says then.

    Args:
        driver: Of the browser.
        name: The element's id.
        text: What is waited for.
        seconds: At most.
        known: A problem that may be shown meanwhile.

    Raises:
        UserError: The page shows another problem, the text of its element `problem`.
    """
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    def said(driver) -> str | None:
        found = driver.find_element("id", name).text
        if text in found:
            return found
        problem = driver.find_element("id", "problem").text
        if problem not in ("", known):
            raise UserError(f"the page in the browser: {problem}")
        return None

    # A page that isolates itself loads twice.
    wait = WebDriverWait(driver, seconds, 0.2, [StaleElementReferenceException])
    return wait.until(said, f"{name} does not say {text!r}")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder's files on this machine, as any server of static files gives them."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def end_headers(self):
            self.send_header("Cache-Control", "no-store")
            super().end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()

"""A real browser without a window: Debian's Chromium, told what to do by its DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tests.registry.places.store import INSTALLED
from tests.registry.places.unpacked import find_program

AXE = INSTALLED / "axe" / "axe.min.js"
"""What `install.py` fetches: the checks of accessibility that browsers' own tools have too."""
DESKTOP, PHONE = 1200, 390
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--lang=en"),
    *("--hide-scrollbars", "--mute-audio", "--disable-component-update", "--disable-sync"),
)


class HeadlessBrowser:
    """One tab of a browser."""

    def __init__(self, to: int, answers: BinaryIO) -> None:
        self._to, self._answers = to, answers
        self._rest, self._number, self._session = b"", 0, ""
        self._events: list[str] = []
        self.complaints: list[str] = []
        """What the browser wrote about pages: what they may not load, scripts that failed."""
        self.requests: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def show(self, *, width: int = DESKTOP, dark: bool = False) -> None:
        """Choose the width, in pixels, and the colours of the pages that follow."""
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        """Load a page, until nothing of it is missing."""
        self._events: list[str] = []
        self._ask("Page.navigate", url=address)
        while "Page.loadEventFired" not in self._events:
            self._read()

    def run(self, script: str) -> Any:
        """Return what a script of ours, on the page, returns or promises."""
        answer = self._ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def violations(self) -> list[str]:
        """Return what axe finds wrong with the page: by WCAG 2.2 AA, and by its own advice."""
        self.run(AXE.read_text())
        found = self.run(
            "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(v =>"
            " v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(' | ')))"
        )
        return [*found]

    def width(self) -> int:
        """Return how wide the page is, in pixels: wider than the window where it does not fit."""
        return int(self.run("document.documentElement.scrollWidth"))

    def picture(self, kind: str = "webp", quality: int = 60, most: int = 1600) -> bytes:
        """Return what the page looks like, from its top, as an image file."""
        size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most)}
        wanted = {"format": kind, "clip": clip | {"scale": 1}, "captureBeyondViewport": True}
        if kind != "png":
            wanted["quality"] = quality
        return base64.b64decode(self._ask("Page.captureScreenshot", **wanted)["data"])

    def set_cookie(self, name: str, value: str, address: str) -> None:
        """Give the browser a cookie."""
        self._ask("Network.setCookie", name=name, value=value, url=address, httpOnly=True)

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            asked["sessionId"] = self._session
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = self._answers.read(1 << 20)
            if not data:
                raise AssertionError("the browser has ended")
            self._rest += data
        raw, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        method, values = message.get("method", ""), message.get("params", {})
        if method == "Page.loadEventFired":
            self._events.append(method)
        elif method == "Log.entryAdded":
            self.complaints.append(values["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(values["exceptionDetails"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        return message


@contextmanager
def headless_browser() -> Iterator[HeadlessBrowser]:
    """Give a browser with an empty profile."""
    program, environment = find_program("chromium", "chromium")
    own_read, its_write = os.pipe()
    its_read, own_write = os.pipe()
    # In /tmp: the path of a socket in a profile may not be long.
    made = tempfile.TemporaryDirectory(prefix="browser-", dir="/tmp", ignore_cleanup_errors=True)
    with made as profile:
        process = subprocess.Popen(
            # Its end of the pipes are the files 3 and 4, by a rule of the protocol.
            [
                *(
                    "bash",
                    "-c",
                    f'exec "$@" 3<&{its_read} 4>&{its_write}',
                    "bash",
                    program,
                    *_FLAGS,
                ),
                *(f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"),
            ],
            env=os.environ | {"HOME": profile} | environment,
            pass_fds=(its_read, its_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(its_read)
        os.close(its_write)
        try:
            with os.fdopen(own_read, "rb", buffering=0) as answers:
                yield HeadlessBrowser(own_write, answers)
        finally:
            os.close(own_write)
            process.kill()
            process.wait()


def save(path: Path, image: bytes) -> None:
    """Write an image, if it is another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != image:
        path.write_bytes(image)

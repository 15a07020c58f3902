"""A headless Chromium, driven by its own debugging protocol over a pipe: no other package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-sync", "--disable-dev-shm-usage"),
    *("--hide-scrollbars", "--window-size=1440,1000", "--remote-debugging-pipe"),
)
PATIENCE_S = 60


def start(program: str, profile: Path) -> tuple[int, int, int]:
    """Start a browser; return its process, and the descriptors to write to and to read from."""
    theirs_in, to = os.pipe()
    back, theirs_out = os.pipe()
    # The protocol speaks on 3 and 4; from above 9 neither end can be overwritten on the way there.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (theirs_in, theirs_out)]
    actions = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    actions += [(os.POSIX_SPAWN_DUP2, fd, target) for fd, target in zip(high, (3, 4), strict=True)]
    arguments = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = os.posix_spawn(program, arguments, os.environ, file_actions=actions)
    for fd in (theirs_in, theirs_out, *high):
        os.close(fd)
    return process, to, back


class Browser:
    """One tab.

    Attributes: `errors`, what the page said on the console or threw; `requests`, URLs it asked for.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self._process, self._to, self._from = start(program, profile)
        self._number, self._buffer, self._session = 0, b"", None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        os.close(self._to)  # the browser ends with its pipe
        os.waitpid(self._process, 0)
        os.close(self._from)

    def send(self, method: str, **params: object) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict:
        until = time.monotonic() + PATIENCE_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            chunk = os.read(self._from, 1 << 20)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, params: dict) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.errors.append(f"dialog: {params['message']}")

    def open(self, url: str) -> None:
        """Load a page from scratch and wait for it."""
        self._go("about:blank")  # or another fragment of the same page would not load anew
        self.errors, self.requests = [], []
        self._go(url)

    def _go(self, url: str) -> None:
        self._loaded = False
        self.send("Page.navigate", url=url)
        while not self._loaded:
            self._read()
        here = f"location.href === {json.dumps(url)} && document.readyState === 'complete'"
        self.wait(here)

    def js(self, expression: str):
        """Return the value of an expression, promises awaited."""
        options = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        result = self.send("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + 10
        while not self.js(expression):
            assert time.monotonic() < until, f"never true: {expression}"
            time.sleep(0.02)

    def drag(self, points: list[tuple[float, float]], modifiers: int = 0) -> None:
        """Press at the first point of the window, move over the others, let go at the last."""
        at = {"button": "left", "buttons": 1, "clickCount": 1, "modifiers": modifiers}
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **at)

    def hover(self, x: float, y: float) -> None:
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, text=text if kind[3] == "D" else ""
            )

    def click(self, words: str) -> None:
        """Click the button with these words."""
        buttons = "[...document.querySelectorAll('button')]"
        self.js(f"{buttons}.find((b) => b.textContent === {json.dumps(words)}).click()")

    def places(self, view: int = 0) -> np.ndarray:
        """Return window coordinates `[N, 2]` of all images in one map."""
        script = f"""(() => {{
            const view = window.mlkitReport.views[{view}];
            const box = view.top.getBoundingClientRect();
            return [...window.mlkitReport.ids.keys()].map((p) => {{
                const [x, y] = view.at(p);
                return [x + box.left, y + box.top];
            }});
        }})()"""
        return np.array(self.js(script))

    def selected(self) -> set[int]:
        """Return the positions of the selected images."""
        return set(self.js("[...window.mlkitReport.state.selected]"))

    def screenshot(self, path: Path, scheme: str = "light") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)
        shot = self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory):
    """A headless browser, or a skip where there is none."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on this machine")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()

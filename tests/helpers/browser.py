"""A JupyterLab of the tests' own and a headless Chromium that looks at it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from analysis import paths, storage

TOKEN = "explorers"
QUIET = [
    "--ServerApp.open_browser=False",
    "--LabApp.news_url=None",
    f"--IdentityProvider.token={TOKEN}",
    "--allow-root",
]
DONE = """() => {
    const said = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(one => one.textContent);
    const failed = document.querySelector("[data-mime-type='application/vnd.jupyter.error']");
    return failed || (said.length && said.every(one => /\\d/.test(one)));
}"""
IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
WAITS = "() => [...document.querySelectorAll('.jp-InputPrompt')].some(one => one.textContent.includes('*'))"
ASK_AGAIN = 8.0  # seconds
SETTINGS = {
    "notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none", "autoStartDefaultKernel": True},
    "apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false", "checkForUpdates": False},
}


def chromium() -> str | None:
    """A Chromium of this machine."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def serving(folder: Path, home: Path):
    """JupyterLab on a folder, with results in `home`; gives its address."""
    port, log = free_port(), home / "jupyter.log"
    environment = os.environ | {
        "ANALYSIS_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(paths.ROOT), os.environ.get("PYTHONPATH", "")]),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_CONFIG_PATH": str(paths.notebooks() / "jupyter"),  # as `make lab`
        "JUPYTER_DATA_DIR": str(home / "share"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "ANALYSIS_WORKERS": "1",
    }
    for name, value in SETTINGS.items():
        storage.write(home / "config" / "lab" / "user-settings" / "@jupyterlab" / name, json.dumps(value))
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", *QUIET]
    with log.open("w") as out:
        server = subprocess.Popen([*command, str(folder)], env=environment, stdout=out, stderr=out)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, server, log)
            yield address
        finally:
            server.terminate()
            server.wait(30)


def _wait_for(address: str, server: subprocess.Popen, log: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=5):
                return
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.3)
    raise AssertionError(f"JupyterLab does not answer:\n{log.read_text()[-3000:]}")


class Notebook:
    """A notebook open in JupyterLab. errors: what the console said is wrong."""

    def __init__(self, page, address: str, name: str):
        self.page, self.address, self.name, self.errors = page, address, name, []
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(f"{address}/lab/workspaces/test/tree/{name}?token={TOKEN}&reset")
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=120_000)

    def save_and_close(self, seconds: float = 60) -> None:
        """Save the notebook with its results and the state of its widgets, leave it, and end its kernel."""
        before, until = self._file()["last_modified"], time.monotonic() + seconds
        self.page.locator(".jp-NotebookPanel").click(position={"x": 3, "y": 3})
        self.page.keyboard.press("Control+s")
        while (now := self._file())["last_modified"] == before or "widgets" not in now["content"]["metadata"]:
            assert time.monotonic() < until, f"{self.name} was not saved with its widgets in {seconds} s"
            time.sleep(0.5)
        self.page.goto("about:blank")
        sessions = f"{self.address}/api/sessions"
        for one in self.page.request.get(f"{sessions}?token={TOKEN}").json():
            if one["path"] == self.name:
                self.page.request.delete(f"{sessions}/{one['id']}?token={TOKEN}")

    def _file(self) -> dict:
        """The notebook as it lies on disk, with `last_modified`."""
        return self.page.request.get(f"{self.address}/api/contents/{self.name}?token={TOKEN}").json()

    def run_all(self, seconds: float) -> None:
        """Run every cell, and wait until each has a number or one has failed. A kernel that has just begun may lose
        what it is asked, so where no cell waits or runs it is asked again.
        """
        self.page.wait_for_selector(IDLE, state="attached", timeout=120_000)
        until, asked = time.monotonic() + seconds, -ASK_AGAIN
        while not self.page.evaluate(DONE):
            assert time.monotonic() < until, f"cells still run after {seconds} s"
            if not self.page.evaluate(WAITS) and time.monotonic() - asked > ASK_AGAIN:
                self.page.click("text=Run >> nth=0")
                self.page.click("text=Run All Cells >> nth=0")
                asked = time.monotonic()
            time.sleep(0.5)

    def seen(self) -> str:
        """What all views of explorers hold."""
        return "".join(self.page.locator(".explorer-view").evaluate_all("all => all.map(one => one.innerHTML)"))

    def choose_another(self, place: int, besides: tuple[str, ...] = ()) -> None:
        """Choose another entry of a menu and back; what is seen must change."""
        menu = self.page.locator(".widget-dropdown").nth(place)
        select = menu.locator("select")
        options, now = select.locator("option").count(), select.evaluate("one => one.selectedIndex")
        name = menu.locator("label").inner_text()
        if options < 2 or name in besides:
            return
        before = self.seen()
        select.select_option(index=(now - 1) % options)  # of methods the one with the most steps, where all words count
        self.changed(before, name)
        select.select_option(index=now)

    def choose(self, name: str, option: str) -> None:
        """Choose an entry of the last menu of this name."""
        menu = self.page.locator(".widget-dropdown", has=self.page.locator(f"label:text-is('{name}')")).last
        menu.locator("select").select_option(label=option)

    def slide_to_end(self, name: str) -> None:
        """Move the last slider of this name as far to the right as it goes."""
        slider = self.page.locator(".widget-slider", has=self.page.locator(f"label:text-is('{name}')")).last
        slider.locator(".noUi-handle").first.press("End")

    def push_slider(self, place: int, besides: tuple[str, ...] = ()) -> None:
        """Move a slider one step, to the right or else to the left; what is seen must change."""
        slider = self.page.locator(".widget-slider, .widget-selectionslider").nth(place)
        name, readout = slider.locator("label").inner_text(), slider.locator(".widget-readout")
        if name in besides:
            return
        before, value = self.seen(), readout.inner_text()
        for key in ("ArrowRight", "ArrowLeft"):
            slider.locator(".noUi-handle").first.press(key)
            self.page.wait_for_timeout(100)
            if readout.inner_text() != value:
                self.changed(before, name)
                return

    def press_toggle(self, place: int) -> None:
        """Press a button that stays down and press it again; what is seen must change."""
        button = self.page.locator(".widget-toggle-button").nth(place)
        before = self.seen()
        button.click()
        self.changed(before, button.inner_text())
        button.click()

    def changed(self, before: str, name: str, seconds: float = 60) -> None:
        """Wait until what is seen is another thing than before."""
        until = time.monotonic() + seconds
        while self.seen() == before:
            assert time.monotonic() < until, f"{name!r} was moved, and in {seconds} s nothing seen has changed"
            time.sleep(0.1)

    def settle(self, place, before: str, seconds: float = 30) -> str:
        """What a view holds once it has changed."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            now = place.inner_html()
            if now != before:
                return now
            time.sleep(0.1)
        raise AssertionError(f"the view has not changed in {seconds} s")

    def output_errors(self) -> list[str]:
        """Error outputs of cells, tracebacks, and messages in views; what a run warns of is none."""
        kinds = ("application/vnd.jupyter.error", "application/vnd.jupyter.stderr")
        failed, said = (self.page.locator(f".jp-OutputArea-output[data-mime-type='{kind}']") for kind in kinds)
        traced = [text for text in said.all_inner_texts() if "Traceback" in text]
        texts = failed.all_inner_texts() + traced + self.page.locator("[role=alert]").all_inner_texts()
        return [re.sub(r"\s+", " ", text) for text in texts if text.strip()]

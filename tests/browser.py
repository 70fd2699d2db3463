"""The explorers in a real browser: JupyterLab or Voilà served on this machine, Chromium driven."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page, sync_playwright

from course.editions import without_solutions
from course.plan import notebook as read
from course.plan import tagged

BIN = Path(sys.executable).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TOKEN = "a-token-for-this-test"
SECOND = 1000  # Playwright counts in milliseconds


def copied(name: str, folder: Path, student: bool = False, **parameters: Any) -> Path:
    """The notebook with other values in its cell of parameters, in a folder of its own."""
    notebook = read(name)
    notebook = without_solutions(notebook) if student else notebook
    place = next(i for i, cell in enumerate(notebook.cells) if tagged(cell, "parameters"))
    given = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells[place].source += "\n" + given
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def served(command: list[str], log: Path) -> Iterator[None]:
    """The server's process group, ended with the block."""
    environment = os.environ | {"JUPYTER_PREFER_ENV_PATH": "1", "PYTHONNOUSERSITE": "1"}
    with open(log, "w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, start_new_session=True
        )
        try:
            yield
        finally:
            os.killpg(process.pid, 15)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)


@contextmanager
def lab(folder: Path) -> Iterator[str]:
    """JupyterLab in a folder; yields its address."""
    port = free_port()
    command = [str(BIN / "jupyter"), "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.port_retries=0", "--LabApp.extension_manager=readonly"]
    command.append("--KernelManager.shutdown_wait_time=1.0")
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    # of its own, or it opens what another session had left open
    command.append("--LabApp.workspaces_dir=" + str(folder / "workspaces"))
    command.append("--LabApp.user_settings_dir=" + str(folder / "settings"))
    quiet = folder / "settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True, exist_ok=True)  # or it asks whether it may fetch news
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    if os.getuid() == 0:
        command.append("--allow-root")
    with served(command, folder / "lab.log"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def app(notebook: Path) -> Iterator[str]:
    """The notebook as `make app` serves it, but for the port and the token."""
    port = free_port()
    command = [str(BIN / "voila"), str(notebook), "--no-browser", "--Voila.ip=127.0.0.1"]
    command += [f"--port={port}", f"--Voila.token={TOKEN}"]
    with served(command, notebook.parent / "voila.log"):
        yield f"http://127.0.0.1:{port}"


def reachable(address: str, seconds: float = 60) -> None:
    """Wait until something listens."""
    port, end = int(address.rsplit(":", 1)[1]), time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"nothing listens at {address}")


@contextmanager
def opened(address: str, width: int = 1280, height: int = 1000) -> Iterator[tuple[Page, list[str]]]:
    """A page of Chromium, and the list that its console's errors are added to."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, errors = browser.new_page(viewport={"width": width, "height": height}), list[str]()
        # Voilà's template asks for a font of icons, which no page here shows
        page.on(
            "console",
            lambda m: (
                errors.append(f"{m.text} {m.location['url']}")
                if m.type == "error" and "fontawesome" not in m.location["url"]
                else None
            ),
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(240 * SECOND)
        page.goto(address, timeout=120 * SECOND)
        yield page, errors
        browser.close()


def run_all(page: Page) -> None:
    """Run every cell of the open notebook, as its menu does."""
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


@contextmanager
def running(notebook: Path) -> Iterator[tuple[Page, list[str]]]:
    """The notebook open in a JupyterLab of its own folder, all its cells told to run: the page, and
    the list that its console's errors are added to."""
    with lab(notebook.parent) as address:
        reachable(address)
        with opened(f"{address}/lab/tree/{notebook.name}?token={TOKEN}") as (page, errors):
            run_all(page)
            yield page, errors


def cell(page: Page, text: str) -> Locator:
    """The code cell with this text; cells far from the view are not in the page, so it is looked
    for by scrolling down."""
    panel = page.locator(".jp-WindowedPanel-outer").first
    found = page.locator(".jp-CodeCell").filter(has_text=text).first
    panel.evaluate("e => e.scrollTo(0, 0)")
    for _ in range(200):
        if found.count():
            found.scroll_into_view_if_needed()
            return found
        panel.evaluate("e => e.scrollBy(0, 400)")
        page.wait_for_timeout(50)
    raise AssertionError(f"no cell with {text!r}")


def fill(page: Page, text: str, source: str) -> None:
    """Type another source into the cell with this text, and run it."""
    cell(page, text).locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    page.keyboard.insert_text(source)
    page.keyboard.press("Control+Enter")


def says(page: Page, text: str, wanted: str, seconds: float = 180) -> str:
    """Run the check with this text until it says what is wanted; returns all that it says."""
    place = cell(page, text)
    place.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    place.locator(".jp-OutputArea-output").get_by_text(wanted).wait_for(timeout=seconds * SECOND)
    return place.locator(".jp-OutputArea-output").inner_text()


def picture(page: Page, place: int = 0) -> str:
    """The address of the explorer's picture number `place`: another one after each change."""
    return page.locator("img.widget-image").nth(place).get_attribute("src") or ""


def changed(page: Page, before: str, place: int = 0, seconds: float = 180) -> str:
    """Wait until the picture is another one."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (now := picture(page, place)) != before:
            return now
        time.sleep(0.2)
    raise TimeoutError(f"picture {place} did not change in {seconds} s")


def press(page: Page, name: str) -> None:
    """Press the button, when it can be pressed."""
    page.get_by_role("button", name=name, exact=True).click()

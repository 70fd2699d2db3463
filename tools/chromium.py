"""The browser that prints the book and in which the map is timed: Debian's Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from erase_lib.errors import EraseError, reason
from erase_lib.files import whole

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# as root, as in a container, it starts in no other way
ARGUMENTS = ["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []
QUIET = ["--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def chromium() -> str:
    """Where Chromium is. Raises `EraseError` where it is not."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise EraseError("Chromium is missing: install Debian's package chromium")
    return found


def to_pdf(page: Path, out: Path, seconds: float = 900) -> None:
    """Print a page, with an outline of its headings. Raises `RuntimeError` when that fails."""
    with tempfile.TemporaryDirectory() as profile, whole(out) as (part,):
        command = [chromium(), *QUIET, *ARGUMENTS, f"--user-data-dir={profile}"]
        command += ["--no-pdf-header-footer", "--generate-pdf-document-outline"]
        command += [f"--print-to-pdf={part}", page.resolve().as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            said = done.stderr.strip()[-300:]
        except subprocess.TimeoutExpired as error:
            said = reason(error)
        if not part.is_file():
            raise RuntimeError(f"Chromium printed no {out.name}: {said}")

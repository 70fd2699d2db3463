"""Work in the background of a widget: one job at a time, its progress and its errors in one line.

While a cell runs, the kernel handles no click. So a button starts a thread and returns; what the
thread has to say stands in the widget, never as a traceback.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from html import escape
from io import BytesIO
from typing import Any

import ipywidgets as w
from matplotlib.figure import Figure

from erase_lib.errors import EraseError, reason

Work = Callable[[], str | None]


class Job:
    """Runs one function at a time in a thread; meanwhile its buttons are grey, and Stop is not."""

    def __init__(self) -> None:
        self.buttons: list[w.Button] = []
        self.stop_button = w.Button(description="Stop", button_style="warning", disabled=True)
        self.stop_button.on_click(lambda _: self.stop())
        self.status = w.HTML()
        self.thread: threading.Thread | None = None
        self.stopping = threading.Event()

    def button(self, description: str, work: Work, doing: str, **look: Any) -> w.Button:
        """A button that starts `work`."""
        self.buttons.append(w.Button(description=description, **look))
        self.buttons[-1].on_click(lambda _: self.start(work, doing))
        return self.buttons[-1]

    def start(self, work: Work, doing: str) -> None:
        """Begin `work`, which returns what to say at its end; ignored while another job runs."""
        if self.running:
            return
        self.stopping.clear()
        self._busy(True)
        self.say(doing + " …")
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()

    @property
    def running(self) -> bool:
        """Whether a job is at work."""
        return self.thread is not None and self.thread.is_alive()

    def wait(self, seconds: float | None = None) -> None:
        """Until the job is done: for scripts and tests."""
        if self.thread is not None:
            self.thread.join(seconds)

    def stop(self) -> None:
        """Ask the job to end; it does so where it calls `check`."""
        self.stopping.set()
        self.say("stopping …")

    def check(self) -> None:
        """Called by the work itself: `KeyboardInterrupt` if it shall stop, which `erase` turns into
        an erasure of the updates done."""
        if self.stopping.is_set():
            raise KeyboardInterrupt

    def say(self, text: str, wrong: bool = False) -> None:
        """One line in the widget."""
        self.status.value = f"<b>✗ {escape(text)}</b>" if wrong else escape(text)

    def attempt(self, work: Work) -> None:
        """Do quick work at once, with its error in the widget."""
        try:
            self.say(work() or "")
        except EraseError as error:
            self.say(str(error), wrong=True)
        except KeyboardInterrupt:
            self.say("stopped")
        except Exception as error:  # a traceback in a thread would be seen by nobody
            self.say(f"{type(error).__name__}: {reason(error)}", wrong=True)

    def _run(self, work: Work) -> None:
        self.attempt(work)
        self._busy(False)

    def _busy(self, busy: bool) -> None:
        self.stop_button.disabled = not busy
        for button in self.buttons:
            button.disabled = busy


def picture() -> Any:
    """A widget for a picture that is not there yet: hidden, for an empty one looks broken."""
    return w.Image(format="png", layout=w.Layout(display="none"))


def put(image: Any, figure: Any = None) -> None:
    """Show a figure in a `picture`; none hides it."""
    file = BytesIO()
    if figure is not None:
        figure.savefig(file, format="png", dpi=90)
    image.value, image.layout.display = file.getvalue(), None if figure else "none"


def canvas(width: float, height: float) -> Any:
    """Axes of a figure of its own, in inches: pyplot's would be shown by the next cell that ends,
    and is not to be used in a thread."""
    return Figure(figsize=(width, height), layout="constrained").subplots()

"""A job in a thread, what a widget shows, and an explorer: choose a target, see who is hurt. Every
callback is a plain method. While a cell runs, the kernel handles no click; so a button starts a
thread and returns, and what it has to say stands in the widget, never as a traceback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from html import escape
from io import BytesIO
from typing import Any

import ipywidgets as w
import pandas as pd
from matplotlib.figure import Figure

from erase_lib.concepts import neutral_concepts
from erase_lib.config import EraseConfig
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError, reason, unknown
from erase_lib.measure import World, draw, sensitivity_prompts
from erase_lib.measure.pictures import Images, portion
from erase_lib.models import Pipeline, using
from erase_lib.show.charts import delta_bars, quoted
from erase_lib.show.page import titled
from erase_lib.show.pictures import grid, thumbnails
from erase_lib.study import SCORES, STEPS, deltas, measure_pairs
from erase_lib.train import Run, erase

MEASURED = ("esd", "uce", "eap", "eap_closed")  # methods of the sensitivity explorer
WIDE: dict[str, Any] = {"layout": {"width": "420px"}}

Work = Callable[[], str | None]


class Job:
    """Runs one function at a time in a thread; meanwhile its buttons are grey, and Stop is not."""

    def __init__(self, pipe: Pipeline = None) -> None:
        self.pipe = pipe
        self.buttons: list[w.Button] = []
        self.stop_button = w.Button(description="Stop", button_style="warning", disabled=True)
        self.stop_button.on_click(lambda _: self.stop())
        self.status, self.said = w.HTML(), ""
        self.bar = w.FloatProgress(max=1.0, description="progress", **WIDE)
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
        self.bar.value = 0.0
        self._busy(True)
        self.say(doing + " …")

        def alone() -> str | None:
            with using(self.pipe, doing, wait=False) if self.pipe else nullcontext():
                return work()

        def run() -> None:
            self.attempt(alone)
            self._busy(False)

        self.thread = threading.Thread(target=run, daemon=True)
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

    def check(self, done: float) -> None:
        """Called by the work with the share that is done: moves the bar, and is `KeyboardInterrupt`
        if the work shall stop; `erase`'s has what is done. It is what drawing takes as progress."""
        self.bar.value = done
        if self.stopping.is_set():
            raise KeyboardInterrupt

    def say(self, text: str, wrong: bool = False) -> None:
        """One line in the widget, which is read aloud to who hears a page; `said` is its text."""
        self.said = f"✗ {text}" if wrong else text
        told = f'<b role="alert">{escape(self.said)}</b>'
        self.status.value = told if wrong else f'<span role="status">{escape(text)}</span>'

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

    def _busy(self, busy: bool) -> None:
        self.stop_button.disabled = not busy
        for button in self.buttons:
            button.disabled = busy


def picture(widest: str = "920px") -> Any:
    """A widget for a picture that is not there yet: hidden, for an empty one looks broken."""
    return w.Image(format="png", layout=w.Layout(display="none", max_width=widest))


def put(image: Any, figure: Any = None) -> None:
    """Show a figure in a `picture`; none hides it."""
    file = BytesIO()
    if figure is not None:
        figure.savefig(file, format="png", dpi=90)
    image.value, image.layout.display = file.getvalue(), None if figure else "none"


def row(*widgets: Any) -> Any:
    """Widgets beside each other, which go on below where the page ends."""
    return w.HBox(widgets, layout={"flex_flow": "row wrap", "align_items": "flex-start"})


def in_words(head: str, lines: Iterable[str]) -> str:
    """What pictures show, in HTML for who hears a page: `head`, which unfolds the lines."""
    told = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<details><summary>in words: {escape(head)}</summary>{told}</details>"


def drawn(job: Job, pipe: Pipeline, prompts: pd.DataFrame, **edits: Erasure) -> dict[str, Images]:
    """A picture for each prompt and seed of the table, by the original model, whose are cached, and
    by each edit; the job says which, moves its bar, and ends where it is stopped."""
    given, made = (list(prompts["prompt"]), list(prompts["seed"]), STEPS), dict[str, Images]()
    for k, (name, edit) in enumerate({"original": None, **edits}.items()):
        job.say(f"drawing {name} …")
        told = portion(job.check, k, 1 + len(edits))
        made[name] = draw(pipe, *given, progress=told, erasure=edit, keep=edit is None)
    return made


def canvas(width: float, height: float) -> Any:
    """Axes of a figure of its own, in inches: pyplot's would be shown by the next cell that ends,
    and is not to be used in a thread."""
    return Figure(figsize=(width, height), layout="constrained").subplots()


class SensitivityExplorer:
    """Target, method and score → who is hurt; a concept → its pictures. Show `.box`. `pairs` is the
    damage atlas, one row a pair of pictures with a column `targets`, of plain ESD; `strengths` how
    far each of its edits goes. `Measure` makes another method's, not matched, `Draw` pictures."""

    def __init__(
        self,
        pipe: Pipeline,
        pairs: pd.DataFrame,
        strengths: Mapping[str, float],
        thin: int = 4,
        pictures: int = 4,
    ) -> None:
        if pairs.empty:
            raise EraseError("the atlas is empty: run `make results-atlas`")
        self.pipe, self.strengths, self.thin, self.world = pipe, strengths, thin, World(pipe)
        self.tables = {(t, "esd"): part for t, part in pairs.groupby("targets", sort=False)}
        self.edits: dict[tuple[str, str], Erasure] = {}
        self.thumbs = thumbnails() if self.world.embedded else {}
        known = pairs["targets"].unique().tolist()
        self.target = w.Combobox(value=known[0], options=known, description="target")
        self.method = w.Dropdown(options=MEASURED, description="method")
        scores = [(text, name) for name, text in SCORES.items()]
        self.score = w.Dropdown(options=scores, value="features", description="score", **WIDE)
        self.concept = w.Dropdown(description="concept", **WIDE)
        self.pictures = w.BoundedIntText(pictures, min=1, max=8, description="seeds")
        self.bars, self.strip = picture(), picture()
        self.job = job = Job(pipe)
        for control in (self.target, self.method, self.score):
            control.observe(lambda _: job.attempt(self.show), "value")
        other = job.button("Measure", self.measure, "measuring", tooltip="another method or target")
        draw = job.button("Draw before / after", self.draw, "drawing", button_style="primary")
        asked = [row(self.target, self.method), row(self.score, other, job.stop_button)]
        look = row(self.concept, self.pictures, draw)
        self.box = w.VBox([*asked, job.bar, job.status, self.bars, look, self.strip])
        job.attempt(self.show)

    def show(self) -> None:
        """δ of the chosen target, method and score, if it is measured: the bars, and the concepts
        to choose from, the most hurt first."""
        target, method, score = self.target.value, self.method.value, self.score.value
        if (target, method) not in self.tables:
            raise EraseError(f"{method} of {target!r} is not measured yet: press Measure")
        table = deltas(self.tables[target, method], score)
        # an interval of two pictures would span the figure
        table.loc[table["n"] < 4, ["low", "high"]] = float("nan")
        neutral = [c for c in neutral_concepts()[:3] if c in set(table["concept"])]
        every = neutral_concepts()[3:]  # all of them would leave no room for others
        shown, label = table[~table["concept"].isin(every)], f"δ: {SCORES[score]}"
        ax = delta_bars(shown, [target], neutral, self.thumbs, 10, label, canvas(8.5, 7))
        put(self.bars, titled(ax, f"{self.about()}: least and most hurt").figure)
        order = table.sort_values("delta", ascending=False)[["concept", "delta"]].to_numpy()
        self.concept.options = [(f"{c or quoted(c)}   δ {d:+.3f}", c) for c, d in order]
        self.concept.index = 0

    def about(self) -> str:
        """Who erases what, and how far: strength 1 is another distance for each method."""
        target, method = self.target.value, self.method.value
        known = method == "esd" and target in self.strengths
        how = f"{self.strengths[target]:.2g}, the atlas's" if known else "1, NOT MATCHED"
        return f"{method} erases “{target}” at strength {how}"

    def measure(self) -> str:
        """Erase and measure every `thin`-th concept, one pair of pictures each."""
        target, method = self.target.value, self.method.value
        names = self.world.words
        if target not in names:
            raise unknown("target", target, names)
        concepts = [target, *(c for c in names[:: self.thin] if c != target)]
        prompts = sensitivity_prompts(concepts, 1, neutral_concepts()[:3], self.world.styles)
        edit = self.edit(target, method)
        by = self.world.judge, self.world.clip, STEPS, self.job.check
        self.tables[target, method] = measure_pairs(self.pipe, edit, prompts, *by)
        self.show()
        told = f"{len(concepts)} concepts measured, one pair of pictures each: no intervals"
        return f"{self.about()}: {told}"

    def draw(self) -> str:
        """The chosen concept before and after, at several seeds."""
        concept, n = self.concept.value, self.pictures.value
        if concept is None:
            raise EraseError("no concept to draw: measure first")
        edit = self.edit(self.target.value, self.method.value)
        plain = concept in neutral_concepts()
        prompts = [concept if plain else self.world.prompt(concept, i) for i in range(n)]
        heads = [f"seed {i}" for i in range(n)]
        title = f"“{concept}” when {self.about()}"
        asked = pd.DataFrame({"prompt": prompts, "seed": range(n)})
        rows = drawn(self.job, self.pipe, asked, erased=edit)
        put(self.strip, grid(rows, heads, title=title, figure=Figure()))
        return f"{2 * n} pictures drawn"

    def watch(self, run: Run) -> None:
        """The progress of an erasure, and where Stop ends it: a part of one is not measured."""
        self.job.check(len(run.history) / run.config.steps)

    def edit(self, target: str, method: str) -> Erasure:
        """The erasure, made once; ESD's as far as in the atlas."""
        if (target, method) not in self.edits:
            config = EraseConfig(targets=(target,), method=method)
            edit = erase(self.pipe, config, callbacks=[self.watch])
            strength = self.strengths.get(target, 1.0) if method == "esd" else 1.0
            self.edits[target, method] = edit.scaled(self.pipe, strength)
        return self.edits[target, method]

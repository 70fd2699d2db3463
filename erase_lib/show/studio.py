"""The studio: whom would it hurt to erase this, and what if those were protected? One page from the
question to two erasures side by side. Every callback is a plain method, and all that takes time
stands behind a button, moves a bar and can be stopped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as w
import pandas as pd
from matplotlib.figure import Figure

from erase_lib import study
from erase_lib.concepts import without
from erase_lib.config import EraseConfig
from erase_lib.erasure import Erasure, Interrupted
from erase_lib.errors import EraseError
from erase_lib.export import KINDS
from erase_lib.files import as_path, whole, writing
from erase_lib.measure import World
from erase_lib.measure.pictures import portion
from erase_lib.models import Pipeline
from erase_lib.show.curves import losses
from erase_lib.show.explorers import Job, canvas, drawn, in_words, picture, put, row
from erase_lib.show.pictures import grid, seen_words
from erase_lib.show.risks import Risks
from erase_lib.train import Run, erase

METHODS = ("eap", "esd", "esd_neutral", "age", "uce", "eap_closed", "rece", "speed")
EVERY = 5  # updates between two pictures of the losses
TABS = ("1 · Who is hurt?", "2 · Preserve whom?", "3 · Erase, compare", "4 · Take with you")
ERASING = 2  # the place of the tab in which erasures are looked at


class Studio:
    """Whom would it hurt? Predict, choose whom to preserve, erase, look, measure; keep that as A,
    change something, erase again, and compare A with B on the same prompts and noise. Show `.box`.
    `words`, `classifier` and `clip` as of `measure.World`; `steps` updates, 0: the course's."""

    def __init__(
        self,
        pipe: Pipeline,
        folder: str | Path = "runs/studio",
        steps: int = 0,
        words: str | None = None,
        classifier: str | Path | None = None,
        clip: str | Path | None = None,
    ) -> None:
        self.pipe, self.folder, self.steps = pipe, as_path(folder), steps
        self.world = World(pipe, words=words, classifier=classifier, clip=clip)
        self.edit: Erasure | None = None  # B, where there is an A
        self.a: Erasure | None = None
        self.seen, self.rows = pd.DataFrame(), pd.DataFrame()
        self.job = Job(pipe)
        self.risks = Risks(self.world, self.job, self.folder)
        self.word, self.preserved = self.risks.word, self.risks.preserved
        self._controls()
        self.box = w.VBox(self._story(), layout={"max_width": "1240px"})

    def _controls(self) -> None:
        self.method = w.Dropdown(options=METHODS, description="method")
        self.strength = w.BoundedFloatText(1.0, min=0.1, max=2, step=0.1, description="strength")
        self.seed = w.BoundedIntText(0, min=0, max=99_999, description="seed")
        self.match = w.Checkbox(description=f"match at ESR-1 {study.LEVEL:g}", indent=False)
        self.match.layout.width = "auto"
        self.kind = w.Dropdown(options=list(KINDS), description="export as")
        self.saved = w.Combobox(description="saved", placeholder="a folder")
        self.losses, self.strip, self.words = picture("470px"), picture("715px"), w.HTML()
        self.chosen, self.table, self.held = w.HTML(), w.HTML(), w.HTML("A: nothing yet")
        self._saved()

    def _story(self) -> list[Any]:
        """What works, and below it tabs, each a screen high: arrows choose one, Enter opens it."""
        b, job = self.job.button, self.job
        tried = [
            b("Erase", self.erase, "erasing", button_style="primary"),
            b("Draw again", self.draw, "drawing"),
            b("Measure", self.measure, "measuring", tooltip="ESR and PSR, with n"),
            b("Keep as A", self.keep, "keeping", tooltip="what is erased next is then B"),
            b("Compare A and B", self.compare, "comparing"),
        ]
        told = w.VBox([self.table, self.words, self.losses, self.chosen])
        told.layout.width = "480px"
        given = row(self.method, self.strength, self.seed, self.held)
        erased = w.VBox([given, row(*tried, self.match), row(self.strip, told)])
        taken = [b("Save", self.save, "saving"), b("Load", self.load, "loading"), self.saved]
        taken += [b("Export", self.export, "exporting"), self.kind]
        seen = b("Write what is seen", self.write, "writing", tooltip="PNG and CSV")
        parts = [self.risks.foretold, self.risks.chosen, erased, w.VBox([row(*taken), seen])]
        self.tabs = w.Tab(parts, titles=TABS, selected_index=0)
        return [row(job.stop_button, job.bar, job.status), self.tabs]

    def erase(self) -> str:
        """Erase what was typed, preserving whom is chosen, showing each update; then draw."""
        targets, method = self.risks.targets(), self.method.value
        names, self.tabs.selected_index = tuple(self.risks.kept()), ERASING
        given: dict[str, Any] = {"targets": targets, "method": method, "preserved": names}
        given |= {"search": "fixed"} if names and method == "eap" else {}
        given |= {"steps": self.steps} if self.steps else {}
        given |= {"vocabulary": self.world.given} if self.world.given else {}
        config, end, self.chosen.value = EraseConfig.from_dict(given), "erased", ""
        put(self.losses)
        try:
            self.edit = erase(self.pipe, config, callbacks=[self.watch])
        except Interrupted as stopped:
            self.edit, done = stopped.erasure, len(stopped.erasure.history)
            end = f"stopped after {done} of {config.steps} updates, which are kept"
            self.job.stopping.clear()
        self.job.say(f"{end}; drawing …")
        self.draw()
        return f"“{', '.join(targets)}” {end}"

    def watch(self, run: Run) -> None:
        """At each update the progress, and now and then the losses and the search."""
        done = len(run.history)
        if done and done % EVERY == 0:
            table = pd.DataFrame(run.history)
            put(self.losses, losses(table, canvas(6, 2.8)).figure)
            if "chosen" in table:
                now = table["chosen"].iloc[-EVERY:].str.split("|").explode().unique()
                names = "<br>".join(map(escape, now[:10]))
                self.chosen.value = f"preserved just now:<br>{names}"
        self.job.check(done / run.config.steps)

    def asked(self) -> pd.DataFrame:
        """What is drawn, as `study.trial_prompts`: the same for A and B."""
        if not (edits := [edit for edit in (self.a, self.edit) if edit]):
            raise EraseError("nothing is erased yet: press Erase")
        targets, names = edits[-1].config.targets, self.risks.kept()
        names = list(dict.fromkeys([c for edit in edits for c in edit.config.preserved] + names))
        given = without(names, targets), self.risks.most(targets, 8), self.seed.value
        return study.trial_prompts(self.world, targets, *given)

    def _look(self, edits: dict[str, Erasure], title: str, every: bool) -> dict[str, pd.DataFrame]:
        """Draw the original and the edits, all that is asked or what is shown of it; a row each,
        with the judge's word. The verdicts by name."""
        asked = self.asked()
        asked = asked if every else asked[asked["shown"]].reset_index(drop=True)
        judge = self.world.judge_of(next(iter(edits.values())).config.targets)
        shown, self.tabs.selected_index = asked.index[asked["shown"]], ERASING
        made = drawn(self.job, self.pipe, asked, **edits)
        told = {name: study.trial_verdicts(judge, every, asked) for name, every in made.items()}
        pictures = {name: [every[i] for i in shown] for name, every in made.items()}
        some = asked.loc[shown]
        styles = some["style"].fillna("").where(some["group"] == "target", "")
        heads = [f"{c}\n{s}".strip() for c, s in zip(some["concept"], styles, strict=True)]
        below = {name: seen_words(table.loc[shown]) for name, table in told.items()}
        put(self.strip, grid(pictures, heads, below, title, list(some["group"]), Figure()))
        lines = (f"{name}: {', '.join(words)}" for name, words in below.items())
        self.words.value = in_words(f"what {judge.name} sees", lines)
        self.seen = pd.concat([t.assign(model=name) for name, t in told.items()])
        self.rows, self.table.value = pd.DataFrame(), ""
        return told

    def draw(self) -> str:
        """Before and after, at the strength that is given: the few that are looked at."""
        edit = self._scaled()
        title = about(edit)
        self._look({"erased": edit}, title, every=False)
        return title

    def measure(self) -> str:
        """ESR and PSR before and after, with n, and who was hurt most."""
        return self._counted({"erased": self._scaled()})

    def keep(self) -> str:
        """What is erased now is A; what is erased next is B."""
        self.a = self._scaled()
        self.held.value = f"A: {escape(about(self.a))}"
        return "kept as A: change something, erase again, and compare"

    def compare(self) -> str:
        """A beside B on the same prompts and noise; matched, each where it first erases."""
        b = self._scaled()
        if self.a is None:
            raise EraseError("there is no A yet: erase, press Keep as A, and erase again")
        if self.a.config.targets != b.config.targets:
            both = (", ".join(edit.config.targets) for edit in (self.a, b))
            raise EraseError("A erases {} and B {}: erase the same, to compare".format(*both))
        return self._counted({"A": self.a, "B": b})

    def _counted(self, edits: dict[str, Erasure]) -> str:
        """Draw all that is asked of one erasure, or of A and B, and fill the table; whether they
        are matched is said in it."""
        edits, note = self._matched(edits)
        title = "\n".join(f"{name}: {about(edit)}" for name, edit in edits.items())
        told = self._look(edits, title.removeprefix("erased: "), every=True)
        sides = [("original", name, {"erased": name}) for name in edits]
        sides += [("A", "B", {"difference": "B − A"})] if "A" in edits else []
        parts = [study.trial_rows(told[a], told[b]).replace({"model": n}) for a, b, n in sides]
        rows = pd.concat(parts, ignore_index=True).drop_duplicates(["group", "model"])
        models = ["original", *edits, "B − A" if "A" in edits else "difference"]
        self.rows = rows[rows["model"].isin(models)].assign(note=note)
        hurt = {name: study.most_hurt(told["original"], told[name]).items() for name in edits}
        most = {name: ", ".join(f"{c} {d:+.2f}" for c, d in who) for name, who in hurt.items()}
        lines = (f"{name}: most hurt, δ of {study.TIMES}: {who}" for name, who in most.items())
        self.table.value = rates(self.rows, note, lines)
        return f"{note}; measured by {told['original']['measured_by'][0]}"

    def _matched(self, edits: dict[str, Erasure]) -> tuple[dict[str, Erasure], str]:
        """The edits as they are or, where *match* is ticked, where each first erases; and what to
        say of it."""
        found, short = dict(edits), list[str]()
        for k, (name, edit) in enumerate(edits.items() if self.match.value else ()):
            self.job.say(f"looking for the strength at which {name} first erases …")
            how = self.world.judge_of(edit.config.targets), False
            told = portion(self.job.check, k, len(edits))
            found[name], reached = study.matched(self.world, edit, *how, told)
            short += [] if reached else [name]
        at = ", ".join(f"{name} at strength {edit.strength:.2g}" for name, edit in found.items())
        level = f"reaches ESR-1 {study.LEVEL:g}"
        if not self.match.value:
            return found, f"NOT MATCHED: {at}, and what erases less spares more"
        if short:
            return found, f"NOT MATCHED: {' and '.join(short)} never {level}; {at}"
        return found, f"matched where each first {level}, on other noise: {at}"

    def _scaled(self) -> Erasure:
        """The edit at the strength that is given. Raises `EraseError` where there is none."""
        if self.edit is None:
            raise EraseError("nothing is erased yet: press Erase")
        return self.edit.scaled(self.pipe, self.strength.value)

    def _place(self, edit: Erasure) -> Path:
        """Its folder: no other edit of this studio has its name."""
        parts = ["+".join(edit.config.targets), edit.config.method, f"{edit.strength:.1f}"]
        parts += [f"keeps {'+'.join(edit.config.preserved)}"[:60]] if edit.config.preserved else []
        return self.folder / "-".join(parts).replace(" ", "-").replace("/", "-")

    def _saved(self) -> None:
        there = sorted(self.folder.glob("*/erased.safetensors"))
        self.saved.options = [path.parent.name for path in there]

    def save(self) -> str:
        """Write the erasure, as strong as is given, into a folder of its own."""
        edit = self._scaled()
        folder = edit.save(self._place(edit))
        self._saved()
        return f"saved to {folder}"

    def load(self) -> str:
        """An erasure that was saved, and its settings; draw, keep or compare it."""
        name = self.saved.value.strip()
        if not name:
            raise EraseError("no folder is given: choose one that was saved, or type its path")
        there = self.folder / name
        edit = Erasure.load(there if there.is_dir() else as_path(name))
        edit.check(self.pipe)
        self.edit, config = edit, edit.config
        self.word.value, self.strength.value = ", ".join(config.targets), 1.0
        self.preserved.value, self.tabs.selected_index = ", ".join(config.preserved), ERASING
        if config.method in METHODS:
            self.method.value = config.method
        return f"loaded: {about(edit)}; press Draw again"

    def export(self) -> str:
        """Write the erasure for other tools, as strong as is given."""
        edit, kind = self._scaled(), self.kind.value
        folder = edit.export(self.pipe, f"{self._place(edit)}-{kind}", kind)
        return f"exported to {folder}"

    def write(self) -> str:
        """The pictures as a PNG, the verdicts and rates as CSV, in a new folder."""
        if self.seen.empty:
            raise EraseError("nothing is seen yet: press Erase")
        number = 1 + len(list(self.folder.glob("seen-*")))
        folder = self.folder / f"seen-{number:03}"
        names = [folder / name for name in ("pictures.png", "verdicts.csv", "rates.csv")]
        with writing(folder):
            folder.mkdir(parents=True)
            with whole(*names) as (image, verdicts, rows):
                image.write_bytes(self.strip.value)
                self.seen.to_csv(verdicts, index=False)
                self.rows.to_csv(rows, index=False)
        return f"written to {folder}"


def about(edit: Erasure) -> str:
    """An erasure in a line: targets, method, strength, whom it preserves."""
    c = edit.config
    names = f", preserving {', '.join(c.preserved)}" if c.preserved else ""
    return f"“{', '.join(c.targets)}” erased by {c.method}, strength {edit.strength:.2g}{names}"


def rates(rows: pd.DataFrame, note: str, lines: Iterable[str]) -> str:
    """`study.trial_rows` in HTML: a line a group, a column a model, and what is said of them."""
    signs = ["+" if model in ("difference", "B − A") else "" for model in rows["model"]]
    ends = zip(signs, rows["value"], rows["low"], rows["high"], strict=True)
    said = rows.assign(said=[f"{v:{s}.2f}<br>[{low:.2f}, {high:.2f}]" for s, v, low, high in ends])
    said["group"] += "<br>" + said["metric"]
    wide = said.set_index(["group", "n", "model"])["said"].unstack("model", sort=False)
    wide = wide.reset_index().rename_axis(columns=None)
    told = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<p><b>{escape(note)}</b></p>{wide.to_html(index=False, escape=False)}{told}"

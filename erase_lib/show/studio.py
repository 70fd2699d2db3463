"""The studio: whom would it hurt to erase this, and what if those were protected? One page from the
question to two erasures side by side. Every callback is a plain method, and all that takes time
stands behind a button, moves a bar and can be stopped."""

from __future__ import annotations

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
from erase_lib.models import Pipeline
from erase_lib.show.curves import losses
from erase_lib.show.explorers import WIDE, Job, canvas, drawn, picture, put, row
from erase_lib.show.pictures import grid, seen_words
from erase_lib.show.risks import Risks
from erase_lib.train import Run, erase

METHODS = ("eap", "esd", "esd_neutral", "age", "uce", "eap_closed", "rece", "speed")
EVERY = 5  # updates between two pictures of the losses
UNMATCHED = "NOT MATCHED: each at its own strength, and what erases less spares more"


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
        given = WIDE | {"description": "strength", "continuous_update": False}
        self.strength = w.FloatSlider(1.0, min=0.1, max=2.0, step=0.1, **given)
        self.seed = w.BoundedIntText(0, min=0, max=99_999, description="seed")
        self.match = w.Checkbox(description=f"match at ESR-1 {study.LEVEL:g}", indent=False)
        self.match.layout.width = "auto"
        self.kind = w.Dropdown(options=list(KINDS), description="export as")
        self.saved = w.Combobox(description="saved", placeholder="a folder")
        self.losses, self.strip = picture(), picture()
        self.words = w.HTML()
        self.chosen, self.table, self.held = w.HTML(), w.HTML(), w.HTML("A: nothing yet")
        self._saved()

    def _story(self) -> list[Any]:
        b, job = self.job.button, self.job
        begin = b("Erase", self.erase, "erasing", button_style="primary")
        compared = [
            b("Measure", self.measure, "measuring", tooltip="ESR and PSR, with n"),
            b("Keep as A", self.keep, "keeping", tooltip="what is erased next is then B"),
            b("Compare A and B", self.compare, "comparing"),
        ]
        taken = [b("Save", self.save, "saving"), b("Load", self.load, "loading"), self.saved]
        taken += [b("Export", self.export, "exporting"), self.kind]
        return [
            *self.risks.parts,
            w.HTML("<h3>3 · Erase, look, change something, compare</h3>"),
            row(self.method, begin, job.stop_button),
            row(self.strength, self.seed, b("Draw again", self.draw, "drawing")),
            row(*compared, self.match, self.held),
            job.bar,
            job.status,
            self.strip,
            self.words,
            self.table,
            row(self.losses, self.chosen),
            w.HTML("<h3>4 · Take it with you</h3>"),
            row(*taken),
            b("Write what is seen", self.write, "writing", tooltip="pictures as PNG, rows as CSV"),
        ]

    def erase(self) -> str:
        """Erase what was typed, preserving whom is chosen, showing each update; then draw."""
        targets, method = self.risks.targets(), self.method.value
        names = tuple(self.preserved.value)
        given: dict[str, Any] = {"targets": targets, "method": method, "preserved": names}
        given |= {"search": "fixed"} if names and method == "eap" else {}
        given |= {"steps": self.steps} if self.steps else {}
        given |= {"vocabulary": self.world.given} if self.world.given else {}
        config, end = EraseConfig.from_dict(given), "erased"
        self.job.bar.max, self.job.bar.value, self.chosen.value = config.steps, 0, ""
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
        self.job.bar.value = done = len(run.history)
        if done and done % EVERY == 0:
            table = pd.DataFrame(run.history)
            put(self.losses, losses(table, canvas(6, 2.8)).figure)
            if "chosen" in table:
                now = table["chosen"].iloc[-EVERY:].str.split("|").explode().unique()
                names = "<br>".join(map(escape, now[:10]))
                self.chosen.value = f"preserved just now:<br>{names}"
        self.job.check()

    def asked(self) -> pd.DataFrame:
        """What is drawn, as `study.trial_prompts`: the same for A and B."""
        if not (edits := [edit for edit in (self.a, self.edit) if edit]):
            raise EraseError("nothing is erased yet: press Erase")
        targets, names = edits[-1].config.targets, list(self.preserved.value)
        names = list(dict.fromkeys([c for edit in edits for c in edit.config.preserved] + names))
        given = without(names, targets), self.risks.most(targets, 8), self.seed.value
        return study.trial_prompts(self.world, targets, *given)

    def _look(self, edits: dict[str, Erasure], title: str, every: bool) -> dict[str, pd.DataFrame]:
        """Draw the original and the edits, all that is asked or what is shown of it; a row each,
        with the judge's word. The verdicts by name."""
        asked = self.asked()
        asked = asked if every else asked[asked["shown"]].reset_index(drop=True)
        judge, told = self.world.judge_of(next(iter(edits.values())).config.targets), {}
        shown, pictures = asked.index[asked["shown"]], {}
        for name, edit in {"original": None, **edits}.items():
            self.job.say(f"{title}: drawing {name} …")
            made = drawn(self.job, self.pipe, asked, edit)
            told[name] = study.trial_verdicts(judge, made, asked)
            pictures[name] = [made[i] for i in shown]
        some = asked.loc[shown]
        styles = some["style"].fillna("").where(some["group"] == "target", "")
        heads = [f"{c}\n{s}".strip() for c, s in zip(some["concept"], styles, strict=True)]
        below = {name: seen_words(table.loc[shown]) for name, table in told.items()}
        put(self.strip, grid(pictures, heads, below, title, list(some["group"]), Figure()))
        lines = (f"<p>{name}: {escape(', '.join(words))}</p>" for name, words in below.items())
        heard = f"<summary>in words: what {escape(judge.name)} sees</summary>"
        self.words.value = f"<details>{heard}{''.join(lines)}</details>"  # for who hears a page
        self.seen = pd.concat([t.assign(model=name) for name, t in told.items()])
        self.rows, self.table.value = pd.DataFrame(), ""
        return told

    def draw(self) -> str:
        """Before and after, at the strength of the slider: the few that are looked at."""
        edit = self._scaled()
        title = about(edit)
        self._look({"erased": edit}, title, every=False)
        return title

    def measure(self) -> str:
        """ESR and PSR before and after, with n, and who was hurt most."""
        edit = self._scaled()
        told = self._look({"erased": edit}, about(edit), every=True)
        before, after = told["original"], told["erased"]
        self.rows = study.trial_rows(before, after)
        hurt = (f"{c} {d:+.2f}" for c, d in study.most_hurt(before, after).items())
        self.table.value = rates(self.rows, f"most hurt, δ of {study.TIMES}: {', '.join(hurt)}")
        return f"measured by {before['measured_by'][0]}"

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
        edits, note = {"A": self.a, "B": b}, UNMATCHED
        if self.match.value:
            edits, note = self._matched(edits)
        told = self._look(edits, f"A: {about(edits['A'])}\nB: {about(edits['B'])}", every=True)
        sides = [("original", name, {"erased": name}) for name in edits]
        sides.append(("A", "B", {"difference": "B − A"}))
        parts = [study.trial_rows(told[a], told[b]).replace({"model": n}) for a, b, n in sides]
        rows = pd.concat(parts, ignore_index=True).drop_duplicates(["group", "model"])
        self.rows = rows[rows["model"].isin(["original", *edits, "B − A"])].assign(note=note)
        self.table.value = rates(self.rows, note)
        return note

    def _matched(self, edits: dict[str, Erasure]) -> tuple[dict[str, Erasure], str]:
        """The edits where each first erases, and what to say of it."""
        found, short = {}, []
        self.job.bar.max, self.job.bar.value = len(edits), 0
        for name, edit in edits.items():
            self.job.check()
            self.job.say(f"looking for the strength at which {name} first erases …")
            judge = self.world.judge_of(edit.config.targets)
            found[name], reached = study.matched(self.world, edit, judge)
            short += [] if reached else [name]
            self.job.bar.value += 1
        at = ", ".join(f"{name} at strength {edit.strength:.2g}" for name, edit in found.items())
        level = f"reaches ESR-1 {study.LEVEL:g}"
        if short:
            return found, f"NOT MATCHED: {' and '.join(short)} never {level}; {at}"
        return found, f"matched where each first {level}, on other noise: {at}"

    def _scaled(self) -> Erasure:
        """The edit at the strength of the slider. Raises `EraseError` where there is none."""
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
        """Write the erasure, as strong as the slider says, into a folder of its own."""
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
        self.preserved.value = list(config.preserved)
        if config.method in METHODS:
            self.method.value = config.method
        return f"loaded: {about(edit)}; press Draw again"

    def export(self) -> str:
        """Write the erasure for other tools, as strong as the slider says."""
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


def rates(rows: pd.DataFrame, note: str) -> str:
    """A table in HTML of `study.trial_rows`: a line a group, a column a model, and what is to be
    said of it."""
    signs = ["+" if model in ("difference", "B − A") else "" for model in rows["model"]]
    ends = zip(signs, rows["value"], rows["low"], rows["high"], strict=True)
    said = rows.assign(said=[f"{v:{s}.2f} [{low:.2f}, {high:.2f}]" for s, v, low, high in ends])
    wide = said.set_index(["group", "metric", "n", "model"])["said"].unstack("model", sort=False)
    wide = wide.reset_index().rename_axis(columns=None)
    return f"<p><b>{escape(note)}</b></p>{wide.to_html(index=False)}"

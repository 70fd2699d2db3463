"""The plan of a sweep for the eye: what each run differs in, which repeat another, how long."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from erase_lib.config import CLOSED_FORMS, METHODS, EraseConfig
from erase_lib.sweep.grid import erasure_of, settings
from erase_lib.sweep.run import DONE, RECORD, Case, read_record, shorten

# settings that hang on others: of what is searched, of a search that learns, of closed forms
AMONG = {"search", "vocabulary", "nearest", "candidates", "thinning"}
CLIMBS, CLOSED = {"search_lr", "temperature", "hard"}, {"ridge", "rounds", "per_round", "minimax"}
USED = {"targets", "method", "neutral", "anchors", "preserved", "styles", "vocabulary", "nearest"}
USES = {"uce": {"lam", "ridge", "schedule"}, "speed": {"ridge", "schedule"}}
USES |= {"rece": {"lam", "ridge", "rounds"}, "oce": {"lam"}, "cure": set(), "nlce": set()}


def idle(config: EraseConfig) -> set[str]:
    """The settings that change nothing in an erasure of its method."""
    if config.method in CLOSED_FORMS:
        used = USED | USES.get(config.method, {"lam", "candidates"} | CLOSED)
        used |= {"seed"} if config.schedule == "published" else set()  # of SPEED's noise
        return set(vars(config)) - used
    becomes, keeps = METHODS.get(config.method, ("", ""))
    found = CLOSED | ({"eta"} if becomes == "anchor" else set())
    found |= {"lam", "preserve_batch", "preserve_at"} if keeps == "nothing" else set()
    if keeps != "searched" or config.search == "fixed":
        return found | CLIMBS | AMONG - ({"search"} if keeps == "searched" else set())
    if config.search.startswith("gumbel"):
        return found
    found |= {"nearest", "candidates", "thinning"} if config.search == "pgd" else set()
    return found | CLIMBS - {{"soft": "temperature", "pgd": "search_lr"}.get(config.search, "")}


def repeats(cases: Sequence[Case]) -> str:
    """Which runs erase what another does although their parameters differ; "" for none."""
    first, unused, more = dict[str, Case](), defaultdict[str, set[str]](set), 0
    for case in cases:
        if config := erasure_of(case.values):
            left = {k: v for k, v in config.to_dict().items() if k not in idle(config)}
            others = {k: v for k, v in case.values.items() if k not in vars(config)}
            before = first.setdefault(json.dumps([left, others], sort_keys=True), case).values
            given = settings(case.values)
            unused[config.method] |= {k for k in given if given[k] != before[k]}
            more += before is not case.values
    why = [f"{m} is the same at any {', '.join(sorted(n))}" for m, n in unused.items() if n]
    return f"\n{more} runs erase what another of them does: {'; '.join(why)}" if more else ""


def seconds(
    cases: Sequence[Case], records: Sequence[dict], notebook: str
) -> tuple[list[float], str]:
    """Seconds of finished runs, and which: the grid's own, or beside it of notebook and profile."""
    if own := [r.get("seconds", 0) for r in records if r.get("status") == DONE]:
        return own, "those done"
    profiles = [case.values.get("profile") for case in cases]
    found = [read_record(p.parent) for p in cases[0].folder.parents[1].glob(f"*/*/{RECORD}")]
    found = [r for r in found if (r.get("status"), r.get("notebook")) == (DONE, notebook)]
    found = [r for r in found if r["parameters"].get("profile") in profiles]
    spent = [r["seconds"] for r in found if "seconds" in r]
    return spent, f"{len(found)} of other sweeps beside it"


def overview(cases: Sequence[Case], notebook: str, workers: int = 1) -> str:
    """What each run differs in, its state, what repeats another, and how long the rest may take."""
    rows = pd.DataFrame([case.values for case in cases]).map(shorten)
    records = [case.record() for case in cases]
    rows = rows.loc[:, rows.nunique() > 1]
    rows.insert(0, "(run)", [case.id for case in cases])
    rows["(state)"] = [record.get("status", "to do") for record in records]
    left = sum(record.get("status") != DONE for record in records)
    text = f"{rows.to_string(index=False)}\n{len(cases)} runs, {len(cases) - left} of them done"
    lists = [case.values.get("targets") for case in cases]
    if words := {word: None for some in lists if isinstance(some, list) for word in some}:
        text += f"\n{len(words)} targets: {', '.join(map(repr, words))[:300]}"
    text += repeats(cases)
    spent, which = seconds(cases, records, notebook)
    if spent and left:
        each = sum(spent) / len(spent)
        text += f"\nabout {left * each / workers / 60:.1f} minutes left on {workers} workers"
        text += f" ({each:.0f} s a run, the mean of {which})"
    return text

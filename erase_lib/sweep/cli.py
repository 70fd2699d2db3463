"""A grid of parameters → runs of a notebook → one table: `erase-sweep NOTEBOOK -p name=a,b`."""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import joblib
import pandas as pd
from tqdm import tqdm

from erase_lib.doors import gate
from erase_lib.errors import EraseError, check_range
from erase_lib.files import alone, as_path, check_keys, read_mapping, rooted, writing
from erase_lib.sweep import grid, run
from erase_lib.sweep.ending import one_line
from erase_lib.sweep.overview import overview
from erase_lib.sweep.run import DONE, FAILED, Case, Settings
from erase_lib.sweep.table import collect, publish
from erase_lib.sweep.workers import BACKENDS

EXAMPLES = r"""examples:
  a comma makes runs, six here       erase-sweep NOTEBOOK -p method=esd,eap -p seed=0,1,2
  a plus joins words of one run      erase-sweep NOTEBOOK -p targets=church,dog+cat
  quotes keep a comma or a plus      erase-sweep NOTEBOOK -p 'targets="Salome, 1870"+"C++"'
  two runs at a time                 erase-sweep NOTEBOOK -p seed=0,1,2 --workers 2
  again what broke off, no more      erase-sweep NOTEBOOK -p seed=0,1,2 --only-failed
  leave out what does not fit        erase-sweep NOTEBOOK -p method=esd,ca --skip-invalid
"""


@gate
def plan(
    notebook: str | Path,
    spec: grid.Values,
    out: str | Path,
    most: int = grid.MOST,
    skip_invalid: bool = False,
) -> list[Case]:
    """The cases of a grid (fixed, grid, zip, cases, as in its file), checked against the notebook;
    the same run only once. Raises `EraseError` for the first thing that is wrong; with
    `skip_invalid` settings that do not go together are left out, with a line."""
    known, code = grid.parameters(as_path(notebook)), run.computed(as_path(notebook))
    out = as_path(out).resolve()  # a cluster's workers stand elsewhere
    rows = grid.check(known, grid.expand(spec, most), skip_invalid)
    swept = [name for name in rows[0] if any(row[name] != rows[0][name] for row in rows)]
    there, cases = {path.name[-8:]: path.name for path in out.glob("*-????????")}, {}
    for row in rows:
        names = swept or [name for name in row if row[name] != known[name].default]
        case = run.make_case(out, code, row, {name: row[name] for name in names}, there)
        cases[case.id] = case
    return list(cases.values())


@gate
def sweep(
    notebook: str | Path,
    spec: grid.Values,
    out: str | Path,
    workers: int = 1,
    threads: int | None = None,
    backend: str = "loky",
    scheduler: str | None = None,
    force: bool = False,
    only_failed: bool = False,
    cell_timeout: int = 3600,
    most: int = grid.MOST,
    skip_invalid: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Run a notebook with every case of a grid, each in a folder under `out`; the table of results.
    Finished runs are skipped (unless `force`), failed ones run again, alone with `only_failed`. A
    failure is recorded and the others go on. `workers` processes run side by side, each with
    `threads` (default: the cores divided among them); with `backend` dask or ray the cluster at
    `scheduler` (default: one here), which sees the same files. Raises `EraseError` for a wrong
    grid (see `plan`), or more than `most` runs, before the first, and for a folder in use."""
    check_keys([backend], "backend", BACKENDS)
    if scheduler and backend == "loky":
        raise EraseError(f"scheduler is {scheduler!r}: it needs --backend dask or ray")
    check_range("workers", workers, 1, 512)
    if threads is None:
        threads = 1 if scheduler else max(1, joblib.cpu_count() // workers)
    check_range("threads", threads, 1, 1024)
    check_range("cell_timeout", cell_timeout, 1, 10**7)
    cases, out = plan(notebook, spec, out, most, skip_invalid), as_path(out)
    notebook, commit = as_path(notebook).resolve(), run.git_commit()
    settings = Settings(notebook, uuid.uuid4().hex, threads, cell_timeout, commit, force)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with alone(out / "lock") as before:
            if before:
                print(f"the sweep by {before} broke off: what it finished is kept", file=sys.stderr)
            chosen = select(cases, settings, only_failed)
            seen = progress and not os.environ.get("CI") and sys.stderr and sys.stderr.isatty()
            (out / run.OWNER).write_text(settings.sweep, "utf-8")
            failed: dict[str, str] = {}
            with (
                # an interrupt ends the workers here, not when the generator is forgotten
                closing(BACKENDS[backend](settings, chosen, workers, scheduler)) as records,
                tqdm(records, "sweep", len(chosen), unit="run", disable=not seen) as bar,
            ):
                for record in bar:
                    if record["status"] == FAILED:
                        failed[record["id"]] = record["error"]
                    bar.set_postfix(failed=len(failed))
            found = collect(out, [case.id for case in cases])
            if failed:  # a folder that cannot be written to does not say why
                found["error"] = found["error"].fillna(found["id"].map(failed))
            return found


def select(cases: Sequence[Case], settings: Settings, only_failed: bool) -> list[Case]:
    """The cases to run now: what is not done, or also that, or only what was begun and failed."""
    chosen, other = [], 0
    for case in cases:
        record = case.record()
        done = record.get("status") == DONE
        if (record and not done) if only_failed else (settings.force or not done):
            chosen.append(case)
        elif done:
            other += record.get("git_commit") != settings.commit
    if other:
        said = f"{other} finished runs are of another commit than {settings.commit}"
        print(f"{said}: --force runs them again", file=sys.stderr)
    return chosen


@partial(one_line, bad=2, name="erase-sweep: ")
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit status: 0 all done, 1 some failed, 2 bad input, 128 + a signal's."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] != ["collect"]:
        return started(words)
    parser = argparse.ArgumentParser("erase-sweep collect", description=collect.__doc__)
    parser.add_argument("out", help="the folder of a sweep")
    folder = as_path(parser.parse_args(words[1:]).out)
    return report(collect(folder), folder)


def started(words: Sequence[str]) -> int:
    """`erase-sweep NOTEBOOK …`."""
    parser = argparse.ArgumentParser("erase-sweep", description=__doc__, epilog=EXAMPLES)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("notebook", nargs="?", help="what to run; or `collect` and a folder")
    note = "a parameter's values, a run each; in every combination with the others"
    parser.add_argument("-p", action="append", default=[], metavar="NAME=A,B", help=note)
    parser.add_argument("--grid", metavar="FILE", help="YAML: notebook, fixed, grid, zip, cases")
    parser.add_argument("--out", help="runs/NOTEBOOK if absent")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--workers", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, help="of each worker; the cores shared if absent")
    parser.add_argument("--backend", default="loky", help=", ".join(BACKENDS))
    parser.add_argument("--scheduler", help="address of a Dask or Ray cluster")
    parser.add_argument("--force", action="store_true", help="run again what is done too")
    parser.add_argument("--only-failed", action="store_true", help="of what was begun, what failed")
    note = "leave out settings that do not go together, a line each"
    parser.add_argument("--skip-invalid", action="store_true", help=note)
    parser.add_argument("--cell-timeout", type=int, default=3600, help="seconds")
    parser.add_argument("--most", type=int, default=grid.MOST, help="runs that a grid may have")
    parser.add_argument("--publish", metavar="FOLDER", help="put the table there too")
    given = vars(parser.parse_args(words))
    paths = {name: given[name] for name in ("notebook", "grid", "out", "publish")}
    given |= {name: as_path(path) for name, path in paths.items() if path is not None}
    pairs, file, dry, target = map(given.pop, ("p", "grid", "dry_run", "publish"))
    spec = read_mapping(file, "grid", grid.SECTIONS) if file else {}
    if file and spec.get("notebook") is not None:  # a path from the grid file on
        given["notebook"] = given["notebook"] or file.parent / as_path(str(spec["notebook"]))
    if not given["notebook"]:
        raise EraseError("no notebook: name one, or write `notebook: PATH` into the grid file")
    asked = grid.read_arguments(pairs)  # they replace what the file says
    for name in ("fixed", "grid"):
        spec[name] = {k: v for k, v in grid.section(spec, name).items() if k not in asked}
    spec["grid"] |= asked
    out = given["out"] = given["out"] or rooted(Path("runs") / given["notebook"].stem)
    if dry:
        cases = plan(given["notebook"], spec, out, given["most"], given["skip_invalid"])
        print(overview(cases, given["notebook"].name, max(1, given["workers"])))
        return 0
    found = sweep(spec=spec, **given)
    status = report(found, out)
    if target and not status:
        with writing(target):
            publish(found, out, target, file or given["notebook"])
    return status


def report(found: pd.DataFrame, out: Path) -> int:
    """Say how it ended; 1 if a run failed."""
    bad = found[(found["status"] != DONE) | found["error"].notna()]
    for row in bad.fillna({"error": "run the sweep again"}).itertuples():
        print(f"{row.status}: {row.id}: {row.error}", file=sys.stderr)
    print(f"{len(found) - len(bad)} of {len(found)} runs done, table in {out / 'results.csv'}")
    return int(len(bad) > 0)


if __name__ == "__main__":
    sys.exit(main())

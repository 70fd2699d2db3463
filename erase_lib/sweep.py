"""A grid of parameters → runs of a notebook → one table: `erase-sweep NOTEBOOK -p name=a,b`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import pandas as pd
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm import tqdm

from erase_lib import batch, grid
from erase_lib.batch import DONE, FAILED, RUNNING, Case
from erase_lib.collect import collect, publish
from erase_lib.errors import EraseError, reason, unknown
from erase_lib.lock import alone

BACKENDS = ("loky", "dask", "ray")
Work = Callable[[Case], dict[str, Any]]


class Place(NamedTuple):
    """Where runs are done: joblib's backend, the cluster's address, processes side by side."""

    backend: str
    scheduler: str | None
    workers: int


def plan(notebook: str | Path, spec: grid.Values, out: str | Path) -> list[Case]:
    """The cases of a grid, checked against the notebook; the same run only once.

    `spec` has the sections of a grid file: fixed, grid, zip, cases (its `notebook` is for the
    command line). Raises `EraseError` for the first thing that is wrong.
    """
    notebook, known = Path(notebook), grid.parameters(notebook)
    values = grid.check(known, grid.expand(spec))
    code, out = batch.content(notebook), Path(out)
    cases = {case.id: case for v in values if (case := batch.make_case(out, code, known, v))}
    return list(cases.values())


def table(cases: Sequence[Case], workers: int = 1) -> str:
    """The plan for the eye: what each run differs in, its state, and how long the rest may take."""
    rows = pd.DataFrame([case.values for case in cases]).map(batch.shorten)
    rows = rows.loc[:, rows.nunique() > 1]
    records = [case.record() for case in cases]
    rows.insert(0, "run", [case.id for case in cases])
    rows["state"] = [record.get("status", "to do") for record in records]
    spent = [r["seconds"] for r in records if r.get("status") == DONE]
    left = len(cases) - len(spent)
    lines = [rows.to_string(index=False), f"{len(cases)} runs, {len(spent)} of them done"]
    if spent and left:
        each = sum(spent) / len(spent)
        lines.append(
            f"about {left * each / workers / 60:.1f} minutes left on {workers} workers"
            f" ({each:.0f} s a run, the mean of those done)"
        )
    return "\n".join(lines)


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
    progress: bool = True,
) -> pd.DataFrame:
    """Run a notebook with every case of a grid, each in a folder under `out`; the table of results.

    Finished runs are skipped (unless `force`), failed ones run again, alone with `only_failed`. A
    run that fails is recorded and the others go on. `workers` processes run side by side, each with
    `threads` (default: the cores divided among them). With `backend` dask or ray the cluster at
    `scheduler` (default: one on this machine) does the work; it sees the same files. Raises
    `EraseError` for a wrong grid before the first run, and when another sweep uses the folder.
    """
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    for name, value in (("workers", workers), ("threads", threads), ("cell_timeout", cell_timeout)):
        if value is not None and value < 1:
            raise EraseError(f"{name} is {value}: expected 1 or more")
    cases, out, notebook = plan(notebook, spec, out), Path(out), Path(notebook).resolve()
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with alone(out / "lock") as before:
            if before:
                print(f"the sweep by {before} broke off: what it finished is kept", file=sys.stderr)
            chosen = select(cases, force, only_failed)
            work = partial(
                batch.execute,
                notebook,
                threads=threads,
                cell_timeout=cell_timeout,
                commit=batch.git_commit(),
            )
            run_all(work, chosen, Place(backend, scheduler, workers), progress)
            return collect(out, [case.id for case in cases])
    except OSError as error:
        raise EraseError(f"cannot write to {out} ({reason(error)}): free space") from None


def select(cases: Sequence[Case], force: bool, only_failed: bool) -> list[Case]:
    """The cases to run now. They have no record any more, and with `force` no files at all."""
    commit, chosen, other = batch.git_commit(), [], 0
    for case in cases:
        record = case.record()
        state = record.get("status")
        other += state == DONE and record.get("git_commit") != commit and not force
        if force or (state == FAILED if only_failed else state != DONE):
            chosen.append(case)
            batch.forget(case, force)
    if other:
        print(
            f"{other} finished runs are of another commit than {commit}: --force runs them again",
            file=sys.stderr,
        )
    return chosen


def run_all(work: Work, cases: Sequence[Case], place: Place, progress: bool) -> None:
    """Execute the cases; one line tells how far it is. A worker's death fails the runs that were
    at work, for it takes the pool of workers with it, and the sweep goes on with the others."""
    quiet = not progress or bool(os.environ.get("CI")) or not sys.stderr.isatty()
    failed, left = 0, list(cases)
    with tqdm(total=len(left), desc="sweep", unit="run", disable=quiet) as bar:
        while left:
            with suppress(BrokenProcessPool):
                for record in executed(work, left, place):
                    failed += record["status"] == FAILED
                    bar.set_postfix(failed=failed)
                    bar.update()
                return
            for case in left:
                if case.status == RUNNING:
                    batch.fail(case, "the worker's process died (killed, or out of memory)")
            left = [case for case in left if not case.status]
            bar.update(len(cases) - len(left) - bar.n)


def executed(work: Work, cases: Sequence[Case], place: Place) -> Iterator[dict[str, Any]]:
    """The cases' records, each as soon as its run has ended."""
    with ExitStack() as stack:
        stack.enter_context(joblib.parallel_config(**cluster(stack, place)))
        # Ray's joblib backend gives no results before the last
        how = "list" if place.backend == "ray" else "generator_unordered"
        # one run a task: batches of them would leave workers idle at the end
        parallel = joblib.Parallel(return_as=how, batch_size=1)
        yield from parallel(joblib.delayed(work)(case) for case in cases)


def cluster(stack: ExitStack, place: Place) -> dict[str, Any]:
    """joblib's options, connected to the cluster until the stack is closed.

    Raises `EraseError` when the backend is not installed, or nothing answers at `scheduler`.
    """
    backend, scheduler, workers = place
    try:
        if backend == "dask":
            from distributed import Client

            own = {} if scheduler else {"n_workers": workers, "threads_per_worker": 1}
            stack.enter_context(Client(scheduler, **own))
        elif backend == "ray":
            import ray
            from ray.util.joblib import register_ray

            ray.init(scheduler, num_cpus=None if scheduler else workers, log_to_driver=False)
            stack.callback(ray.shutdown)
            register_ray()
    except ImportError:
        raise EraseError(f"{backend} is missing: pip install 'erase-lib[{backend}]'") from None
    except (OSError, ValueError, ConnectionError) as error:
        raise EraseError(f"no {backend} cluster at {scheduler} ({reason(error)})") from None
    return {"backend": backend, "n_jobs": -1 if scheduler else workers}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status: 0 all done, 1 some failed, 2 bad input."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["collect"]:
            folder = command("erase-sweep collect").parse_args(words[1:]).out
            return report(collect(folder), folder)
        return run(words)
    except EraseError as error:
        print(f"erase-sweep: {error}", file=sys.stderr)
        return 2


def command(name: str) -> argparse.ArgumentParser:
    """The parser that both commands begin with."""
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").splitlines()[0])
    if name.endswith("collect"):
        parser.add_argument("out", type=Path, help="the folder of a sweep")
    return parser


def run(words: Sequence[str]) -> int:
    """`erase-sweep NOTEBOOK …`."""
    parser = command("erase-sweep")
    parser.add_argument("notebook", nargs="?", help="what to run; or `collect` and a folder")
    parser.add_argument("-p", action="append", default=[], metavar="NAME=A,B", dest="pairs")
    parser.add_argument("--grid", metavar="FILE", help="YAML: notebook, fixed, grid, zip, cases")
    parser.add_argument("--out", type=Path, help="runs/NOTEBOOK if absent")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of each worker; the cores shared if absent")
    parser.add_argument("--backend", default="loky", help=", ".join(BACKENDS))
    parser.add_argument("--scheduler", help="address of a Dask or Ray cluster")
    parser.add_argument("--force", action="store_true", help="also what is done")
    parser.add_argument("--only-failed", action="store_true")
    parser.add_argument("--cell-timeout", type=int, default=3600, help="seconds")
    parser.add_argument("--publish", type=Path, metavar="FOLDER", help="put the table there too")
    given = vars(parser.parse_args(words))
    pairs, file, dry = given.pop("pairs"), given.pop("grid"), given.pop("dry_run")
    spec = grid.read_yaml(file) if file else {}
    if file and "notebook" in spec:  # a path from the grid file on
        given["notebook"] = given["notebook"] or Path(file).parent / str(spec["notebook"])
    if not given["notebook"]:
        raise EraseError("no notebook: name one, or write `notebook: PATH` into the grid file")
    spec["grid"] = dict(spec.get("grid") or {}) | grid.read_arguments(pairs)["grid"]
    out = given["out"] = given["out"] or Path("runs") / Path(given["notebook"]).stem
    shown, target = (
        table(plan(given["notebook"], spec, out), given["workers"]),
        given.pop("publish"),
    )
    print(shown)
    if dry:
        return 0
    found = sweep(spec=spec, **given)
    if target and not report(found, out):
        publish(found, target, Path(file or given["notebook"]))
        return 0
    return report(found, out)


def report(found: pd.DataFrame, out: Path) -> int:
    """Say how it ended; 1 if a run failed."""
    bad = found[found["status"] != DONE]
    for row in bad.itertuples():
        print(f"{row.status}: {row.id}: {row.error or 'run the sweep again'}", file=sys.stderr)
    print(f"{len(found) - len(bad)} of {len(found)} runs done, table in {out / 'results.csv'}")
    return int(len(bad) > 0)


if __name__ == "__main__":
    sys.exit(main())

"""How smoothly the map of concepts moves: frames a second in headless Chromium.

    python -m tools.benchmarks.map_fps --out data/results/map_fps.json

The explorer's figure with as many points as there are concepts here, words of a large list, and
tokens of Stable Diffusion. Dragged: the mouse holds the map and moves; zoomed: its axes are set
anew, each frame waiting for the last. Python, to which a notebook's map also speaks, is
not part of it. Every size is measured `--repeats` times, for what else the machine does costs
frames: the best is what the map can do, the least stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from erase_lib.files import whole
from erase_lib.show.map import map_figure
from tools import one_line
from tools.chromium import chromium

SIZES = (428, 5_000, 49_408)
# WebGL by the processor, where there is no graphics card
ARGUMENTS = ["--no-sandbox", "--enable-unsafe-swiftshader"]
DRAG = """async (seconds) => {
  const map = document.querySelector('.plotly-graph-div'), at = map.querySelector('.nsewdrag');
  const {x, y, width, height} = at.getBoundingClientRect();
  const send = (kind, to, right, down) => to.dispatchEvent(new MouseEvent(kind, {
    bubbles: true, cancelable: true, view: window, buttons: 1,
    clientX: x + width / 2 + right, clientY: y + height / 2 + down,
  }));
  let frames = 0;
  map.on('plotly_relayouting', () => { frames += 1; });
  const begin = performance.now();
  send('mousedown', at, 0, 0);
  while (performance.now() - begin < 1000 * seconds) {
    const turn = 3 * (performance.now() - begin) / 1000;
    const cover = document.querySelector('.dragcover') ?? document;
    send('mousemove', cover, 150 * Math.sin(turn), 150 * Math.cos(turn));
    await new Promise(requestAnimationFrame);
  }
  const spent = performance.now() - begin;
  send('mouseup', document.querySelector('.dragcover') ?? document, 0, 0);
  return 1000 * frames / spent;
}"""
ZOOM = """async (seconds) => {
  const at = document.querySelector('.plotly-graph-div');
  const ends = ['xaxis', 'yaxis'].map((name) => [name, ...at._fullLayout[name].range]);
  const begin = performance.now();
  let frames = 0;
  while (performance.now() - begin < 1000 * seconds) {
    const part = 0.55 + 0.4 * Math.cos(3 * (performance.now() - begin) / 1000);
    const range = ([name, low, high]) => [`${name}.range`, [low * part, high * part]];
    await Plotly.relayout(at, Object.fromEntries(ends.map(range)));
    await new Promise(requestAnimationFrame);
    frames += 1;
  }
  return 1000 * frames / (performance.now() - begin);
}"""
RENDERER = """() => {
  const gl = document.createElement('canvas').getContext('webgl');
  const known = gl && gl.getExtension('WEBGL_debug_renderer_info');
  return known ? gl.getParameter(known.UNMASKED_RENDERER_WEBGL) : 'no WebGL';
}"""


def points(n: int) -> pd.DataFrame:
    """A map of n words in a round cloud, each with a δ."""
    x, y, delta = np.random.default_rng(0).normal(size=(3, n))
    words = ["church", *(f"word {i}" for i in range(1, n))]
    return pd.DataFrame({"concept": words, "x": x, "y": y, "delta": delta})


def row(n: int, drags: Sequence[float], zooms: Sequence[float]) -> dict[str, Any]:
    """What was measured of one size: the best and the least of its repeats."""
    found: dict[str, Any] = {"points": n, "n": len(drags)}
    for name, rates in (("dragged", drags), ("zoomed", zooms)):
        found |= {name: round(max(rates), 1), f"{name}, least": round(min(rates), 1)}
    return found


def measure(sizes: Sequence[int], seconds: float, repeats: int) -> dict[str, Any]:
    """The machine, and a row a size. Raises `EraseError` where Chromium is missing."""
    from playwright.sync_api import sync_playwright  # of `dev`, as the explorers' tests

    rows = []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        for n in sizes:
            file = Path(folder) / f"{n}.html"
            figure = map_figure(points(n), "church")
            file.write_text(figure.to_html(include_plotlyjs=True), "utf-8")
            drags, zooms = [], []
            for _ in range(repeats):
                page.goto(file.as_uri())
                page.wait_for_selector(".main-svg")
                drags.append(page.evaluate(DRAG, seconds))
                zooms.append(page.evaluate(ZOOM, seconds))
            rows.append(row(n, drags, zooms))
            print(rows[-1], file=sys.stderr)
        machine = {"machine": platform.machine(), "cores": os.cpu_count()}
        machine |= {"chromium": browser.version, "drawn by": page.evaluate(RENDERER)}
        browser.close()
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return machine | {"load": load, "seconds": seconds, "rows": rows}


@one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(prog="tools.benchmarks.map_fps", description=__doc__)
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--seconds", type=float, default=4, help="of each drag and zoom")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args(arguments)
    found = measure(chosen.sizes, chosen.seconds, chosen.repeats)
    if chosen.out:
        with whole(chosen.out) as (path,):
            path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(pd.DataFrame(found["rows"]).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())

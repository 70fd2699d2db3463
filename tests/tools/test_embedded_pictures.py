"""Building the pictures: icon sets read by code point, and packages that do not come."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile

import numpy as np
import pytest
from PIL import Image

from tools.embedded import pictures


def archive(path, **files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            raw = json.dumps(content).encode()
            entry = tarfile.TarInfo(f"package/{name}.json")
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))
    return path


def test_icons_are_found_by_code_point_and_a_cropped_one_stands_in_the_middle(tmp_path):
    box = '<path fill="#f00" d="M0 0h8v4h-8z"/>'
    icons = {"icons": {"a": {"body": box, "height": 4}, "b": {"body": box}}, "width": 8}
    names = {"1f6d2": "a", "2764-fe0f": "b", "1f34a": "turned"}
    package = archive(tmp_path / "set.tgz", icons=icons | {"height": 8}, chars=names)
    found = pictures.read_icons(package)
    assert found.keys() == {"1F6D2", "2764"}
    for key, rows in (("1F6D2", slice(4, 12)), ("2764", slice(0, 8))):
        png = pictures.to_png(found[key], True, 16)
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        assert pixels.shape == (16, 16, 3)
        red = (pixels == (255, 0, 0)).all(2)
        assert red[rows].all() and red.sum() == 8 * 16


def test_a_package_that_does_not_come_is_one_line(tmp_path, monkeypatch, refused):
    def missing(*_, **__):
        raise FileNotFoundError("npm")

    def offline(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr="npm error\nENOTFOUND")

    for fails, words in ((missing, "Node.js"), (offline, "openmoji 17.0.0 ENOTFOUND again")):
        monkeypatch.setattr(subprocess, "run", fails)
        refused(pictures.fetch, "openmoji", "17.0.0", tmp_path, says=words)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_download_leaves_no_archive_and_a_damaged_one_is_named(
    tmp_path, monkeypatch, refused
):
    def half(command, cwd, **_):
        with open(f"{cwd}/openmoji-17.0.0.tgz", "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", half)
    with pytest.raises(KeyboardInterrupt):
        pictures.fetch("openmoji", "17.0.0", tmp_path)
    assert not list(tmp_path.iterdir())
    (damaged := tmp_path / "openmoji-17.0.0.tgz").write_bytes(b"half")
    refused(pictures.read_folder, damaged, "color/svg", says="openmoji-17.0.0.tgz damaged delete")


def test_a_command_ends_with_one_line(tmp_path, capsys):
    damaged = tmp_path / "emojibase-data-17.0.0.tgz"
    damaged.write_bytes(b"half")
    assert pictures.main(["--packages", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{damaged} is damaged") and said.count("\n") == 1

"""A job in the background: one at a time, its end or its error in one line."""

from __future__ import annotations

import threading

import ipywidgets as w
import pytest

from erase_lib import EraseError
from erase_lib.show.jobs import Job, canvas, picture, png, put


def done(job, work) -> str:
    job.start(work, "working")
    job.wait(60)
    assert not job.running
    return job.status.value


def test_a_job_says_what_went_wrong_and_never_raises():
    def wrong():
        raise EraseError("the value is <7>")

    def broken():
        raise ZeroDivisionError("division by zero")

    job = Job([])
    assert "✗ the value is &lt;7&gt;" in done(job, wrong)
    assert "✗ ZeroDivisionError: division by zero" in done(job, broken)
    assert done(job, lambda: "fine") == "fine"


def test_one_job_at_a_time_can_be_stopped():
    button, stop, go = w.Button(), w.Button(), threading.Event()
    job = Job([button], stop)
    assert stop.disabled

    def work():
        go.wait(60)
        job.check()
        return "not stopped"

    job.start(work, "working")
    job.start(lambda: "another", "another")  # ignored
    assert button.disabled and not stop.disabled and job.running
    job.stop()
    go.set()
    job.wait(60)
    assert job.status.value == "stopped" and not button.disabled and stop.disabled


def test_a_picture_is_hidden_until_there_is_one():
    image = picture()
    assert image.layout.display == "none"
    put(image, png(canvas(1, 1).figure))
    assert image.value[:4] == b"\x89PNG" and image.layout.display is None
    put(image, b"")
    assert image.layout.display == "none"


def test_a_job_that_is_told_to_stop_raises_where_it_checks():
    job = Job([])
    job.check()
    job.stop()
    with pytest.raises(KeyboardInterrupt):
        job.check()

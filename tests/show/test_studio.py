"""The studio's whole story, as plain method calls: no browser."""

from __future__ import annotations

import pandas as pd
import pytest

from erase_lib import EraseError, Erasure, study
from erase_lib.hold import held
from erase_lib.measure import pictures
from erase_lib.show import explorers, risks
from erase_lib.show.risks import check_word
from erase_lib.show.studio import Studio


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(explorers, "STEPS", 1)


def done(job, work) -> str:
    job.start(work, "working")
    job.wait(120)
    assert not job.running
    return job.status.value


def test_the_studio_erases_draws_and_saves(tiny, tmp_path):
    studio = Studio(tiny, tmp_path, steps=6)
    studio.word.value, studio.method.value = " church ", "esd"
    assert "“church” erased" in done(studio.job, studio.erase)
    assert len(studio.edit.history) == 6 and studio.job.bar.value == studio.job.bar.max
    assert studio.strip.value[:4] == studio.losses.value[:4] == b"\x89PNG"
    first = studio.strip.value
    studio.strength.value = 2.0
    done(studio.job, studio.draw)
    assert studio.strip.value != first
    assert "saved to" in done(studio.job, studio.save)
    assert Erasure.load(tmp_path / "church-esd-2.0").strength == 2.0


def test_stop_keeps_the_updates_done(tiny, tmp_path):
    studio = Studio(tiny, tmp_path, steps=50)
    studio.method.value = "esd"
    watch = studio.watch

    def pressed(run):
        if len(run.history) == 4:
            studio.job.stop()
        watch(run)

    studio.watch = pressed
    said = done(studio.job, studio.erase)
    assert "stopped after 4 of 50 updates, which are kept" in said
    assert len(studio.edit.history) == 4 and studio.edit.partial
    assert not any(b.disabled for b in studio.job.buttons)


def test_a_button_says_who_holds_the_pipeline(tiny, tmp_path):
    studio = Studio(tiny, tmp_path, steps=2)
    with held(tiny.unet, "erasing dog"):
        assert "✗ the pipeline is in use by MainThread (erasing dog" in done(
            studio.job, studio.erase
        )
    studio.method.value = "esd"
    assert "“church” erased" in done(studio.job, studio.erase)


def test_what_cannot_be_erased_is_said_in_the_studio(tiny, tmp_path):
    studio = Studio(tiny, tmp_path)
    assert "press Erase" in done(studio.job, studio.draw)
    assert "press Erase" in done(studio.job, studio.save)
    for word, said in (("", "the concept is empty"), ("chruch", "unknown word"), ("   ", "empty")):
        studio.word.value = word
        assert said in done(studio.job, studio.erase)
    check_word(studio.world, "people dog")  # common English words, one or more
    with pytest.raises(EraseError, match="'blorptastic'"):
        check_word(studio.world, "blorptastic dog")


def test_whom_would_it_hurt_protect_these_erase_again_and_compare(tiny, tmp_path):
    studio = Studio(tiny, tmp_path, steps=2)
    job, who = studio.job, studio.risks
    assert "press Predict" in done(job, who.lay_out) and not studio.strip.value
    studio.word.value = "snake"
    assert "how near the words are: no evaluation" in done(job, who.predict)
    names = who.most(["snake"], 3)
    assert "snake" not in who.table["concept"].tolist() and who.strip.value[:4] == b"\x89PNG"
    assert who.hurt.options[0] == (f"1. {names[0]}", names[0])
    assert f"1. {names[0]}, 2. {names[1]}" in who.words.value
    assert "nobody is chosen" in done(job, who.preserve)

    studio.method.value = "eap"
    done(job, studio.erase)
    assert studio.edit.config.preserved == () and studio.edit.config.search == "random"
    assert "there is no A yet" in done(job, studio.compare)
    assert "kept as A" in done(job, studio.keep)

    who.hurt.value, who.other.value = names[:2], "banjo"
    said = done(job, who.preserve)
    assert all(name in said for name in [*names[:2], "banjo"])
    done(job, who.lay_out)
    who.add(["dog", "banjo"])
    assert who.kept() == [*names[:2], "banjo", "dog"]
    studio.preserved.value += ", "  # as it is typed
    done(job, studio.erase)
    assert studio.edit.config.preserved == (*names[:2], "banjo", "dog")
    assert studio.edit.config.search == "fixed"

    assert "NOT MATCHED" in done(job, studio.compare)
    kept = studio.seen[studio.seen["group"] == "preserved"]
    assert set(kept["concept"]) == set(who.kept())
    same = [
        part[["prompt", "seed"]].reset_index(drop=True) for _, part in studio.seen.groupby("model")
    ]
    assert len(same) == 3 and same[0].equals(same[1]) and same[1].equals(same[2])
    rows = studio.rows.set_index(["group", "model"])
    assert rows.loc[("target", "A"), "metric"] == "ESR-1" and rows.loc[("target", "A"), "n"] == 8
    a, b, apart = (rows.loc[("preserved", m), "value"] for m in ("A", "B", "B − A"))
    assert apart == pytest.approx(b - a) and "NOT MATCHED" in studio.table.value
    for name in ("A", "B"):
        sides = (studio.seen[studio.seen["model"] == m] for m in ("original", name))
        worst, lost = next(iter(study.most_hurt(*sides).items()))
        assert f"{name}: most hurt, δ of 2: {worst} {lost:+.2f}" in studio.table.value

    assert "saved to" in done(job, studio.save)
    studio.saved.value = studio.saved.options[0]
    studio.preserved.value, studio.edit, studio.tabs.selected_index = "", None, 3
    assert "loaded: “snake” erased by eap" in done(job, studio.load)
    assert who.kept() == [*names[:2], "banjo", "dog"] and studio.tabs.selected_index == 2
    studio.kind.value = "lora"
    assert "exported to" in done(job, studio.export)
    assert "written to" in done(job, studio.write)
    assert (tmp_path / "seen-001" / "pictures.png").read_bytes() == studio.strip.value
    assert set(pd.read_csv(tmp_path / "seen-001" / "rates.csv")["model"]) > {"A", "B", "B − A"}

    studio.word.value = "church"
    studio.preserved.value, studio.method.value = "", "uce"
    done(job, studio.erase)
    assert "A erases snake and B church" in done(job, studio.compare)


def test_kv_and_drafts_predict_too(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(risks, "DRAFTED", 3)
    studio = Studio(tiny, tmp_path)
    for how, n in (("kv", len(studio.world.words) - 1), ("draft", 3)):
        studio.risks.predictor.value = how
        assert f"{n} words predicted by" in done(studio.job, studio.risks.predict)
        table = studio.risks.table
        assert len(table) == n and table["prediction"].is_monotonic_decreasing
    assert studio.risks.most(["dog"], 2) == []  # predicted for another target


def test_matched_edits_say_where_and_those_that_cannot_be_say_so(tiny, tmp_path, monkeypatch):
    studio = Studio(tiny, tmp_path)
    studio.method.value = "uce"
    done(studio.job, studio.erase)
    done(studio.job, studio.keep)
    assert done(studio.job, studio.measure).count("NOT MATCHED: erased at strength 1,") == 1
    studio.match.value, reached = True, [True, True, True]

    def half(world, edit, judge, eye, progress):
        progress(0.5)
        moved.append(studio.job.bar.value)
        return edit.scaled(tiny, 0.5), reached.pop()

    moved: list[float] = []
    monkeypatch.setattr(study, "matched", half)
    assert "erased at strength 0.5; measured by" in done(studio.job, studio.measure)
    said = done(studio.job, studio.compare)
    assert moved == [0.5, 0.25, 0.75]
    assert "matched where each first" in said and "NOT" not in said and "B at strength 0.5" in said
    apart = studio.rows[studio.rows["model"] == "B − A"]
    assert (apart["value"] == 0).all() and len(apart)  # the same edit twice
    reached += [True, False]
    assert "NOT MATCHED: A never reaches" in done(studio.job, studio.compare)


def test_measure_counts_a_style_by_its_style(tiny, tmp_path):
    studio = Studio(tiny, tmp_path)
    studio.word.value, studio.method.value = "noto style", "uce"
    done(studio.job, studio.erase)
    assert "measured by emoji-judge" in done(studio.job, studio.measure)
    target = studio.seen[studio.seen["group"] == "target"]
    assert (target["rank"] == target["style_rank"]).all() and (target["style"] == "noto").all()
    assert "noto" not in set(studio.seen["style"][studio.seen["group"] != "target"])
    assert "most hurt, δ of 2" in studio.table.value


def test_what_preserves_nobody_says_so_and_nothing_is_lost(tiny, tmp_path):
    studio = Studio(tiny, tmp_path, steps=2)
    studio.word.value, studio.method.value = "church, castle", "esd"
    studio.preserved.value = "dog"
    assert "method &#x27;esd&#x27;" in done(studio.job, studio.erase)
    studio.preserved.value = ""
    assert "“church, castle” erased" in done(studio.job, studio.erase)
    assert studio.edit.config.targets == ("church", "castle")
    studio.job.stopping.set()
    with pytest.raises(KeyboardInterrupt):
        studio.measure()
    assert studio.edit and studio.seen["shown"].all()  # what was seen before


def test_drafts_and_matching_move_the_bar_and_hear_stop(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(risks, "DRAFTED", 9)
    monkeypatch.setattr(pictures, "CACHE", tmp_path / "cache")  # nothing is drawn yet
    studio, moved = Studio(tiny, tmp_path), list[float]()
    studio.method.value, studio.risks.predictor.value = "uce", "draft"
    studio.job.bar.observe(lambda change: moved.append(change["new"]), "value")
    done(studio.job, studio.risks.predict)
    assert 0 < moved[0] < 0.5 and len(moved) > 5  # two sides of three batches, and the strip
    done(studio.job, studio.erase)
    studio.match.value = True
    moved.clear()
    done(studio.job, studio.measure)
    falls = (i for i in range(1, len(moved)) if moved[i] < moved[i - 1])
    assert next(falls) > 5  # three strengths or four, in two batches each, before it is drawn

    for work in (studio.risks.predict, studio.measure):
        heard = []

        def pressed(change, heard=heard):
            if change["new"] > 0 and not heard:
                heard.append(change["new"])
                studio.job.stop()

        studio.job.bar.observe(pressed, "value")
        assert done(studio.job, work) == '<span role="status">stopped</span>'
        studio.job.bar.unobserve(pressed, "value")
        assert heard[0] < 1 and not any(button.disabled for button in studio.job.buttons)

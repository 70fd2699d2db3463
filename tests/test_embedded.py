"""The trainings of the embedded model: a killed run continues with what it had."""

from __future__ import annotations

from embedded import clip


def test_a_resumed_training_keeps_its_vocabulary(tmp_path, monkeypatch):
    first = clip.trained_tokenizer(tmp_path).get_vocab()
    monkeypatch.setattr(clip, "train_tokenizer", lambda folder: 1 / 0)
    assert clip.trained_tokenizer(tmp_path).get_vocab() == first

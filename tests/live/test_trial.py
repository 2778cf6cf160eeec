"""A model's folder and a text file to try things on."""

from pathlib import Path

import pytest

from analysis.lab.documents import documents
from analysis.live import trial as trials
from analysis.live.trial import Trial, trial


@pytest.fixture(autouse=True)
def few(monkeypatch, tmp_path):
    """A folder of results of one test's own, and the smallest model and text."""
    monkeypatch.setattr(trials.paths, "runs", lambda: tmp_path)
    monkeypatch.setattr(trials, "SMALL", "lab/tiny")
    monkeypatch.setattr(trials, "STORIES", 3)


def test_what_is_given_is_taken_and_nothing_is_made(tmp_path):
    assert trial("./mine", "notes.txt", "out") == Trial("./mine", "notes.txt", "out")
    assert not (tmp_path / "own_model" / "model").exists()


@pytest.mark.slow
def test_what_is_left_empty_is_made_once(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from analysis.models.load import load_model

    made = trial()
    assert made == trial() and Path(made.out) == tmp_path / "own_model"
    loaded, lab = AutoModelForCausalLM.from_pretrained(made.model).eval(), load_model("lab/tiny")
    ids = torch.tensor([AutoTokenizer.from_pretrained(made.model)("On a rainy Friday")["input_ids"]])
    with torch.inference_mode():
        assert torch.equal(loaded(input_ids=ids).logits, lab.model(input_ids=ids).logits)
    text = Path(made.text).read_text("utf-8")
    written = documents("stories")
    assert text.rstrip("\n").split("\n\n") == [next(written).text for _ in range(3)]
    Path(made.text).write_text("mine")
    assert trial().text == made.text and Path(made.text).read_text() == "mine"

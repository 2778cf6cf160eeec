"""What `analysis check` computes: the replay of every block, and the matrices."""

import pytest

from analysis.commands.check import replay_and_matrices
from analysis.models import replay
from analysis.models.anatomy import anatomy
from analysis.models.load import LoadedModel, load_model
from tests.helpers.families import tiny


@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_an_exact_replay_and_every_matrix(family):
    model = tiny(family)
    report = replay_and_matrices(LoadedModel(model, None, family, ""))
    assert report["ok"] and report["tolerance"] == 1e-5 and len(report["replay"]) == 4
    assert list(report["matrices"][0]) == ["block", "matrix", "half", "rows", "columns", "weights"]
    weights = sum(matrix.weight().numel() for _, matrix in anatomy(model).matrices())
    assert sum(row["weights"] for row in report["matrices"]) == weights


def test_a_replay_that_is_not_exact_is_reported(monkeypatch):
    monkeypatch.setattr(
        replay.Recording,
        "call",
        lambda self, block, *rest, true=replay.Recording.call, **more: true(self, 0, *rest, **more),
    )
    assert not replay_and_matrices(LoadedModel(tiny("gemma3"), None, "gemma3", ""))["ok"]


@pytest.mark.real_assets
def test_stories260k(assets):
    report = replay_and_matrices(load_model(str(assets / "stories260K"), device="cpu"))
    assert report["ok"] and len(report["matrices"]) == 5 * 7

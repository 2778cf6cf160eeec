"""Two ranks do what one process does: every word, uneven shares, padding; to rounding where sums are added up."""

import math
from pathlib import Path

import pytest
import torch

from analysis import distributed
from analysis.pruning.loop import prune
from analysis.streams import streams
from tests.helpers.ranks import ended, start
from tests.helpers.recipes import MEASURED, RECIPES, model
from tests.helpers.small import small_llama, windows

NEAR = 1e-6
SINGLE = [f"float32 {text}" for text in ("wanda-50% BR+GP[epochs=3,batch=4]", "sparsegpt-50%[columns=8] ridge")]
MEASURING = (MEASURED, "influence-blocks-1 refit+GP")
CASES = [*RECIPES, *SINGLE]


def result(case: str) -> dict:
    """What a recipe makes of five windows, one chunk each, the last alone in its batch of two; of a held-out text of
    one window the second rank has no share.
    """
    words = case.removeprefix("float32 ")
    texts = {"other": windows(1, 8, seed=1)} if case in MEASURING else None
    dense = model() if words == case else small_llama(blocks=2)
    pruned = prune(dense, words, windows(5, 8, padded=True), texts, measure=texts is not None, precision=torch.float64)
    tables = {name: table.to_dict("records") for name, table in pruned.tables.items() if name != "cost"}
    return {
        "weights": dict(pruned.model.named_parameters()),
        "masks": dict(pruned.masks),
        "tables": tables,
        "ranks": pruned.provenance.get("ranks"),
    }


def one_window_a_chunk():
    streams.TOKENS_PER_FORWARD = {"cpu": 8}


def results(folder: Path) -> None:
    one_window_a_chunk()
    distributed.join("cpu", 60)
    torch.save({case: result(case) for case in CASES}, folder / f"{distributed.rank()}.pt")


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    assert ended(start(2, results, folder, logs=folder)) == [0, 0], (folder / "0").read_text()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one_process(shared, monkeypatch, case):
    monkeypatch.setattr(streams, "TOKENS_PER_FORWARD", {"cpu": 8})
    alone, (main, other) = result(case), [each[case] for each in shared]
    assert (alone["ranks"], main["ranks"]) == (None, 2)
    assert alone["masks"].keys() == main["masks"].keys() and alone["weights"].keys() == main["weights"].keys()
    assert all(torch.equal(mask, main["masks"][name]) for name, mask in alone["masks"].items())
    apart = {n: float((w - main["weights"][n]).abs().max()) for n, w in alone["weights"].items()}
    print(case, max(apart.values()))
    assert max(apart.values()) <= NEAR
    assert all(torch.equal(weight, other["weights"][name]) for name, weight in main["weights"].items())
    for name, rows in alone["tables"].items():
        assert len(rows) == len(main["tables"][name])
        for one, two in zip(rows, main["tables"][name], strict=True):
            assert one.keys() == two.keys() and all(same(one[key], two[key]) for key in one), (name, one, two)


def same(one: object, two: object) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return math.isclose(one, two, rel_tol=1e-5, abs_tol=1e-9) or (math.isnan(one) and math.isnan(two))
    return one == two

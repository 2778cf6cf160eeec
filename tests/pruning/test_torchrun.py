"""Two ranks do what one process does: every word, uneven shares, padding; to rounding where sums are added up."""

import math
from pathlib import Path

import pytest
import torch

from analysis import distributed
from analysis.pruning.loop import prune
from analysis.recipe.recipe import Recipe
from analysis.streams import streams
from tests.helpers.ranks import ended, start
from tests.helpers.recipes import RECIPES, mixture, model
from tests.helpers.small import small_llama, windows

NEAR = 1e-6
STEPS = "epochs=2,batch=2,lr=1e-4"
SINGLE = "wanda-50% BR+GP[epochs=3,batch=2]"  # of a model in float32, the sums too
EXPERTS = (
    f"wanda-50%[gated=true] BR+GP[{STEPS}]",
    "sparsegpt-50% ridge",
    "reap-experts-25% LIAR",
)  # of a mixture of them
MEASURED = (f"wanda-50% BR+GP[{STEPS}]", "angular-blocks-1 refit+GP")
CASES = [
    *MEASURED,
    "wanda+swaps-50% ridge",
    f"ria+fw-50%[iterations=20] BR[unit=matrix,loss=cosine,select=calibration,{STEPS}]",
    f"sparsegpt-50%[columns=8] BR+GP+CR[loss=relative,{STEPS}]",
    f"wanda-50%[shares=owl] BR[train=masklora,rank=2,clip=0.1,warmup=0.5,{STEPS}]",
    f"magnitude-50% BR[unit=model,{STEPS}]",
    f"random-50% IR[unit=sub-block,train=norms-biases,{STEPS}]",
    f"wanda-50% retrain[{STEPS}]",
    f"wanda-2:4 retrain[objective=distill,{STEPS}]",
    f"magnitude-50% retrain[objective=hidden,states=0.3,{STEPS}]",
    "snip-structures-50%[scope=global] LR",
    "fisher-neurons-50% LIAR",
    "flap-neurons-50% compensate",
    "activation-heads-50% scale",
    "wanda-sp-neurons-50% LIAR+GP",
    "gain-blocks-1 replace",
    "angular-blocks-1 ghost+GP",
    "perplexity-attention-1 patch",
    "influence-mlp-1 refit",
    "deepest-blocks-1 LR",
    SINGLE,
    *EXPERTS,
]


def result(case: str) -> dict:
    """What a recipe makes of three windows, one chunk each, the last alone in its batch of two; of a held-out text of
    one window the second rank has no share.
    """
    texts = {"other": windows(1, 8, seed=1)} if case in MEASURED else None
    dense, precision = model(), torch.float64
    if case == SINGLE:
        dense, precision = small_llama(blocks=2), torch.float32
    elif case in EXPERTS:
        dense = mixture()
    pruned = prune(dense, case, windows(3, 8, padded=True), texts, measure=texts is not None, precision=precision)
    return {
        "weights": dict(pruned.model.named_parameters()),
        "masks": dict(pruned.masks),
        "tables": {name: table.to_dict("records") for name, table in pruned.tables.items() if name != "cost"},
        "ranks": pruned.provenance.get("ranks"),
    }


def results(folder: Path) -> None:
    streams.TOKENS_PER_FORWARD = {"cpu": 8}
    distributed.join("cpu", 300)
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
    assert max(float((weight - main["weights"][name]).abs().max()) for name, weight in alone["weights"].items()) <= NEAR
    assert all(torch.equal(weight, other["weights"][name]) for name, weight in main["weights"].items())
    for name, rows in alone["tables"].items():
        assert len(rows) == len(main["tables"][name])
        for one, two in zip(rows, main["tables"][name], strict=True):
            assert one.keys() == two.keys() and all(same(one[key], two[key]) for key in one), (name, one, two)


def same(one: object, two: object) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return math.isclose(one, two, rel_tol=1e-5, abs_tol=1e-9) or (math.isnan(one) and math.isnan(two))
    return one == two


def test_every_word_is_in_one_of_the_cases():
    words, tried = ({word for text in texts for word in Recipe.parse(text).versions()} for texts in (RECIPES, CASES))
    assert words <= tried

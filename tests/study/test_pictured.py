"""The runs of notebook 13: which recipes are asked, fed less, and told which tokens count."""

import pytest

from analysis.errors import RecipeError, UsageError
from analysis.study.grids import retrained
from analysis.study.pictured import counted, cut, pictured

COMMON = {
    "model": "lab/vision",
    "calibration": "pictures:shapes",
    "held_out": {"held-out": "pictures:shapes/held-out"},
    "samples": 8,
    "length": 48,
    "seeds": [0, 1],
}
METHODS = ["LR", "BR+GP", "retrain[train=projector]", "retrain[objective=hidden,train=language]"]
WAYS = {"depth": "influence", "width": "snip"}
CUT = {
    way: cut(way, word, ["12.5%", "25%"], METHODS[:2], ["projector", "states"], [1, 2]) for way, word in WAYS.items()
}
CHOSEN = [*CUT["depth"], *CUT["width"]]


def runs(chosen=CHOSEN, **changes):
    wanted = {"tasks": ["pictures:colour"], "documents": 4, "asked": ["LR"], "fewer": [2, 8], "share": "25%"}
    return pictured(chosen, **wanted | {"fewer_methods": [METHODS[2]], "counted": []} | changes, **COMMON)


def test_some_recoveries_are_asked_and_some_are_fed_less_at_one_share():
    found = runs(counted=counted(["wanda-50%"], ["all", "text"], ["LR"]))
    assert len(found.recovered) == len(set(found.recovered)) == 2 * 2 * 4 * 2
    asked = [job for job in found.recovered if job.tasks == ("pictures:colour",)]
    assert {(job.recipe.method, job.documents) for job in asked} == {("LR", 4)} and len(asked) == 4 * 2
    assert {(job.samples, str(job.recipe.pattern), job.recipe.method) for job in found.data} == {
        (2, pattern, method)  # 8 windows are the runs above
        for pattern in ("blocks-25%", "structures-25%")
        for method in ("LR", "retrain[train=projector]")
    }
    assert not any(job.tasks for job in found.data)
    assert [job.recipe.tokens for job in found.counted] == ["all", "all", "text", "text"]
    assert found.every == [*found.recovered, *found.data, *found.counted]
    assert runs(fewer=[]).data == [] and not any(job.tasks for job in runs(asked=[]).recovered)


def test_runs_without_a_baseline_or_of_no_share_are_refused():
    with pytest.raises(UsageError, match=r"no recipe leaves what stays as it is \(LR\)"):
        runs(CHOSEN[1:2])
    with pytest.raises(UsageError, match="no pattern takes out 50%"):
        runs(share="50%")


def test_depth_and_width_take_out_the_same_shares_with_the_same_recoveries():
    assert [(str(r.pattern), r.method) for r in CUT["depth"]] == [
        (f"blocks-{share}", method) for share in ("12.5%", "25%") for method in METHODS
    ]
    assert [r.method for r in CUT["width"]] == 2 * METHODS and {r.pattern.scope for r in CUT["width"]} == {"global"}
    assert [r.solver.lr for r in CUT["width"][2:4]] == [1, 2] and cut("depth", "influence", [], METHODS, [], []) == []
    with pytest.raises(UsageError, match="way 'height' is none; give depth or width"):
        cut("height", "influence", ["25%"], METHODS, [], [])


def test_words_of_training_are_recipes_of_the_language_part():
    found = retrained(["projector", "language", "logits", "states"], [1, 2, 3, 4])
    assert found == [
        "retrain[train=projector,lr=1]",
        "retrain[train=language,lr=2]",
        "retrain[train=language,objective=distill,lr=3]",
        "retrain[train=language,objective=hidden,lr=4]",
    ]


def test_tokens_join_the_options_that_a_pattern_has():
    found = counted(["wanda-50%[group=row]", "influence-blocks-25%"], ["all", "image"], ["LR", "BR+GP"], epochs=3)
    assert [(str(r.pattern), r.tokens, r.method) for r in found] == [
        (pattern, tokens, method)
        for pattern in ("50%", "blocks-25%")
        for tokens in ("all", "image")
        for method in ("LR", "BR+GP")
    ]
    assert {r.pattern.group for r in found[:4]} == {"row"} and found[1].solver.epochs == 3
    with pytest.raises(RecipeError, match="nothing looks at inputs"):
        counted(["magnitude-50%"], ["text"], ["LR"])

"""Jobs that compare masks: what they are, what is refused, and what a study reads back."""

import json
from dataclasses import replace

import pytest

from analysis.errors import UsageError
from analysis.recipe.recipe import Recipe
from analysis.study.grids import recipes
from analysis.study.job import Job, grid, mask_word
from analysis.study.sweep import run_study

PLAIN = {"model": "lab/tiny", "recipe": "wanda-50% LR", "calibration": "lab:stories", "samples": 2, "length": 32}
REFINED = recipes(["wanda"], "50%", ["LR"], refinements=["none", "fw"], iterations=3)


def test_a_mask_goes_by_its_criterion_and_refinement():
    assert [mask_word(recipe) for recipe in REFINED] == ["wanda", "wanda+fw"]


def test_what_is_compared_is_part_of_the_job_and_of_no_other():
    plain, job = Job(**PLAIN), Job(**PLAIN, compared=[*REFINED, "magnitude-50% LR"])
    assert job.compared[2] == Recipe.parse("magnitude-50% LR")
    assert Job(**json.loads(json.dumps(job.to_dict()))) == job
    assert "compared" not in plain.identity() and plain.digest() != job.digest()
    longer = recipes(["wanda"], "50%", ["LR"], refinements=["fw"], iterations=4)
    assert replace(job, compared=(REFINED[0], *longer, job.compared[2])).digest() != job.digest()


def test_masks_are_chosen_with_the_seed_of_the_job():
    common = {name: value for name, value in PLAIN.items() if name != "recipe"}
    first, second = grid(recipes=PLAIN["recipe"], compared=REFINED, seeds=[0, 5], **common)
    assert [recipe.seed for recipe in (*first.masks, *second.masks)] == [0, 0, 5, 5]


@pytest.mark.parametrize(
    "compared, said",
    [
        (["wanda-50% LR"], "at least two masks"),
        (["wanda-50% LR", "wanda-60% BR"], "each criterion and refinement once, got wanda, wanda"),
        (["wanda-50% LR", "flap-neurons-50% LR"], "only masks of single weights can be compared, got masks of neurons"),
        (["wanda-50%[shares=owl] LR", "magnitude-50% LR"], "shares=owl looks at the whole model first"),
        ([3, "wanda-50% LR"], "must be recipes or their texts"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_work(compared, said):
    with pytest.raises(UsageError, match=said):
        Job(**PLAIN, compared=compared)


@pytest.mark.slow
def test_a_study_reads_what_masks_share(tmp_path, monkeypatch):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path))
    common = {name: value for name, value in PLAIN.items() if name != "recipe"}
    study = run_study(
        grid(recipes=PLAIN["recipe"], compared=REFINED, seeds=[0, 1], **common), workers=1, progress=False
    )
    blocks, matrices = study.overlap["block"].nunique(), study.overlap["matrix"].nunique()
    assert len(study.overlap) == 2 * blocks * matrices * 3 and set(study.overlap["seed"]) == {0, 1}
    assert set(zip(study.overlap["mask"], study.overlap["other"], strict=True)) == {
        ("wanda", "dense"),
        ("wanda+fw", "dense"),
        ("wanda+fw", "wanda"),
    }

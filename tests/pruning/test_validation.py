"""What is selected on is not what is reported: set aside or given apart, labelled, and disjoint from both sides."""

import pytest
import torch

from analysis.errors import OverlapError, UsageError
from analysis.pruning.loop import prune
from analysis.pruning.validation import set_aside
from analysis.recipe.recipe import Recipe
from analysis.windows import append
from tests.helpers.encoders import sentence_pairs
from tests.helpers.small import small_llama, windows

STEPS = "epochs=2,batch=4,lr=1e-3"


def test_the_last_quarter_of_the_own_windows_is_set_aside():
    both = append(windows(9), windows(3, seed=5))
    rest, (validation,) = set_aside(both)
    assert torch.equal(validation.ids, both.ids[7:9]) and validation.added == 0
    assert torch.equal(rest.ids, torch.cat([both.ids[:7], both.ids[9:]])) and (rest.own, rest.added) == (7, 3)
    assert (rest.provenance["samples"], validation.provenance["set aside from"]) == (10, "calibration")


def test_windows_set_aside_repeat_nothing_of_what_is_left():
    some = windows(8)
    some.ids[7] = some.ids[0]
    rest, (validation,) = set_aside(some)
    assert len(rest) == 6 and torch.equal(validation.ids, some.ids[6:7])
    some.ids[6] = some.ids[1]
    with pytest.raises(UsageError, match="every one of the 2 windows set aside .* repeats what is left"):
        set_aside(some)


def test_sentence_pairs_are_set_aside_and_dropped_whole():
    """Ten pairs: a quarter of the 20 windows cuts the eighth one, which goes aside as a whole."""
    some = sentence_pairs(10)
    some.mask[:] = True
    rest, (validation,) = set_aside(some)
    assert (len(rest), validation.labelled.pairs.tolist()) == (14, [7, 7, 8, 8, 9, 9])
    some.ids[17] = some.ids[3]
    rest, (validation,) = set_aside(some)
    assert (len(rest), validation.labelled.pairs.tolist()) == (14, [7, 7, 9, 9])
    with pytest.raises(UsageError, match="all 2 windows of 'pairs' would be set aside"):
        set_aside(sentence_pairs(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [f"wanda-50% BR+GP[select=held-out,{STEPS}]", "flap-neurons-50% LIAR[penalty=held-out]"]
)
def test_what_is_reported_decides_nothing(recipe):
    """The same weights whatever the held-out text is; tables tell validation from it; a given text is used instead."""
    dense, own = small_llama(blocks=2), windows(8)
    runs = [prune(dense, recipe, own, {"other": windows(4, seed=seed)}) for seed in (1, 2)]
    for name, weight in runs[0].model.state_dict().items():
        assert torch.equal(weight, runs[1].model.state_dict()[name]), name
    for table in ("blocks", "perplexity", *(["steps"] if "BR" in recipe else [])):
        assert set(runs[0].tables[table].split) == {"calibration", "validation", "other"}, table
    assert runs[0].provenance["validation"]["samples"] == 2 and runs[0].provenance["calibration"]["samples"] == 6
    given = prune(dense, recipe, own.subset(6), validation=own.take(torch.arange(6, 8)))
    for name, weight in runs[0].model.state_dict().items():
        assert torch.equal(weight, given.model.state_dict()[name]), name


@pytest.mark.parametrize(
    "arguments, kind, said",
    [
        ({"validation": windows(4, seed=2)}, UsageError, "LR selects nothing on it; add select=held-out"),
        ({"select": True, "validation": 3}, UsageError, "validation must be Windows, as load_tokens gives, got 3"),
        ({"select": True, "validation": windows(4)}, OverlapError, "held-out 'validation'"),
        (
            {"select": True, "validation": windows(4, seed=1)},
            OverlapError,
            "validation .* and held-out 'other' .* with validation",
        ),
        ({"select": True, "validation": windows(4, seed=2, length=65)}, UsageError, "validation: windows of 65 tokens"),
        ({"held_out_every": 1.5}, UsageError, "held_out_every must be a whole number of epochs"),
    ],
)
def test_what_cannot_be_selected_on_is_refused(arguments, kind, said):
    recipe = "wanda-50% BR[select=held-out]" if arguments.pop("select", False) else "wanda-50% LR"
    with pytest.raises(kind, match=said):
        prune(small_llama(blocks=1), Recipe.parse(recipe), windows(4), {"other": windows(4, seed=1)}, **arguments)


def test_held_out_text_is_looked_at_as_often_as_asked_and_changes_no_weight():
    dense, own, other = small_llama(blocks=1), windows(4), {"other": windows(8, seed=1)}
    runs = {
        every: prune(dense, f"wanda-50% BR[{STEPS}]", own, other, held_out_every=every) for every in ("auto", "end")
    }
    for every, epochs, said in (("auto", [0, 1, 2], 1), ("end", [2], "end")):
        steps = runs[every].tables["steps"]
        assert steps[steps.split == "other"].epoch.tolist() == epochs
        assert steps[steps.split == "calibration"].epoch.tolist() == [0, 1, 2]
        assert runs[every].provenance["held-out every"] == said
    for name, weight in runs["auto"].model.state_dict().items():
        assert torch.equal(weight, runs["end"].model.state_dict()[name]), name

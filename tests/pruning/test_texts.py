"""Which text does what: windows added to the calibration text, and how far the held-out texts are from it."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from analysis.errors import OverlapError
from analysis.pruning.loop import prune
from analysis.recipe.recipe import Recipe
from analysis.schema import TABLES
from analysis.windows import Windows, append
from tests.helpers.small import block_outputs, small_llama, windows

FAST = "[epochs=6,lr=4e-3]"


# Windows added to the calibration text --------------------------------------------------------------------------------


def _masks_equal(a, b) -> bool:
    return all(torch.equal(a.masks[name], b.masks[name]) for name in a.masks)


def _weights_equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "criterion",
    ["wanda-50%", "sparsegpt-50%", "ria-2:4", "magnitude+swaps-50%[group=row]", "wanda-50%[statistics=dense]"],
)
def test_masks_do_not_see_added_windows_unless_the_recipe_says_so(criterion):
    """One block, so that the masks follow the statistics of the dense embeddings alone whatever the solver makes of
    it.
    """
    dense, own, more = small_llama(blocks=1), windows(8), windows(12, seed=5)
    together = append(own, more)
    everything = replace(Recipe.parse(f"{criterion} BR{FAST}"), added="all")
    alone, default, shown = (
        prune(dense, recipe, w)
        for recipe, w in ((everything, own), (replace(everything, added="solver"), together), (everything, together))
    )
    plain = prune(dense, everything, Windows(together.ids, together.mask))
    assert _masks_equal(default, alone) and not _weights_equal(default, alone), "the solver saw them"
    assert not _masks_equal(shown, alone) and _masks_equal(shown, plain) and _weights_equal(shown, plain)
    tokens = {
        name: run.tables["cost"].query("stage == 'statistics'").tokens.iloc[0]
        for name, run in {"default": default, "shown": shown}.items()
    }
    assert tokens == {"default": 8 * 16, "shown": 20 * 16}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    ["LR", "BR[unit=matrix,epochs=2]", "BR+CR[epochs=2]", "BR[unit=model,epochs=2]", "retrain[epochs=2,lr=1e-3]"],
)
def test_of_one_unit_or_none_masks_are_those_of_the_calibration_text_alone(method):
    """Where nothing is solved before a mask is chosen, added windows leave every mask of the model as it was: the
    sparse stream included.
    """
    dense, own = (
        small_llama(blocks=2),
        windows(64),
    )  # as many as one chunk holds: rounding is that of the calibration text alone
    alone, added = (
        prune(dense, Recipe.parse(f"wanda-50% {method}"), w) for w in (own, append(own, windows(16, seed=5)))
    )
    first = [name for name in alone.masks if name.startswith("model.layers.0.")]
    assert all(
        torch.equal(alone.masks[name], added.masks[name])
        for name in (first if "matrix" in method or "CR" in method else alone.masks)
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["LR", f"BR{FAST}", f"BR+GP+CR{FAST}", "ridge", f"retrain{FAST}"])
def test_the_solver_makes_of_added_windows_what_it_makes_of_any(method):
    """Magnitude looks at no inputs: where the masks are the same, being added is no difference at all."""
    dense, together = small_llama(blocks=2), append(windows(8), windows(8, seed=5))
    recipe, other = Recipe.parse(f"magnitude-50% {method}"), {"other": windows(4, seed=1, label="other")}
    added, plain = (prune(dense, recipe, w, other) for w in (together, Windows(together.ids, together.mask)))
    assert _weights_equal(added, plain) and _masks_equal(added, plain)
    for table in TABLES.keys() - {"cost"}:
        pd.testing.assert_frame_equal(added.tables[table], plain.tables[table], check_exact=True)
    assert added.provenance["calibration"]["added"] == {"source": "calibration"}


def test_added_windows_must_not_repeat_held_out_text():
    held_out = {"other": windows(4, seed=1, length=32, label="other")}
    with pytest.raises(OverlapError, match="other"):
        prune(
            small_llama(),
            Recipe.parse("wanda-50% LR"),
            append(windows(8, length=32), windows(4, seed=1, length=32)),
            held_out,
        )


@pytest.mark.slow
def test_a_run_with_other_added_windows_does_not_resume(tmp_path):
    """The same windows, counted differently: what was masked for one is not what the other would have masked."""
    dense, together = small_llama(blocks=2), append(windows(8), windows(8, seed=5))
    recipe = Recipe.parse("wanda-50% LR")
    prune(dense, recipe, together, checkpoint=tmp_path)
    plain = Windows(together.ids, together.mask)
    assert _masks_equal(prune(dense, recipe, plain, checkpoint=tmp_path), prune(dense, recipe, plain))
    assert not _masks_equal(prune(dense, recipe, plain), prune(dense, recipe, together))


# Distances of texts ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["LR", "BR+GP+CR[epochs=1]", "IR[epochs=1]", "retrain[epochs=1]"])
def test_texts_are_as_far_from_calibration_as_their_second_moments_in_the_dense_model(method):
    dense, together = small_llama(), append(windows(8, padded=True), windows(4, seed=5))
    held_out = {"near": windows(8, seed=1), "far": windows(6, seed=2, vocabulary=12, padded=True)}
    texts = prune(dense, Recipe.parse(f"wanda-50% {method}"), together, held_out).tables["texts"]
    assert list(zip(texts.block, texts.split, strict=True)) == [
        (block, split) for block in range(3) for split in held_out
    ]

    def moments(w):
        return [(h := output[w.mask].double()).T @ h / len(h) for output in block_outputs(dense, w)]

    expected = [
        float((s - other).norm() / other.norm())
        for s, *others in zip(moments(together), *map(moments, held_out.values()), strict=True)
        for other in others
    ]
    assert list(texts.distance) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_nothing_held_out_or_measured_leaves_no_distances():
    dense = small_llama()
    assert prune(dense, Recipe.parse("wanda-50% LR"), windows(4)).tables["texts"].empty
    unmeasured = prune(dense, Recipe.parse("wanda-50% LR"), windows(4), {"other": windows(4, seed=1)}, measure=False)
    assert unmeasured.tables["texts"].empty and unmeasured.tables["zero_shot"].empty

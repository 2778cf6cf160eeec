"""Masks of single weights: zeros that are there already, and shares that in whole weights are nothing or everything."""

import pytest
import torch

from analysis.errors import RecipeError, UsageError
from analysis.models.anatomy import anatomy
from analysis.pruning.loop import prune
from analysis.recipe.recipe import Recipe
from tests.helpers.small import small_llama, windows


def sparse_llama(blocks=1):
    """A small model whose matrices have lost unequal shares of their weights by magnitude; and where."""
    model = small_llama(blocks=blocks)
    for index, (_, matrix) in enumerate(anatomy(model).matrices()):
        weight = matrix.weight()
        weight[weight.abs() <= weight.abs().flatten().kthvalue((3 + 4 * (index % 2)) * weight.numel() // 10).values] = 0
    return model, {name: matrix.weight() == 0 for name, matrix in anatomy(model).matrices()}


def pruned(model, text):
    return prune(model, Recipe.parse(text), windows(4), measure=False)


@pytest.mark.parametrize(
    "share, method",
    [
        ("0%", "LR"),
        ("0%", "retrain[epochs=1]"),
        ("60%", "ridge"),
        pytest.param("60%", "BR+GP[epochs=1]", marks=pytest.mark.slow),
        pytest.param("60%", "BR[train=masklora,rank=2,epochs=1]", marks=pytest.mark.slow),
    ],
)
def test_zeros_that_stay_are_changed_by_no_solver_and_are_the_mask_at_0_percent(share, method):
    model, zeros = sparse_llama()
    result = pruned(model, f"magnitude-{share}[zeros=stay] {method}")
    dense = dict(anatomy(model).matrices())
    changed = 0
    for name, matrix in anatomy(result.model).matrices():
        assert not result.masks[name][zeros[name]].any() and not matrix.weight()[zeros[name]].any()
        assert torch.equal(result.masks[name], ~zeros[name]) or share != "0%"
        changed += int((matrix.weight() != dense[name].weight()).sum())
    assert (changed > 0) == (method != "LR")
    shares = result.tables["matrices"].set_index("matrix").sparsity
    assert len(shares) == len(zeros) and all(
        shares[name.partition(".0.")[2]] == 1 - int(mask.sum()) / mask.numel() for name, mask in result.masks.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "wanda-50%[zeros=stay] LR",
        "random-50%[zeros=stay,group=row] LR",
        "sparsegpt-50%[zeros=stay,columns=8] LR",
        "sparsegpt-2:4[zeros=stay] LR",
        "ria-2:4[zeros=stay] LR",
        "magnitude-50%[zeros=stay,shares=owl] LR",
    ],
)
def test_what_is_pruned_further_is_counted_with_the_zeros_that_stay(text):
    """In every group that competes: as many as the pattern says, or the zeros where they are more, and these first."""
    model, zeros = sparse_llama()
    recipe = Recipe.parse(text)
    pattern = recipe.pattern.resolve(recipe.criterion.name)
    for name, mask in pruned(model, text).masks.items():
        width = mask.shape[1]
        size = {"row": width, "block": len(mask) * 8}.get(pattern.group, pattern.of or mask.numel())
        order = (lambda part: part.T) if pattern.group == "block" else (lambda part: part)  # columns together
        gone, zero = (order(part).reshape(-1, size).sum(1) for part in (~mask, zeros[name]))
        asked = size // 2
        assert not (mask & zeros[name]).any() and torch.equal(gone, zero.clamp(min=asked)), name


@pytest.mark.slow
def test_zeros_that_compete_are_noted_where_a_solver_may_change_them():
    model, zeros = sparse_llama()
    for text, said in {"magnitude-50% ridge": True, "magnitude-50% LR": False}.items():
        result = pruned(model, text)
        notes = result.tables["numerics"].query("rule == 'zeros kept'")
        kept = sum(int((mask & zeros[name]).sum()) for name, mask in result.masks.items())
        assert kept > 0 and notes.value.sum() == said * kept
    dense = pruned(small_llama(blocks=1), "magnitude-50% ridge")
    assert "zeros kept" not in set(dense.tables["numerics"].rule)


def test_matrices_left_dense_keep_their_zeros_too():
    model, zeros = sparse_llama(blocks=2)
    masks = pruned(model, "magnitude-75%[zeros=stay,skip=0] LR").masks
    for name, mask in masks.items():
        gone = int(zeros[name].sum()) if ".0." in name else 3 * mask.numel() // 4
        assert int((~mask).sum()) == gone and not (mask & zeros[name]).any()


@pytest.mark.parametrize(
    "text, problem",
    [
        ("wanda-0%[zeros=stay] ridge", "no weight of the model's matrices is zero already"),
        (
            "wanda-99.999999% LR",
            "would remove every weight of 7 matrices, the first is model.layers.0.self_attn.q_proj",
        ),
        ("sparsegpt-99.99% LR", "would remove every weight of 7 matrices"),
        ("magnitude-50%[shares=up_proj:0.99999] LR", "would remove every weight of 1 matrices"),
        ("wanda-0.001% LR", "removes no weight of any matrix, by rounding; give a larger share, or 0%"),
        ("flap-neurons-0.1% LR", "neurons-0.1% removes nothing, by rounding"),
        ("magnitude-50%[shares=owl,skip=1] LR", "there is no block 1; the model has 1, from 0"),
    ],
)
def test_a_share_of_nothing_or_everything_is_refused_before_any_work(text, problem):
    with pytest.raises(UsageError, match=problem):
        pruned(small_llama(blocks=1), text)


def test_a_share_that_is_nothing_of_some_matrices_is_noted_for_these():
    result = pruned(small_llama(blocks=1), "wanda-1% LR")  # rows of 32 inputs lose none, rows of 64 lose one
    notes = result.tables["numerics"].query("rule == 'removes nothing'")
    whole = {name.partition(".0.")[2]: mask.numel() for name, mask in result.masks.items() if mask.all()}
    assert dict(zip(notes.matrix, notes.value, strict=True)) == whole and 0 < len(whole) < len(result.masks)
    assert pruned(small_llama(blocks=1), "wanda-0% LR").tables["numerics"].empty


@pytest.mark.parametrize("text", ["wanda+swaps-50%[zeros=stay] LR", "flap-neurons-50%[zeros=stay] LR"])
def test_where_zeros_cannot_stay_the_recipe_is_refused(text):
    with pytest.raises(RecipeError, match=r"write wanda-50%\[zeros=stay\]|zeros is an option of kind=weights"):
        Recipe.parse(text)

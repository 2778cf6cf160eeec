"""Masks compared matrix by matrix, beside the outputs themselves."""

import pandas as pd
import pytest
import torch

from analysis.errors import UsageError
from analysis.measure.mask_overlap import mask_overlaps
from analysis.models.anatomy import anatomy
from analysis.models.hooks import hooked
from analysis.pruning.loop import prune
from analysis.recipe.recipe import Recipe
from tests.helpers.small import small_llama, windows

MATRIX = "mlp.down_proj"


@pytest.fixture(scope="module")
def compared():
    made = {word: Recipe.parse(f"{word}-50% LR") for word in ("magnitude", "wanda", "wanda+swaps")}
    model, seen = small_llama(), windows(4, padded=True)
    return model, seen, mask_overlaps(model, seen, made)


def row(table: pd.DataFrame, mask: str, other: str) -> pd.Series:
    found = table[(table["mask"] == mask) & (table["other"] == other)]
    return found[(found["block"] == 1) & (found["matrix"] == MATRIX)].iloc[0]


@pytest.mark.slow
def test_every_pair_of_every_matrix_once_and_each_with_the_dense_one(compared):
    model, _, table = compared
    assert len(table) == sum(len(block.matrices) for block in anatomy(model).blocks) * 6
    assert list(zip(table["mask"], table["other"], strict=True))[:6] == [
        ("magnitude", "dense"),
        ("wanda", "dense"),
        ("wanda+swaps", "dense"),
        ("wanda", "magnitude"),
        ("wanda+swaps", "magnitude"),
        ("wanda+swaps", "wanda"),
    ]
    assert (table[table["other"] == "dense"]["shared"] == 0.5).all() and (table["apart"] > 0).all()


def test_functions_are_as_far_apart_as_their_outputs_on_real_tokens(compared):
    model, seen, table = compared
    matrix = {matrix.name: matrix for matrix in anatomy(model).blocks[1].matrices}[MATRIX]
    inputs = []
    with hooked(before=[(matrix.module, lambda module, args, kwargs: inputs.append(args[0]))]):
        model(input_ids=seen.ids, attention_mask=seen.mask.long())
    x, weight = inputs[0][seen.mask].double(), matrix.weight().double()
    scores = {"magnitude": weight.abs(), "wanda": weight.abs() * x.square().mean(0).sqrt()}
    flat = scores["magnitude"].flatten().argsort(descending=True)[: weight.numel() // 2]
    masks = {"magnitude": torch.zeros(weight.numel(), dtype=torch.bool).index_fill(0, flat, True).view_as(weight)}
    rows = scores["wanda"].argsort(1, descending=True)[:, : weight.shape[1] // 2]
    masks["wanda"] = torch.zeros_like(weight, dtype=torch.bool).scatter(1, rows, True)
    one, other = (x @ (weight * masks[word]).T for word in ("wanda", "magnitude"))
    found = row(table, "wanda", "magnitude")
    both, either = masks["wanda"] & masks["magnitude"], masks["wanda"] | masks["magnitude"]
    assert found["shared"] == pytest.approx(both.sum().item() / either.sum().item())
    whole = (x @ weight.T).square().sum()
    assert found["apart"] == pytest.approx(((one - other).square().sum() / whole).item(), rel=1e-4)
    assert row(table, "wanda", "dense")["apart"] == pytest.approx(
        ((one - x @ weight.T).square().sum() / whole).item(), rel=1e-4
    )


def test_masks_are_those_that_prune_chooses():
    """Random ones, dense matrices and blocks of shares of their own included; every matrix draws its own."""
    model, seen = small_llama(), windows(4, padded=True)
    recipes = {
        "random": Recipe.parse("random-50% LR"),
        "wanda": Recipe.parse("wanda-40%[skip=first:1,statistics=dense] LR"),
        "magnitude": Recipe.parse("magnitude-40%[shares=0.2+0.6+0.4,skip=q_proj] LR"),
    }
    table = mask_overlaps(model, seen, recipes)
    masks = {word: prune(model, recipe, seen, measure=False).masks for word, recipe in recipes.items()}
    for found in table[table["other"] != "dense"].itertuples():
        name = f"model.layers.{found.block}.{found.matrix}"
        one, other = masks[found.mask][name], masks[found.other][name]
        assert found.shared == pytest.approx(float((one & other).sum() / (one | other).sum())), name
    with pytest.raises(UsageError, match="wanda: shares=owl looks at the whole model first"):
        mask_overlaps(model, seen, {"wanda": Recipe.parse("wanda-50%[shares=owl] LR")})


def test_refitting_brings_every_mask_nearer_to_the_dense_matrix_and_swaps_do_too(compared):
    _, _, table = compared
    dense = table[table["other"] == "dense"]
    assert (dense["apart_refitted"] < dense["apart"]).all()
    wide = dense.pivot(index=["block", "matrix"], columns="mask", values="apart")
    assert (wide["wanda+swaps"] <= wide["wanda"] + 1e-9).all() and (wide["wanda+swaps"] < wide["wanda"]).any()

"""The precision of a unit's products: what it changes, and that everything else stays float32 and as it was."""

import pytest
import torch

from analysis.errors import UsageError
from analysis.pruning.loop import prune
from analysis.recipe.parts import Solver
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.arithmetic import autocasting, chosen, products
from analysis.reconstruction.gradient import unit_error
from tests.helpers.gradient import block_piece, case, solve, weights
from tests.helpers.small import small_llama, windows

CPU = torch.device("cpu")
OPTIONS = {"epochs": 3, "batch": 2, "lr": 5e-3}


def trained(**options):
    piece, masks, problem = case(count=6)
    before = unit_error(piece, problem)[0]
    steps = solve(piece, masks, problem, Solver("gradient", **OPTIONS | options))
    return weights(piece), masks, steps, unit_error(piece, problem)[0] / before


def test_bfloat16_products_train_float32_weights():
    plain, _, _, error = trained()
    mixed, masks, steps, other = trained(compute="bf16")
    assert error < 1 and other == pytest.approx(error, rel=0.05) and other != error
    for name, weight in mixed.items():
        assert weight.dtype == torch.float32 and not torch.equal(weight, plain[name])
        assert not torch.equal(weight, weight.bfloat16().float()), "masters, not their rounding"
    assert all(torch.equal(parameter != 0, mask) for parameter, mask in masks.items())


def test_a_unit_runs_in_what_was_chosen_and_gives_float32():
    piece = block_piece(small_llama())
    seen = []
    next(iter(piece.matrices.values())).module.register_forward_hook(lambda m, a, output: seen.append(output.dtype))
    recording = case(count=2)[2].recording
    for compute in ("bf16", "float32", "medium"):
        output = autocasting(piece, compute, CPU).run(recording, recording.hidden, slice(0, 2))
        assert output.dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize("compute", ["float32", "auto"])
def test_on_a_cpu_the_default_is_float32_to_the_bit(compute):
    plain = trained()[0]
    for name, weight in trained(compute=compute)[0].items():
        assert torch.equal(weight, plain[name]), name


@pytest.mark.parametrize(
    "compute, flag", [("medium", "medium"), ("tf32", "high"), ("float32", "highest"), (None, "high")]
)
def test_torchs_flag_is_set_while_training_and_put_back_after_an_error(compute, flag):
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(KeyError), products(compute, CPU):
            assert torch.get_float32_matmul_precision() == flag
            raise KeyError
        assert torch.get_float32_matmul_precision() == "high" and chosen(None, CPU) == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_it_is_part_of_the_recipe_and_its_default_is_not():
    plain, mixed = (Recipe.parse(f"wanda-50% BR{options}") for options in ("", "[compute=bf16]"))
    assert "compute" not in plain.to_dict()["solver"] and "compute" not in str(plain)
    assert mixed.digest() != plain.digest() and Recipe.parse(str(mixed)) == mixed


def test_a_run_says_what_it_computed_in():
    dense, own = small_llama(blocks=1), windows(4)
    found = [
        prune(dense, f"wanda-50% {method}", own, measure=False).provenance.get("compute")
        for method in ("BR[epochs=1]", "BR[epochs=1,compute=auto]", "BR[epochs=1,compute=medium]", "LR")
    ]
    assert found == ["float32", "float32", "medium", None]
    with pytest.raises(UsageError, match="compute=tf32 is a format of CUDA devices, and this is cpu; give medium"):
        prune(dense, "wanda-50% BR[compute=tf32]", own)

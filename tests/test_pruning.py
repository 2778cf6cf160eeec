"""The loop: every method and criterion, what each leaves alone, and the orderings reconstruction must produce."""

import copy

import pandas as pd
import pytest
import torch

from analysis.errors import UsageError
from analysis.measure.perplexity import perplexity
from analysis.models.anatomy import anatomy
from analysis.pruning import TABLES, prune
from analysis.recipe import METHODS, Recipe
from tests.families import FAMILIES, LENGTH, VOCABULARY, tiny
from tests.small import small_llama, windows

FAST = "[epochs=6,lr=4e-3]"


def _recipe(criterion: str, method: str) -> Recipe:
    return Recipe.parse(f"{criterion} {method}" + ("" if method == "LR" else FAST))


def _final_error(result, split="calibration") -> float:
    blocks = result.tables["blocks"]
    rows = blocks[(blocks.split == split) & (blocks.kind == "total")]
    return float(rows.sort_values("block").error.iloc[-1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("criterion", ["random-50%", "magnitude-50%", "wanda-50%", "sparsegpt-50%", "sparsegpt-2:4"])
def test_every_method_and_criterion(criterion, method):
    dense = small_llama(blocks=2)
    before = copy.deepcopy(dense.state_dict())
    result = prune(dense, _recipe(criterion, method), windows(8), {"other": windows(4, seed=1, label="other")})
    assert all(torch.equal(before[name], value) for name, value in dense.state_dict().items()), "the dense model is never modified"
    assert set(result.tables) == set(TABLES)
    names = {f"{b.name}.{m.name}" for b in anatomy(dense).blocks for m in b.matrices}
    assert set(result.masks) == names and len(names) == 14
    untouched = {n: v for n, v in before.items() if "embed" in n or n.startswith("lm_head") or n == "model.norm.weight"}
    assert len(untouched) == 3 and all(torch.equal(result.model.state_dict()[n], v) for n, v in untouched.items())
    matrices = result.tables["matrices"]
    assert (matrices.kept * 2 == matrices["rows"] * matrices["columns"]).all() and (matrices.sparsity == 0.5).all()
    ppl = result.tables["perplexity"]
    for split, w in (("calibration", windows(8)), ("other", windows(4, seed=1))):
        row = ppl[(ppl.split == split) & (ppl.which == "pruned")].iloc[0]
        assert row.nats_per_token == pytest.approx(perplexity(result.model, w).nats_per_token)


def test_layer_wise_takes_no_gradient_step():
    """LR is the mask (and OBS) alone: Wanda's kept weights are the dense ones, SparseGPT's are not, and norms never move."""
    dense = small_llama()
    for criterion, moved in (("wanda-50%", False), ("magnitude-50%", False), ("sparsegpt-50%", True), ("sparsegpt-50%[update=false]", False)):
        result = prune(dense, Recipe.parse(f"{criterion} LR"), windows(8))
        assert len(result.tables["steps"]) == 0
        for (name, old), (_, new) in zip(dense.named_parameters(), result.model.named_parameters(), strict=True):
            mask = result.masks.get(name.removesuffix(".weight"))
            assert torch.equal(new, old if mask is None else new * mask)
            if mask is not None:
                assert torch.equal(new, old * mask) is not moved, (criterion, name)


def test_calibration_error_falls_with_every_step_of_the_paper():
    """LR > BR > BR+GP > BR+GP+CR in final-block calibration error (Shin et al. 2024, table 1)."""
    dense = small_llama(blocks=4)
    errors = [_final_error(prune(dense, Recipe.parse(f"wanda-50% {m}" + ("" if m == "LR" else "[epochs=15,lr=4e-3]")), windows(16))) for m in ("LR", "BR", "BR+GP", "BR+GP+CR")]
    assert errors == sorted(errors, reverse=True), errors
    assert errors[3] < 0.7 * errors[0]


def test_masks_of_a_block_come_from_the_sparse_stream():
    """Wanda's mask of block 1 is the definition applied to inputs that passed the pruned block 0."""
    dense, w = small_llama(blocks=2), windows(8)
    result = prune(dense, Recipe.parse("wanda-50% LR"), w)
    half = copy.deepcopy(result.model)
    inputs = {}
    block, original = anatomy(half).blocks[1], anatomy(dense).blocks[1]
    block.module.load_state_dict(original.module.state_dict())  # block 0 pruned, block 1 still dense
    handles = [m.module.register_forward_pre_hook(lambda mod, args, n=m.name: inputs.__setitem__(n, args[0])) for m in block.matrices]
    with torch.no_grad():
        half(input_ids=w.ids)
    for handle in handles:
        handle.remove()
    for matrix in original.matrices:
        x = inputs[matrix.name].reshape(-1, matrix.columns)
        score = matrix.weight().abs() * x.square().mean(0).sqrt()
        expected = torch.zeros_like(score, dtype=torch.bool).scatter_(1, score.argsort(dim=1, descending=True)[:, : matrix.columns // 2], True)
        agreement = (result.masks[f"{original.name}.{matrix.name}"] == expected).float().mean()
        assert agreement > 0.998, (matrix.name, float(agreement))


def test_global_propagation_and_cross_blocks_change_targets_and_units():
    dense = small_llama(blocks=3)
    steps = {m: prune(dense, _recipe("wanda-50%", m), windows(8), {"other": windows(4, seed=1)}).tables["steps"] for m in ("BR", "BR+GP", "BR+GP+CR")}
    assert steps["BR"].unit.nunique() == 3 and steps["BR+GP+CR"].unit.nunique() == 4
    assert set(zip(steps["BR+GP+CR"].first_block, steps["BR+GP+CR"].last_block, strict=True)) == {(0, 0), (0, 1), (1, 2), (2, 2)}
    assert list(steps["BR"].epoch.unique()) == list(range(7)) and set(steps["BR"].split) == {"calibration", "other"}
    first = {m: s[(s.unit == 0) & (s.epoch == 0) & (s.split == "calibration")].error.iloc[0] for m, s in steps.items()}
    assert first["BR"] == first["BR+GP"], "at the first block the two streams are one"
    second = {m: s[(s.unit == 1) & (s.epoch == 0) & (s.split == "calibration")].error.iloc[0] for m, s in steps.items()}
    assert second["BR"] != second["BR+GP"]


def test_unit_error_of_the_last_epoch_is_the_block_error():
    """GP's target is the dense stream, so the unit's held-out error at the end is the block's total error."""
    result = prune(small_llama(), _recipe("wanda-50%", "BR+GP"), windows(8), {"other": windows(4, seed=1)})
    steps, blocks = result.tables["steps"], result.tables["blocks"]
    last = steps[(steps.split == "other") & (steps.epoch == 6)].set_index("last_block").error
    total = blocks[(blocks.split == "other") & (blocks.kind == "total")].set_index("block").error
    pd.testing.assert_series_equal(last, total, check_names=False, rtol=1e-4)


def test_without_measuring_the_model_is_the_same():
    dense, recipe = small_llama(), _recipe("sparsegpt-50%", "BR")
    measured, bare = prune(dense, recipe, windows(8)), prune(dense, recipe, windows(8), measure=False)
    assert all(torch.equal(a, b) for a, b in zip(measured.model.state_dict().values(), bare.model.state_dict().values(), strict=True))
    assert len(bare.tables["blocks"]) == len(bare.tables["perplexity"]) == 0


def test_float64_statistics_are_an_option():
    recipe = Recipe.parse("sparsegpt-50% LR")
    a, b = (prune(small_llama(), recipe, windows(8), precision=p) for p in (torch.float32, torch.float64))
    agreement = sum(float((a.masks[n] == b.masks[n]).float().mean()) for n in a.masks) / len(a.masks)
    assert agreement > 0.99


@pytest.mark.parametrize("call, message", [
    (lambda m: prune(m, Recipe.parse("wanda-50% LR"), windows(4, length=65)), "65 tokens.*context of 64"),
    (lambda m: prune(m, Recipe.parse("wanda-50% LR"), windows(4), {"calibration": windows(4, seed=1)}), "calibration"),
    (lambda m: prune(m, Recipe.parse("wanda-50% BR[select=held-out]"), windows(4)), "held-out"),
])
def test_wrong_calls(call, message):
    with pytest.raises(UsageError, match=message):
        call(small_llama())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_pruned_and_reconstructed(family):
    """Cross-block windows on padded text: targets, statistics and errors of every family, mixed attention included."""
    dense = tiny(family)
    w = windows(6, length=LENGTH, vocabulary=VOCABULARY, padded=True)
    layerwise = prune(dense, Recipe.parse("sparsegpt-50% LR"), w)
    result = prune(dense, Recipe.parse("sparsegpt-50% BR+GP+CR[epochs=8,lr=2e-3]"), w)
    assert _final_error(result) < _final_error(layerwise)
    assert (result.tables["matrices"].sparsity == 0.5).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_stay_half_and_improve(dtype):
    dense = small_llama(dtype=dtype)
    layerwise = prune(dense, Recipe.parse("wanda-50% LR"), windows(8))
    result = prune(dense, _recipe("wanda-50%", "BR+GP"), windows(8))
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert _final_error(result) < _final_error(layerwise)


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_the_result_is_the_cpus_within_rounding(method):
    recipe, held_out = _recipe("wanda-50%", method), {"other": windows(4, seed=1)}
    cpu = prune(small_llama(), recipe, windows(8), held_out)
    gpu = prune(small_llama().cuda(), recipe, windows(8), held_out)
    assert _final_error(gpu) == pytest.approx(_final_error(cpu), rel=0.05)
    assert next(gpu.model.parameters()).is_cuda
    assert (gpu.tables["cost"].peak_memory_mib > 0).all()

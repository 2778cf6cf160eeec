"""The loop: every method and criterion, what each leaves alone, and the orderings reconstruction must produce."""

import copy
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from analysis.errors import UnsupportedModel, UsageError
from analysis.masks.seeds import generator
from analysis.measure.perplexity import perplexity
from analysis.models.anatomy import anatomy
from analysis.pruning.checkpoint import Checkpoint
from analysis.pruning.loop import prune
from analysis.pruning.solvers import warn_of_worse
from analysis.recipe.parts import TRAINED
from analysis.recipe.recipe import Recipe
from analysis.recipe.words import WEIGHT_METHODS
from analysis.reconstruction.gradient import reconstruct
from analysis.reconstruction.targets import problem
from analysis.reconstruction.units import pieces
from analysis.schema import TABLES
from analysis.streams.streams import advance, open_streams
from tests.helpers.families import FAMILIES, LENGTH, VOCABULARY, tiny
from tests.helpers.small import small_llama, windows

FAST = "[epochs=6,lr=4e-3]"


def _recipe(criterion: str, method: str) -> Recipe:
    plain = Recipe.parse(f"{criterion} {method}")
    return Recipe.parse(f"{criterion} {method}{FAST}") if plain.solver.name in TRAINED else plain


def _final_error(result, split="calibration") -> float:
    blocks = result.tables["blocks"]
    rows = blocks[(blocks.split == split) & (blocks.kind == "total")]
    return float(rows.sort_values("block").error.iloc[-1])


def _nats(result) -> float:
    return result.tables["perplexity"].query("split == 'calibration' and which == 'pruned'").nats_per_token.iloc[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", WEIGHT_METHODS)
@pytest.mark.parametrize("criterion", ["random-50%", "magnitude-50%", "wanda-50%", "sparsegpt-50%", "sparsegpt-2:4"])
def test_every_method_and_criterion(criterion, method):
    dense = small_llama(blocks=2)
    before = copy.deepcopy(dense.state_dict())
    result = prune(dense, _recipe(criterion, method), windows(8), {"other": windows(4, seed=1, label="other")})
    assert all(torch.equal(before[name], value) for name, value in dense.state_dict().items()), (
        "the dense model is never modified"
    )
    assert set(result.tables) == set(TABLES)
    names = {f"{b.name}.{m.name}" for b in anatomy(dense).blocks for m in b.matrices}
    assert set(result.masks) == names and len(names) == 14
    untouched = {n: v for n, v in before.items() if "embed" in n or n.startswith("lm_head") or n == "model.norm.weight"}
    same = [torch.equal(result.model.state_dict()[n], v) for n, v in untouched.items()]
    assert len(same) == 3 and (not any(same) if method == "retrain" else all(same)), (
        "only retraining the whole model reaches beyond the blocks"
    )
    matrices = result.tables["matrices"]
    assert (matrices.kept * 2 == matrices["rows"] * matrices["columns"]).all() and (matrices.sparsity == 0.5).all()
    ppl = result.tables["perplexity"]
    for split, w in (("calibration", windows(8)), ("other", windows(4, seed=1))):
        row = ppl[(ppl.split == split) & (ppl.which == "pruned")].iloc[0]
        assert row.nats_per_token == pytest.approx(perplexity(result.model, w).nats_per_token)


@pytest.mark.slow
def test_layer_wise_takes_no_gradient_step():
    """LR is the mask (and OBS) alone: Wanda's kept weights are the dense ones, SparseGPT's are not, and norms never
    move.
    """
    dense = small_llama()
    for criterion, moved in (
        ("ria-50%", False),
        ("wanda+swaps-50%", False),
        ("sparsegpt+fw-50%[iterations=20]", True),
        ("wanda-50%", False),
        ("magnitude-50%", False),
        ("sparsegpt-50%", True),
        ("sparsegpt-50%[update=false]", False),
    ):
        result = prune(dense, Recipe.parse(f"{criterion} LR"), windows(8))
        assert len(result.tables["steps"]) == 0
        for (name, old), (_, new) in zip(dense.named_parameters(), result.model.named_parameters(), strict=True):
            mask = result.masks.get(name.removesuffix(".weight"))
            assert torch.equal(new, old if mask is None else new * mask)
            if mask is not None:
                assert torch.equal(new, old * mask) is not moved, (criterion, name)


@pytest.mark.slow
def test_calibration_error_falls_with_every_step_of_the_paper():
    """LR > BR > BR+GP > BR+GP+CR in final-block calibration error (Shin et al. 2024, table 1)."""
    dense = small_llama(blocks=4)
    errors = [
        _final_error(
            prune(dense, Recipe.parse(f"wanda-50% {m}" + ("" if m == "LR" else "[epochs=15,lr=4e-3]")), windows(16))
        )
        for m in ("LR", "BR", "BR+GP", "BR+GP+CR")
    ]
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
    handles = [
        m.module.register_forward_pre_hook(lambda mod, args, n=m.name: inputs.__setitem__(n, args[0]))
        for m in block.matrices
    ]
    with torch.no_grad():
        half(input_ids=w.ids)
    for handle in handles:
        handle.remove()
    for matrix in original.matrices:
        x = inputs[matrix.name].reshape(-1, matrix.columns)
        score = matrix.weight().abs() * x.square().mean(0).sqrt()
        expected = torch.zeros_like(score, dtype=torch.bool).scatter_(
            1, score.argsort(dim=1, descending=True)[:, : matrix.columns // 2], True
        )
        agreement = (result.masks[f"{original.name}.{matrix.name}"] == expected).float().mean()
        assert agreement > 0.998, (matrix.name, float(agreement))


@pytest.mark.slow
def test_global_propagation_and_cross_blocks_change_targets_and_units():
    dense = small_llama(blocks=3)
    steps = {
        m: prune(dense, _recipe("wanda-50%", m), windows(8), {"other": windows(4, seed=1)}).tables["steps"]
        for m in ("BR", "BR+GP", "BR+GP+CR")
    }
    assert steps["BR"].unit.nunique() == 3 and steps["BR+GP+CR"].unit.nunique() == 4
    assert set(zip(steps["BR+GP+CR"].first_block, steps["BR+GP+CR"].last_block, strict=True)) == {
        (0, 0),
        (0, 1),
        (1, 2),
        (2, 2),
    }
    assert list(steps["BR"].epoch.unique()) == list(range(7)) and set(steps["BR"].split) == {"calibration", "other"}
    first = {m: s[(s.unit == 0) & (s.epoch == 0) & (s.split == "calibration")].error.iloc[0] for m, s in steps.items()}
    assert first["BR"] == first["BR+GP"], "at the first block the two streams are one"
    second = {m: s[(s.unit == 1) & (s.epoch == 0) & (s.split == "calibration")].error.iloc[0] for m, s in steps.items()}
    assert second["BR"] != second["BR+GP"]


UNITS = ["unit=matrix", "unit=sub-block", "width=1", "width=2", "width=3,overlap=2", "unit=model"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["BR", "BR+GP", "IR"])
@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_with_every_choice_of_streams_lowers_its_own_error(unit, method):
    result = prune(
        small_llama(blocks=4),
        Recipe.parse(f"wanda-50% {method}[{unit},epochs=5,lr=4e-3]"),
        windows(8),
        {"other": windows(4, seed=1)},
    )
    steps = result.tables["steps"].set_index(["unit", "part", "split", "epoch"]).error
    parts = {
        "unit=matrix": 28,
        "unit=sub-block": 8,
        "width=1": 4,
        "width=2": 2,
        "width=3,overlap=2": 6,
        "unit=model": 1,
    }
    for split in ("calibration", "other"):
        first, last = steps.xs((split, 0), level=("split", "epoch")), steps.xs((split, 5), level=("split", "epoch"))
        assert len(first) == parts[unit]
        assert (last < first).all() if split == "calibration" else last.sum() < first.sum()
    assert (result.tables["matrices"].sparsity == 0.5).all()


@pytest.mark.slow
def test_pieces_of_a_block_are_solved_in_order_each_seeing_the_one_before():
    """The error a piece starts from is that of its own pruning on the inputs it gets: for BR+GP the earlier pieces'
    remainder too.
    """
    recipe = "wanda-50% {}[unit=sub-block,epochs=5,lr=4e-3]"
    steps = {
        m: prune(small_llama(), Recipe.parse(recipe.format(m)), windows(8)).tables["steps"]
        for m in ("BR", "BR+GP", "IR")
    }
    assert list(steps["BR"].part.unique()) == ["attention", "mlp"]
    start = {
        m: s[(s.unit == 0) & (s.epoch == 0) & (s.split == "calibration")].set_index("part").error
        for m, s in steps.items()
    }
    assert start["BR"]["attention"] == start["BR+GP"]["attention"] == start["IR"]["attention"], (
        "nothing was pruned before it"
    )
    assert len({start[m]["mlp"] for m in start}) == 3
    end = steps["BR+GP"][(steps["BR+GP"].unit == 0) & (steps["BR+GP"].part == "mlp")].error.iloc[-1]
    assert end > 0


@pytest.mark.slow
def test_independent_units_do_not_depend_on_their_order():
    """(dense, dense) with dense statistics: a block solved alone in an otherwise dense model becomes what the whole
    walk made of it.
    """
    dense, w = small_llama(blocks=3), windows(8)
    recipe = Recipe.parse("wanda-50%[statistics=dense] IR[unit=sub-block,epochs=3,lr=4e-3]")
    whole = prune(dense, recipe, w)
    alone = copy.deepcopy(dense)
    streams = open_streams(dense, anatomy(dense), "calibration", w)
    for block in anatomy(dense).blocks[:2]:
        advance([block.module], block.index, streams.recording, streams.dense, out=streams.dense)
    ours, theirs = anatomy(alone).blocks[2], anatomy(dense).blocks[2]
    for matrix in ours.matrices:
        matrix.assign(matrix.weight() * whole.masks[f"{ours.name}.{matrix.name}"])
    for pruned, still_dense in zip(pieces([ours], recipe.unit), pieces([theirs], recipe.unit), strict=True):
        masks = {matrix.module.weight: whole.masks[name] for name, matrix in pruned.matrices.items()}
        reconstruct(
            pruned,
            masks,
            problem(still_dense, pruned, streams, recipe),
            [],
            recipe.solver,
            generator(0, "solve", 2, pruned.part),
        )
    for name, parameter in ours.module.named_parameters():
        assert torch.equal(parameter, dict(anatomy(whole.model).blocks[2].module.named_parameters())[name]), name


@pytest.mark.slow
def test_the_whole_stack_as_one_unit_is_direct_optimisation():
    """unit=model with mean squared error on the last hidden states equals Adam on the model's own forward under the
    masks.
    """
    dense, w = small_llama(blocks=2), windows(16)
    result = prune(dense, Recipe.parse("magnitude-50% BR+GP[unit=model,epochs=2,lr=4e-3,shuffle=false]"), w)
    model = copy.deepcopy(dense)
    parts = anatomy(model)
    parameters = [p.requires_grad_(True) for block in parts.blocks for p in block.module.parameters()]
    masks = {m.module.weight: result.masks[name] for name, m in parts.matrices()}
    with torch.no_grad():
        for weight, mask in masks.items():
            weight.mul_(mask)
    last = {}
    for key, source in (("pruned", model), ("dense", dense)):
        anatomy(source).blocks[-1].module.register_forward_hook(lambda m, a, out, k=key: last.__setitem__(k, out))
    optimiser = torch.optim.Adam(parameters, lr=4e-3, betas=(0.9, 0.95), eps=1e-8)
    for step in range(4):
        optimiser.param_groups[0]["lr"] = 4e-3 * (4 - step) / 4
        rows = slice(8 * (step % 2), 8 * (step % 2) + 8)
        model(input_ids=w.ids[rows]), dense(input_ids=w.ids[rows])
        torch.nn.functional.mse_loss(last["pruned"], last["dense"].detach()).backward()
        for weight, mask in masks.items():
            weight.grad.mul_(mask)
        optimiser.step()
        model.zero_grad()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, dict(result.model.named_parameters())[name], atol=2e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["student=sparse", "target=dense", "student=dense,target=dense"])
def test_ridge_is_the_best_of_its_layer_and_says_by_how_much(streams):
    dense, w = small_llama(blocks=2), windows(16)
    result = prune(dense, Recipe.parse(f"magnitude-50% ridge[{streams}]"), w)
    layers = result.tables["layers"]
    assert list(layers.action.unique()) == ["ridge"] and len(layers) == 14
    assert (
        layers.error_after <= layers.error_before
    ).all() and layers.error_after.sum() < 0.9 * layers.error_before.sum()
    assert _final_error(result) < _final_error(prune(dense, Recipe.parse("magnitude-50% LR"), w))
    assert (
        result.tables["cost"].query("stage == 'solve'").trainable_parameters.sum()
        == result.tables["matrices"].kept.sum()
    )


@pytest.mark.slow
@pytest.mark.parametrize("refinement, options", [("swaps", ""), ("fw", "[iterations=200]")])
@pytest.mark.parametrize("pattern", ["60%", "2:4"])
def test_refinement_lowers_every_layer_s_error_and_keeps_the_counts(refinement, options, pattern):
    dense, w = small_llama(blocks=2), windows(16)
    plain, refined = (
        prune(dense, Recipe.parse(recipe), w)
        for recipe in (f"wanda-{pattern} LR", f"wanda+{refinement}-{pattern}{options} LR")
    )
    layers = refined.tables["layers"]
    assert list(layers.action.unique()) == [refinement] and (layers.error_after <= layers.error_before).all()
    assert layers.error_after.sum() < layers.error_before.sum()
    pd.testing.assert_frame_equal(plain.tables["matrices"], refined.tables["matrices"])
    assert any(not torch.equal(plain.masks[name], refined.masks[name]) for name in plain.masks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", ["", "objective=distill,", "objective=hidden,", "train=masklora,rank=2,alpha=4,", "train=norms-biases,"]
)
def test_retraining_lowers_the_model_s_own_loss_under_its_masks(options):
    dense, w = small_llama(blocks=2), windows(16)
    plain = prune(dense, Recipe.parse("wanda-60% LR"), w)
    result = prune(
        dense, Recipe.parse(f"wanda-60% retrain[{options}epochs=6,lr=4e-3]"), w, {"other": windows(4, seed=1)}
    )
    steps = result.tables["steps"].query("split == 'calibration'").error
    assert steps.iloc[-1] < steps.iloc[0]
    assert all(torch.equal(plain.masks[name], mask) for name, mask in result.masks.items()), "masks are those of LR"
    for name, matrix in anatomy(result.model).matrices():
        assert not matrix.weight()[~result.masks[name]].any()
    if options.startswith("train=norms"):
        for name, matrix in anatomy(result.model).matrices():
            assert torch.equal(matrix.weight(), dict(anatomy(plain.model).matrices())[name].weight())
    if "distill" not in options:
        assert _nats(result) < _nats(plain)
    solve = result.tables["cost"].query("stage == 'solve'").iloc[0]
    assert solve.tokens == 6 * w.mask.sum() and 0 < solve.trainable_parameters <= sum(
        p.numel() for p in dense.parameters()
    )


def test_hidden_states_that_cannot_be_told_apart_are_refused_before_the_work(monkeypatch):
    monkeypatch.setattr("analysis.models.logits.split_model", lambda model: None)
    with pytest.raises(UnsupportedModel, match="llama: what its head reads cannot be told apart, so objective=hidden"):
        prune(small_llama(blocks=1), "wanda-50% retrain[objective=hidden]", windows(2))


@pytest.mark.slow
def test_statistics_of_the_dense_stream_are_those_of_the_dense_model():
    """Wanda on dense statistics does not care what was pruned before: all blocks' masks equal those from one forward of
    the dense model.
    """
    dense, w = small_llama(blocks=3), windows(8)
    sparse, result = (
        prune(dense, Recipe.parse(f"wanda-50%[statistics={stream}] LR"), w) for stream in ("sparse", "dense")
    )
    inputs, matrices = {}, dict(anatomy(dense).matrices())
    for name, matrix in matrices.items():
        matrix.module.register_forward_pre_hook(lambda m, args, n=name: inputs.__setitem__(n, args[0]))
    with torch.no_grad():
        dense(input_ids=w.ids)
    for name, matrix in matrices.items():
        score = matrix.weight().abs() * inputs[name].reshape(-1, matrix.columns).square().mean(0).sqrt()
        expected = torch.zeros_like(score, dtype=torch.bool).scatter_(
            1, score.argsort(dim=1, descending=True)[:, : matrix.columns // 2], True
        )
        assert (result.masks[name] == expected).float().mean() > 0.998
    assert any(not torch.equal(sparse.masks[name], mask) for name, mask in result.masks.items())


@pytest.mark.slow
def test_unit_error_of_the_last_epoch_is_the_block_error():
    """GP's target is the dense stream, so the unit's held-out error at the end is the block's total error."""
    result = prune(small_llama(), _recipe("wanda-50%", "BR+GP"), windows(8), {"other": windows(4, seed=1)})
    steps, blocks = result.tables["steps"], result.tables["blocks"]
    last = steps[(steps.split == "other") & (steps.epoch == 6)].set_index("last_block").error
    total = blocks[(blocks.split == "other") & (blocks.kind == "total")].set_index("block").error
    pd.testing.assert_series_equal(last, total, check_names=False, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "sparsegpt-50% LR",
        "sparsegpt-50% BR[epochs=2,lr=1e-3]",
        "wanda-50% BR[width=2,epochs=2,lr=1e-3]",
        "wanda-50% BR+GP[epochs=2,lr=1e-3]",
        "magnitude-50% ridge",
        "wanda-50% retrain[epochs=2,lr=1e-3]",
        "flap-structures-50% LIAR",
        "flap-structures-50% LIAR[penalty=held-out]",
        "flap-structures-50% BR[repair=liar,width=2,epochs=2,lr=1e-3]",
        "flap-neurons-50% LIAR+GP",
    ],
)
def test_without_measuring_the_model_is_the_same_also_resumed(words, tmp_path, monkeypatch):
    """Where nobody measures and nobody follows the dense model, both streams are one tensor."""
    arguments = small_llama(), Recipe.parse(words), windows(8), {"other": windows(4, seed=1)}
    measured, bare = prune(*arguments), prune(*arguments, measure=False)
    assert len(bare.tables["blocks"]) == len(bare.tables["perplexity"]) == 0
    write = Checkpoint.write

    def stop_after_the_first(self, index, tensors, rows):
        write(self, index, tensors, rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoint, "write", stop_after_the_first)
        prune(*arguments, measure=False, checkpoint=tmp_path)
    resumed = prune(*arguments, measure=False, checkpoint=tmp_path)
    for other in (bare, resumed):
        assert all(
            torch.equal(a, b)
            for a, b in zip(measured.model.state_dict().values(), other.model.state_dict().values(), strict=True)
        )


def test_removed_weights_are_zeros_without_a_sign():
    result = prune(small_llama(), Recipe.parse("wanda-50% LR"), windows(4), measure=False)
    matrices = dict(anatomy(result.model).matrices())
    assert not any(torch.signbit(matrices[name].weight()[~mask]).any() for name, mask in result.masks.items())


@pytest.mark.slow
def test_float64_statistics_are_an_option():
    recipe = Recipe.parse("sparsegpt-50% LR")
    a, b = (prune(small_llama(), recipe, windows(8), precision=p) for p in (torch.float32, torch.float64))
    agreement = sum(float((a.masks[n] == b.masks[n]).float().mean()) for n in a.masks) / len(a.masks)
    assert agreement > 0.99


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: prune(m, Recipe.parse("wanda-50% LR"), windows(4, length=65)), "65 tokens.*context of 64"),
        (
            lambda m: prune(m, Recipe.parse("wanda-50% LR"), windows(4), {"calibration": windows(4, seed=1)}),
            "calibration",
        ),
        (
            lambda m: prune(m, Recipe.parse("wanda-50% BR[select=held-out]"), windows(1)),
            "select=held-out sets some of the calibration windows aside .* there is 1; give at least 2",
        ),
        (
            lambda m: prune(m, Recipe.parse("wanda-50% BR[width=9]"), windows(4)),
            "width=9: the model has 3 blocks; .*unit=model",
        ),
        (
            lambda m: prune(m, Recipe.parse("wanda-5:7 BR[train=masklora,rank=99]"), windows(4)),
            "5:7 does not divide.*; rank=99 is above the rank of 21 matrices.*at most",
        ),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(UsageError, match=message):
        call(small_llama())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_pruned_and_reconstructed(family):
    """Cross-block windows on padded text: targets, statistics and errors of every family, mixed attention included."""
    dense = tiny(family)
    w = windows(6, length=LENGTH, vocabulary=VOCABULARY, padded=True)
    layerwise = prune(dense, Recipe.parse("sparsegpt-50% LR"), w)
    result = prune(dense, Recipe.parse("sparsegpt-50% BR+GP+CR[epochs=8,lr=2e-3]"), w)
    assert _final_error(result) < _final_error(layerwise)
    assert (result.tables["matrices"].sparsity == 0.5).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "method", ["BR+GP[unit=matrix,epochs=4,lr=2e-3]", "BR+GP[unit=sub-block,epochs=4,lr=2e-3]", "ridge[target=dense]"]
)
def test_matrices_and_halves_of_every_family(family, method):
    dense = tiny(family)
    w = windows(6, length=LENGTH, vocabulary=VOCABULARY, padded=True)
    layerwise, result = (prune(dense, Recipe.parse(f"magnitude-50% {m}"), w) for m in ("LR", method))
    assert _final_error(result) < _final_error(layerwise)
    assert (result.tables["matrices"].sparsity == 0.5).all()
    if "unit" in method:
        steps = result.tables["steps"]
        first, last = (steps[steps.epoch == epoch].error.to_numpy() for epoch in (0, 4))
        assert (last < first).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "method", ["BR+GP", "BR+GP[unit=sub-block]", "IR[unit=matrix,train=masklora,rank=4]", "ridge", "retrain"]
)
def test_half_precision_models_stay_half_and_improve(method, dtype):
    dense = small_llama(dtype=dtype)
    layerwise = prune(dense, Recipe.parse("wanda-50% LR"), windows(8))
    options = "" if method == "ridge" else "epochs=6,lr=4e-3"
    text = f"{method[:-1]},{options}]" if method.endswith("]") else f"{method}[{options}]" if options else method
    result = prune(dense, Recipe.parse(f"wanda-50% {text}"), windows(8))
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert all(bool(p.isfinite().all()) for p in result.model.parameters())
    if method == "retrain":
        assert _nats(result) < _nats(layerwise)
    else:
        assert _final_error(result) < _final_error(layerwise)


@pytest.mark.gpu
@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_on_a_gpu_the_result_is_the_cpus_within_rounding(method):
    recipe, held_out = _recipe("wanda-50%", method), {"other": windows(4, seed=1)}
    cpu = prune(small_llama(), recipe, windows(8), held_out)
    gpu = prune(small_llama().cuda(), recipe, windows(8), held_out)
    assert _final_error(gpu) == pytest.approx(_final_error(cpu), rel=0.05)
    assert next(gpu.model.parameters()).is_cuda
    assert (gpu.tables["cost"].peak_memory_mib > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("lr", [0.3, 1e-3])
def test_units_that_training_made_worse_are_recorded_and_told_once(lr, caplog):
    result = prune(
        small_llama(blocks=2), Recipe.parse(f"magnitude-50% BR[lr={lr},epochs=3]"), windows(2, length=8), measure=False
    )
    steps, numerics = result.tables["steps"], result.tables["numerics"]
    ratios = {unit: rows.error.iloc[-1] / rows.error.iloc[0] for unit, rows in steps.groupby("unit")}
    worse = {block: ratio for block, ratio in ratios.items() if ratio > 1}
    assert len(worse) == (2 if lr > 0.1 else 0)
    told = numerics[numerics.rule == "ended worse"]
    assert dict(zip(told.block, told.value)) == pytest.approx(worse)
    words = [record.getMessage() for record in caplog.records if "farther from their targets" in record.getMessage()]
    assert len(words) == bool(worse) and all("lower lr (now 0.3)" in word for word in words)


@pytest.mark.parametrize(("value", "words"), [(3.2, "block 1 3.2 times"), (7e10, "block 1 had nothing to be repaired")])
def test_a_unit_that_was_exact_before_is_not_told_as_a_ratio(value, words, caplog):
    rows = [{"rule": "ended worse", "block": 1, "value": value}, {"rule": "ended worse", "block": 0, "value": 2.0}]
    warn_of_worse(SimpleNamespace(rows={"numerics": rows}, recipe=Recipe.parse("magnitude-50% BR")))
    assert f"({words})" in caplog.text and "left 2 units" in caplog.text

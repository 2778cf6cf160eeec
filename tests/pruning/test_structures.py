"""Whole structures in the loop: the chain by hand, every criterion and repair, what is saved and what becomes
smaller.
"""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from analysis.errors import UsageError
from analysis.measure.perplexity import perplexity
from analysis.measure.size import size_table
from analysis.models.anatomy import anatomy
from analysis.models.hub import is_shrunk
from analysis.models.load import load_model
from analysis.models.save import assert_sparsity, save_shrunk
from analysis.pruning.loop import prune
from analysis.recipe.recipe import Recipe
from analysis.recipe.words import REPAIR_METHODS, STRUCTURED_WORDS
from analysis.schema import TABLES
from analysis.structured.pairs import column_mask, element_masks, remove
from analysis.structured.shrink import adopt_config, footprint
from tests.helpers.families import FAMILIES, LENGTH, VOCABULARY, tiny
from tests.helpers.small import block_outputs, small_llama, windows
from tests.helpers.structures import (
    ACROSS_HEADS,
    chosen_by_hand,
    copy_with_structures,
    repaired_by_hand,
    two_streams_by_hand,
)

EVERY = [("neurons", method) for method in REPAIR_METHODS] + [
    ("heads", "LR"),
    ("structures", "LIAR+GP"),
    ("structures", "BR+GP[repair=liar,epochs=3,lr=2e-3]"),
]


def error(result, kind: str = "total") -> float:
    blocks = result.tables["blocks"]
    return float(blocks[(blocks.split == "calibration") & (blocks.kind == kind)].sort_values("block").error.iloc[-1])


def same(a, b, **close) -> bool:
    ours, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    assert ours.keys() == theirs.keys()
    return all(
        torch.allclose(ours[name], theirs[name], **close) if close else torch.equal(ours[name], theirs[name])
        for name in ours
    )


# the loop and the chain by hand
# ----------------------------------------------------------------------------------------


def with_zeros(model):
    """The biases that the loop's model has and a chain by hand has not made: zeros."""
    adopt_config(model, anatomy(model))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "criterion, kind, kinds",
    [("flap", "neurons", ["neurons"]), ("fisher", "structures", ["heads", "neurons"]), ("snip", "heads", ["heads"])],
)
def test_two_streams_are_the_walk_by_hand(criterion, kind, kinds):
    dense, w = small_llama(), windows(16)
    removable, _, masks = chosen_by_hand(dense, w, criterion, kinds, "global", 0.4)
    twin = two_streams_by_hand(dense, removable, masks, w, 0.001)
    result = prune(
        dense, Recipe.parse(f"{criterion}-{kind}-40%[scope=global] LIAR+GP[penalty=0.001]"), w, precision=torch.float64
    )
    assert result.structure_masks.keys() == masks.keys() and all(
        torch.equal(result.structure_masks[name], mask) for name, mask in masks.items()
    )
    assert same(result.model, with_zeros(twin), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method, word", [("compensate", "bias"), ("scale", "scale"), ("LIAR", "liar")])
def test_the_dense_stream_is_the_chain_of_one_pass(method, word):
    dense, w = small_llama(), windows(16)
    removable, gathered, masks = chosen_by_hand(dense, w, "activation", ["heads", "neurons"], "uniform")
    twin, ours = copy_with_structures(dense, removable)
    results = repaired_by_hand(removable, masks, gathered, word, 0.01)
    for pair in ours:
        results[pair.name].install(pair.consumer)
    remove(ours, masks)
    options = "" if method == "compensate" else ",penalty=0.01"
    recipe = Recipe.parse(f"activation-structures-50%[statistics=dense] {method}[student=dense,target=dense{options}]")
    result = prune(dense, recipe, w, precision=torch.float64)
    assert all(torch.equal(result.structure_masks[name], mask) for name, mask in masks.items())
    assert same(result.model, with_zeros(twin), atol=1e-5)
    layers = result.tables["layers"].set_index(["block", "matrix"])
    for pair in removable:
        row = layers.loc[(pair.block, pair.consumer.name)]
        assert (row.error_before, row.error_after) == pytest.approx(
            (results[pair.name].loss_before, results[pair.name].loss_after), rel=1e-3
        )


@pytest.mark.slow
def test_the_sparse_stream_is_least_squares_on_what_the_pruned_model_hands_over():
    """LIAR's block 1 by brute force: inputs that passed the repaired block 0, targets the dense matrix's own outputs on
    them.
    """
    dense, w = small_llama(blocks=2), windows(32)
    result = prune(dense, Recipe.parse("flap-structures-50% LIAR[penalty=0]"), w)
    half = copy.deepcopy(result.model)
    block, original = anatomy(half).blocks[1], anatomy(dense).blocks[1]
    inputs = {}
    for name in ("mlp.gate_proj", "mlp.up_proj"):  # attention repaired, the MLP still whole
        block.module.get_submodule(name).weight.data.copy_(original.module.get_submodule(name).weight)
    block.module.mlp.down_proj.register_forward_pre_hook(lambda module, args: inputs.__setitem__("x", args[0].double()))
    with torch.no_grad():
        half(input_ids=w.ids)
    x = inputs["x"].reshape(-1, 64)
    pair = next(pair for pair in result.structures if pair.block == 1 and pair.kind == "neurons")
    kept = column_mask(pair, result.structure_masks[pair.name])
    wanted = x @ original.module.mlp.down_proj.weight.double().T
    solved = torch.linalg.lstsq(torch.cat([x[:, kept], torch.ones(len(x), 1, dtype=x.dtype)], 1), wanted).solution
    repaired_module = anatomy(result.model).blocks[1].module.mlp.down_proj
    torch.testing.assert_close(repaired_module.weight[:, kept].double(), solved[:-1].T, atol=2e-4, rtol=2e-3)
    torch.testing.assert_close(repaired_module.bias.double(), solved[-1], atol=2e-4, rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["sparse", "dense"])
def test_scores_look_at_the_stream_of_the_recipe(stream):
    """Activation norms of block 1, its neurons' inputs taken from the dense model or from the model whose block 0 is
    pruned.
    """
    dense, w = small_llama(blocks=2), windows(8)
    result = prune(dense, Recipe.parse(f"activation-neurons-50%[statistics={stream}] LR"), w)
    source = copy.deepcopy(dense)
    if stream == "sparse":
        anatomy(source).blocks[0].module.load_state_dict(anatomy(result.model).blocks[0].module.state_dict())
    seen = {}
    source.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.__setitem__("x", args[0]))
    with torch.no_grad():
        source(input_ids=w.ids)
    best = seen["x"].reshape(-1, 64).square().sum(0).argsort(descending=True)[:32]
    assert set(result.structure_masks["model.layers.1.mlp.down_proj"].nonzero().flatten().tolist()) == set(
        best.tolist()
    )


# every criterion, repair and family
# ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("criterion", STRUCTURED_WORDS)
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_every_criterion_removes_what_the_pattern_says(criterion, scope):
    dense = small_llama()
    before = copy.deepcopy(dense.state_dict())
    result = prune(
        dense,
        Recipe.parse(f"{criterion}-structures-50%" + ("[scope=global]" if scope == "global" else "") + " LR"),
        windows(8),
        {"o": windows(4, seed=1)},
    )
    assert all(torch.equal(before[name], value) for name, value in dense.state_dict().items()), (
        "the dense model is never modified"
    )
    assert set(result.tables) == set(TABLES) and len(result.tables["layers"]) == 0
    table = result.tables["structures"]
    assert list(table.kind) == ["heads", "neurons"] * 3 and set(table.structures) == {2, 64} and (table.kept >= 1).all()
    if scope == "uniform":
        assert (2 * table.kept == table.structures).all()
    matrices, masks = result.tables["matrices"], element_masks(result.structures, result.structure_masks)
    assert (
        len(matrices) == 21
        and masks.keys() == result.masks.keys()
        and all(torch.equal(masks[name], mask) for name, mask in result.masks.items())
    )
    assert 1 - matrices.kept.sum() / (matrices["rows"] * matrices["columns"]).sum() == pytest.approx(0.5, abs=0.05)
    for (name, old), (_, new) in zip(dense.named_parameters(), result.model.named_parameters(), strict=True):
        mask = result.masks.get(name.removesuffix(".weight"))
        assert torch.equal(new, old if mask is None else old * mask), "the mask alone: kept weights stay"


@pytest.mark.slow
@pytest.mark.parametrize("kind, method", EVERY)
def test_every_repair_brings_the_model_closer_and_says_by_how_much(kind, method):
    dense, w = small_llama(), windows(32)
    plain, result = (prune(dense, Recipe.parse(f"flap-{kind}-50% {m}"), w) for m in ("LR", method))
    assert error(result) < error(plain) or method in ("LR", "scale")
    assert_sparsity(result.model, result.masks)
    layers, numerics, cost = (result.tables[name] for name in ("layers", "numerics", "cost"))
    repair = result.recipe.repair.name
    assert (
        set(layers.action) == ({repair} if repair != "none" else set())
        and (layers.error_after <= layers.error_before).all()
    )
    assert (numerics.rule == "condition").sum() == (0 if repair in ("none", "compensate") else len(layers))
    assert set(cost.stage) >= {"structures", "record", "statistics", "mask", "repair", "advance", "measure"}
    assert (cost[cost.stage == "repair"].trainable_parameters > 0).all() or repair == "none"
    if kind == "neurons":
        untouched = result.tables["matrices"].query("not matrix.str.startswith('mlp')")
        assert (untouched.sparsity == 0).all() and len(untouched) == 12


@pytest.mark.slow
def test_repairs_come_in_the_order_of_what_they_may_change():
    """On one block's calibration error: LIAR <= bias and LIAR <= scale <= the mask; two streams <= one."""
    dense, w = small_llama(blocks=1), windows(32)
    errors = {
        m: error(prune(dense, Recipe.parse(f"flap-neurons-50% {m}"), w))
        for m in ("LR", "compensate", "scale[penalty=0]", "LIAR[penalty=0]")
    }
    mask, bias, scale, liar = errors.values()
    assert liar < bias < mask and liar < scale < mask
    dense = small_llama(blocks=4)
    one, two = (
        error(prune(dense, Recipe.parse(f"flap-structures-50% {m}[penalty=1e-6]"), w)) for m in ("LIAR", "LIAR+GP")
    )
    assert two < one


@pytest.mark.slow
def test_gradient_steps_start_from_the_repair_and_stay_under_its_masks():
    dense, w = small_llama(), windows(16)
    repaired_alone = prune(dense, Recipe.parse("flap-structures-50% LIAR+GP"), w)
    result = prune(dense, Recipe.parse("flap-structures-50% BR+GP[repair=liar,epochs=4,lr=1e-3]"), w)
    steps, blocks = result.tables["steps"], repaired_alone.tables["blocks"]
    first = steps[(steps.unit == 0) & (steps.epoch == 0)].error.iloc[0]
    assert first == pytest.approx(blocks[(blocks.block == 0) & (blocks.kind == "total")].error.iloc[0], rel=1e-4)
    assert error(result) < error(repaired_alone)
    assert_sparsity(result.model, result.masks)


@pytest.mark.slow
def test_units_of_several_new_blocks_repair_each_after_the_one_before():
    """unit=model repairs all blocks in one visit; the repairs are those of LIAR+GP, block by block."""
    dense, w = small_llama(), windows(16)
    whole = prune(
        dense,
        Recipe.parse("flap-structures-50% BR+GP[unit=model,repair=liar,epochs=1,lr=1e-12]"),
        w,
        {"o": windows(4, seed=1)},
    )
    walk = prune(dense, Recipe.parse("flap-structures-50% LIAR+GP"), w, {"o": windows(4, seed=1)})
    assert all(torch.equal(whole.structure_masks[name], mask) for name, mask in walk.structure_masks.items())
    columns = ["error_before", "error_after"]
    torch.testing.assert_close(
        torch.tensor(whole.tables["layers"][columns].to_numpy()),
        torch.tensor(walk.tables["layers"][columns].to_numpy()),
        rtol=1e-5,
        atol=0,
    )


@pytest.mark.slow
def test_validation_error_chooses_the_penalty():
    dense, w = small_llama(), windows(4)
    other = windows(32, seed=1)
    result = prune(dense, Recipe.parse("flap-neurons-50% LIAR+GP[penalty=held-out]"), w, validation=other)
    numerics = result.tables["numerics"]
    picked = numerics[numerics.rule == "penalty"]
    assert len(picked) == 3 and picked.value.isin([1e-5, 1e-4, 1e-3, 1e-2, 1e-1]).all()
    fixed = prune(dense, Recipe.parse("flap-neurons-50% LIAR+GP[penalty=1e-5]"), w, {"validation": other})
    at = lambda r: r.tables["blocks"].query("split != 'calibration' and kind == 'total' and block == 0").error.sum()
    assert at(result) <= at(fixed)


@pytest.mark.slow
def test_masks_chosen_first_are_not_chosen_again_on_resuming(tmp_path, monkeypatch):
    from analysis.pruning import structures
    from analysis.pruning.checkpoint import Checkpoint

    arguments = (small_llama(), Recipe.parse("snip-structures-50% LIAR"), windows(8))
    uninterrupted, write = prune(*arguments), Checkpoint.write

    def stop(self, index, tensors, rows):
        write(self, index, tensors, rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoint, "write", stop)
        prune(*arguments, checkpoint=tmp_path)
    monkeypatch.setattr(structures, "dense_evidence", lambda *_: pytest.fail("the dense model is looked at again"))
    assert same(prune(*arguments, checkpoint=tmp_path).model, uninterrupted.model)


@pytest.mark.slow
def test_masks_alone_of_the_windows_that_are_not_added():
    from analysis.windows import append

    w, added = windows(8), windows(8, seed=5)
    for scope in ("", "[scope=global]"):
        alone, more = (
            prune(small_llama(), Recipe.parse(f"flap-neurons-50%{scope} LIAR"), data) for data in (w, append(w, added))
        )
        assert torch.equal(
            alone.structure_masks["model.layers.0.mlp.down_proj"], more.structure_masks["model.layers.0.mlp.down_proj"]
        )
        assert not same(alone.model, more.model), "the repair sees all"
        everything = prune(
            small_llama(),
            Recipe.parse(f"flap-neurons-50%{scope.replace('[', '[added=all,') or '[added=all]'} LIAR"),
            append(w, added),
        )
        assert any(
            not torch.equal(everything.structure_masks[name], mask) for name, mask in more.structure_masks.items()
        )


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loses_structures_and_is_repaired(family):
    dense, kind = tiny(family), "neurons" if family in ACROSS_HEADS else "structures"
    w = windows(12, length=LENGTH, vocabulary=VOCABULARY, padded=True)
    plain, result = (prune(dense, Recipe.parse(f"wanda-sp-{kind}-50% {m}"), w) for m in ("LR", "LIAR+GP"))
    assert error(result) < error(plain)
    assert_sparsity(result.model, result.masks)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_stay_half_and_improve(dtype):
    dense, w = small_llama(dtype=dtype), windows(32)
    plain, result = (prune(dense, Recipe.parse(f"flap-structures-50% {m}"), w) for m in ("LR", "LIAR+GP"))
    assert {p.dtype for p in result.model.parameters()} == {dtype} and error(result) < error(plain)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "recipe",
    [
        "flap-structures-50% LIAR",
        "fisher-structures-40%[scope=global] LIAR+GP",
        "wanda-sp-neurons-50% BR+GP[repair=liar,epochs=2,lr=1e-3]",
    ],
)
def test_on_a_gpu_the_result_is_the_cpus_within_rounding(recipe, tmp_path):
    cpu, gpu = (
        prune(model, Recipe.parse(recipe), windows(16), {"o": windows(4, seed=1)})
        for model in (small_llama(), small_llama().cuda())
    )
    assert all(torch.equal(gpu.structure_masks[name], mask) for name, mask in cpu.structure_masks.items())
    assert error(gpu) == pytest.approx(error(cpu), rel=0.02) and next(gpu.model.parameters()).is_cuda
    small = gpu.shrink()
    assert load_model(str(save_shrunk(small, None, tmp_path / "small")), device="cuda").device.type == "cuda"
    assert (
        size_table({"dense": small_llama().cuda(), "pruned": small}, windows(16), rounds=1).tokens_per_second > 0
    ).all()


# saving and shrinking
# --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        "flap-structures-50% LIAR",
        "flap-structures-40%[scope=global] LIAR+GP",
        "wanda-sp-heads-50%[heads=queries] BR+GP[repair=compensate,epochs=1]",
    ],
)
def test_the_masked_model_comes_back_by_the_usual_way(recipe, tmp_path):
    result = prune(small_llama(), Recipe.parse(recipe), windows(8))
    result.save(tmp_path / "model")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert same(result.model, reloaded) and reloaded.config.use_cache
    assert_sparsity(reloaded, result.masks)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "opt", "gpt2", "gemma2"])
def test_created_biases_are_never_lost_in_saving(family, tmp_path):
    """Where the config has no word for a bias, the folder is one that only `load_model` reads."""
    result = prune(
        tiny(family), Recipe.parse("flap-neurons-50% LIAR"), windows(6, length=LENGTH, vocabulary=VOCABULARY)
    )
    result.save(tmp_path / "model")
    assert is_shrunk(tmp_path / "model") is (family in ("qwen2", "gemma2"))
    reloaded = load_model(str(tmp_path / "model"), device="cpu")
    assert same(result.model, reloaded.model)
    assert_sparsity(reloaded.model, result.masks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        "flap-neurons-50% LIAR+GP",
        "fisher-structures-40%[scope=global,flops=64] LIAR+GP",
        "flap-heads-50%[heads=queries] LR",
    ],
)
def test_the_shrunk_model_is_the_masked_one_and_comes_back(recipe, tmp_path):
    dense, w = small_llama(), windows(8)
    result = prune(dense, Recipe.parse(recipe), w)
    small = result.shrink()
    with torch.no_grad():
        masked_logits, small_logits = (model(input_ids=w.ids).logits for model in (result.model, small))
    torch.testing.assert_close(small_logits, masked_logits, rtol=1e-5, atol=1e-5)
    again = load_model(str(save_shrunk(small, None, tmp_path / "small")), device="cpu").model
    assert same(small, again)
    with torch.no_grad():
        assert torch.equal(again(input_ids=w.ids).logits, small_logits)
    assert perplexity(again, w).perplexity == pytest.approx(perplexity(result.model, w).perplexity, rel=1e-5)
    kept, every = result.tables["matrices"].kept.sum(), footprint(dense, 16).in_blocks
    biases = sum(p.numel() for name, p in small.named_parameters() if name.endswith(".bias"))
    assert footprint(small, 16).in_blocks - biases == kept < every
    sizes = size_table({"dense": dense, "pruned": small}, w, rounds=1).set_index("which")
    assert sizes.parameters.to_dict() == {
        name: sum(p.numel() for p in model.parameters()) for name, model in (("dense", dense), ("pruned", small))
    }
    assert (
        sizes.flops_per_token["pruned"] < sizes.flops_per_token["dense"]
        and (sizes[["latency_ms", "tokens_per_second"]] > 0).all().all()
    )


# what cannot be done
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe, said",
    [
        (
            "flap-heads-30% LR",
            (
                r"0.3 of model.layers.0.self_attn.o_proj cannot be removed: it has 2 KV groups of 2 query heads; the"
                r" shares it can lose are 0, 0.5"
            ),
        ),
        (
            "flap-heads-90%[scope=global] LR",
            "no mask removes 0.9 of these structures.*one in each of 3 layers must stay",
        ),
    ],
)
def test_what_no_mask_meets_is_refused(recipe, said):
    with pytest.raises(UsageError, match=said):
        prune(small_llama(), Recipe.parse(recipe), windows(4))


def test_single_weights_do_not_shrink():
    result = prune(small_llama(blocks=1), Recipe.parse("wanda-50% LR"), windows(4))
    assert not list(result.structures) and not result.structure_masks
    with pytest.raises(
        UsageError,
        match="wanda-50% LR removes single weights, so no matrix gets smaller; a pattern of heads, neurons, structures",
    ):
        result.shrink()


def test_fewer_tokens_than_kept_features_is_damped_recorded_and_told(caplog):
    result = prune(small_llama(blocks=1), Recipe.parse("flap-neurons-50% LIAR[penalty=0]"), windows(1, length=8))
    numerics = result.tables["numerics"]
    assert {"few tokens", "damping"} <= set(numerics.rule) and set(numerics.matrix) == {"mlp.down_proj"}
    assert "1 matrix was repaired from 8 calibration tokens" in caplog.text and "give more samples" in caplog.text
    caplog.clear()
    prune(small_llama(blocks=1), Recipe.parse("flap-neurons-50% LIAR"), windows(8, length=8))
    assert "calibration tokens" not in caplog.text
    assert all(bool(p.isfinite().all()) for p in result.model.parameters())


@pytest.mark.slow
def test_block_errors_are_those_of_the_model_as_it_ends():
    dense, w = small_llama(), windows(8)
    result = prune(dense, Recipe.parse("flap-structures-50% LIAR+GP"), w)
    ours, theirs = block_outputs(result.model, w), block_outputs(dense, w)
    blocks = result.tables["blocks"].query("kind == 'total'").set_index("block").error
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert blocks[index] == pytest.approx(float((a - b).square().mean()), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, kept",
    [
        ("magnitude-neurons-50%[skip=0] LIAR", [64, 32]),
        ("snip-neurons-50%[shares=0.25+0.75] LR", [48, 16]),
        ("magnitude-structures-50%[shares=o_proj:0.5+down_proj:0.25+0:0] LR", [1, 48, 1, 48]),
        ("magnitude-heads-25%[shares=0+0.5] LR", [2, 1]),
    ],
)
def test_uneven_shares_of_structures_and_blocks_that_stay_dense(text, kept):
    dense = small_llama(blocks=2)
    result = prune(dense, Recipe.parse(text), windows(4), measure=False)
    assert result.tables["structures"].kept.tolist() == kept
    if "skip=0" in text:
        same = zip(anatomy(dense).blocks[0].matrices, anatomy(result.model).blocks[0].matrices, strict=True)
        assert all(torch.equal(before.weight(), after.weight()) for before, after in same)


@pytest.mark.parametrize(
    "options, problem",
    [
        ("shares=up_proj:0.5", "up_proj says nothing of neurons; name what reads them, down_proj, or a block"),
        ("skip=o_proj", "o_proj says nothing of neurons"),
        ("shares=0.999+0.001", "0.999 of .* cannot be removed: it has 64 neurons"),
        ("skip=2", "there is no block 2"),
    ],
)
def test_uneven_shares_that_structures_cannot_have_are_refused(options, problem):
    with pytest.raises(UsageError, match=problem):
        prune(small_llama(blocks=2), Recipe.parse(f"magnitude-neurons-50%[{options}] LR"), windows(2))

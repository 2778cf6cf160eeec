"""Whole blocks and halves in the loop: the chain by hand, errors where groups end, resumed runs, what is saved."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from analysis.errors import RecipeError, UnsupportedModel, UsageError
from analysis.measure.perplexity import perplexity
from analysis.models.anatomy import anatomy
from analysis.models.passing import Passing, cut_blocks
from analysis.models.replay import last_hidden
from analysis.models.save import assert_sparsity
from analysis.pruning.checkpoint import Checkpoint
from analysis.pruning.loop import prune
from analysis.recipe.parts import Unit
from analysis.reconstruction.schedule import groups, visits
from tests.helpers.encoders import encoder, examples
from tests.helpers.families import tiny
from tests.helpers.small import block_outputs, small_llama, windows

pytestmark = pytest.mark.slow  # whole runs

TEXT = windows(4, padded=True)
MIDDLE = "skip=first:1+last:1"  # of four blocks two may go


class Interrupted(Exception):
    pass


def pruned(text: str, model=None, **more):
    return prune(small_llama(blocks=4) if model is None else model, text, more.pop("calibration", TEXT), **more)


def errors(result, kind: str = "total") -> dict[int, float]:
    blocks = result.tables["blocks"]
    blocks = blocks[(blocks.kind == kind) & (blocks.split == "calibration")]
    return dict(zip(blocks.block, blocks.error, strict=True))


def square(difference) -> float:
    return float(difference[TEXT.mask].double().square().mean())


# groups and visits
# ----------------------------------------------------------------------------------------------------------------------


def test_a_block_that_stays_is_visited_with_the_removed_ones_behind_it():
    assert groups(6, {2, 3}) == [(0,), (1, 2, 3), (4,), (5,)]
    assert groups(4, {0, 1}) == [(0, 1, 2), (3,)]
    assert groups(5, {0, 2, 4}) == [(0, 1, 2), (3, 4)]
    assert groups(3) == [(0,), (1,), (2,)]
    plan = visits(6, Unit(width=2, overlap=1), {2, 3})
    assert [visit.blocks for visit in plan] == [(0,), (0, 1, 2, 3), (1, 2, 3, 4), (4, 5), (5,)]
    assert [visit.advance_to for visit in plan] == [0, 1, 4, 5, 6]
    with pytest.raises(UsageError, match="width=5: the model keeps 4 blocks"):
        visits(6, Unit(width=5), {2, 3})


# the model without blocks
# ----------------------------------------------------------------------------------------------------------------------


def test_without_repair_it_is_the_model_with_the_blocks_deleted():
    model = small_llama(blocks=4)
    result = pruned(f"random-blocks-2[{MIDDLE}] LR", model)
    small = copy.deepcopy(model)
    del small.model.layers[1:3]
    for layer in small.model.layers[1:]:
        layer.self_attn.layer_idx = 1
    small.config.num_hidden_layers = 2
    for ours in (result.model, result.shrink()):
        torch.testing.assert_close(last_hidden(ours, TEXT.ids), last_hidden(small, TEXT.ids))
    row = result.tables["perplexity"].set_index("which").perplexity["pruned"]
    assert row == pytest.approx(perplexity(small, TEXT).perplexity, rel=1e-6)


def test_masks_and_tables_say_what_is_gone():
    result = pruned(f"random-blocks-2[{MIDDLE}] LR")
    assert_sparsity(result.model, result.masks)
    gone = {name for name, mask in result.masks.items() if not mask.any()}
    assert {name.split(".")[2] for name in gone} == {"1", "2"} and len(gone) == 14
    assert all(mask.all() for name, mask in result.masks.items() if name not in gone)
    assert dict(result.tables["structures"][["block", "kept"]].values) == {0: 1, 1: 0, 2: 0, 3: 1}
    matrices = result.tables["matrices"]
    assert 1 - matrices.kept.sum() / (matrices["rows"] * matrices["columns"]).sum() == 0.5
    assert not any(isinstance(module, Passing) for module in result.model.modules())
    assert set(result.structure_masks) == {f"model.layers.{index}" for index in range(4)}


def test_errors_are_measured_where_a_group_ends_against_the_dense_blocks_of_it():
    model = small_llama(blocks=4)
    result = pruned(f"random-blocks-2[{MIDDLE}] LR", model)
    dense, ours = block_outputs(model, TEXT), block_outputs(result.model, TEXT)
    found = errors(result)
    assert found.keys() == {2, 3}, "where the next block is gone the two streams do not aim at the same"
    assert found[2] == pytest.approx(square(dense[2] - ours[0]), rel=1e-4)
    assert found[3] == pytest.approx(square(dense[3] - ours[3]), rel=1e-4)
    assert errors(result, "inherited")[2] == 0 and errors(result, "local")[2] == pytest.approx(found[2], rel=1e-4)


def test_without_measuring_the_same_model_comes_out():
    one, other = (pruned(f"random-blocks-2[{MIDDLE}] refit+GP", measure=measure).model for measure in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# what stays
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["middle", "start"])
def test_refit_is_least_squares_on_the_stream_of_the_cut_model(where):
    """Of four blocks two are gone: the projection of the block that takes over, by brute force in float64."""
    model = small_llama(blocks=4, dtype=torch.float64)
    skip, boundary, end, gone = (MIDDLE, 0, 2, {1, 2}) if where == "middle" else ("2+3", 2, 2, {0, 1})
    result = pruned(f"random-blocks-2[skip={skip.removeprefix('skip=')}] refit+GP[penalty=0.0]", model)
    target, seen = block_outputs(model, TEXT)[end], {}
    small = cut_blocks(model, "model.layers", gone)
    layer = small.model.layers[0]
    layer.mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.__setitem__("x", args[0]))
    layer.post_attention_layernorm.register_forward_pre_hook(lambda module, args: seen.__setitem__("r", args[0]))
    small(input_ids=TEXT.ids, attention_mask=TEXT.mask.long(), use_cache=False)
    x, y = seen["x"][TEXT.mask], (target - seen["r"])[TEXT.mask]
    start = layer.mlp.down_proj.weight
    best = start + torch.linalg.lstsq(x, y - x @ start.T, driver="gelsd").solution.T
    ours = result.model.model.layers[boundary].mlp.down_proj.weight
    scale = float((y - x @ best.T).square().mean())
    assert float((y - x @ ours.T).square().mean()) == pytest.approx(scale, rel=1e-3, abs=1e-9)
    (row,) = result.tables["layers"].to_dict("records")
    assert (row["block"], row["matrix"], row["action"]) == (boundary, "mlp.down_proj", "refit")
    assert row["error_before"] == pytest.approx(float((y - x @ start.T).square().mean()), rel=1e-6)
    assert row["error_after"] < 0.2 * row["error_before"]


@pytest.mark.parametrize("where", ["middle", "start"])
def test_a_ghost_is_least_squares_from_the_state_before_the_removed_run_to_the_one_behind_it(where):
    model = small_llama(blocks=4, dtype=torch.float64)
    skip, first = (MIDDLE, 1) if where == "middle" else ("skip=2+3", 0)
    result = pruned(f"random-blocks-2[{skip}] ghost+GP[penalty=0.0]", model)
    dense = block_outputs(model, TEXT)
    before = dense[0] if first else model.model.embed_tokens(TEXT.ids)
    x, t = before[TEXT.mask], dense[first + 1][TEXT.mask]
    best = x @ torch.linalg.lstsq(x, t, driver="gelsd").solution
    handed = []
    result.model.model.layers[first].register_forward_hook(lambda module, args, output: handed.append(output))
    result.model(input_ids=TEXT.ids, attention_mask=TEXT.mask.long(), use_cache=False)
    torch.testing.assert_close(handed[0][TEXT.mask], best, rtol=1e-4, atol=1e-6)
    (row,) = result.tables["layers"].to_dict("records")
    assert (row["block"], row["matrix"], row["action"]) == (first, "ghost", "ghost")
    assert row["error_before"] == pytest.approx(square(dense[first + 1] - before), rel=1e-6)
    assert row["error_after"] == pytest.approx(float((t - best).square().mean()), rel=1e-3, abs=1e-12)
    (cost,) = result.tables["cost"].query("trainable_parameters > 0").trainable_parameters
    assert cost == before.shape[-1] ** 2


def test_a_model_with_ghosts_is_measured_and_never_saved_without_them(tmp_path):
    result = pruned(f"random-blocks-2[{MIDDLE}] ghost+GP")
    assert [type(layer) is Passing for layer in result.model.model.layers] == [False, True, True, False]
    row = result.tables["perplexity"].set_index("which").perplexity["pruned"]
    assert row == pytest.approx(perplexity(result.model, TEXT).perplexity, rel=1e-6)
    plain = pruned(f"random-blocks-2[{MIDDLE}] LR").tables["perplexity"].set_index("which").perplexity["pruned"]
    assert abs(row - plain) > 1e-4 * plain
    with pytest.raises(UsageError, match="save: .* leaves a linear map between blocks, which no checkpoint"):
        result.save(tmp_path / "model")
    with pytest.raises(UsageError, match="shrink: .* leaves a linear map between blocks"):
        result.shrink()
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        f"random-blocks-2[{MIDDLE}] refit",
        "random-blocks-2 ghost+GP[penalty=held-out]",
        f"random-blocks-2[{MIDDLE}] BR+GP[repair=ghost,epochs=3,lr=1e-3]",
        "random-blocks-2 replace+GP[penalty=held-out]",
        "influence-attention-50% refit+GP",
        "gain-mlp-2 replace",
        f"random-blocks-2[{MIDDLE}] patch[form=bias]",
        f"random-blocks-2[{MIDDLE}] BR+GP[epochs=3,lr=1e-3]",
        f"random-blocks-2[{MIDDLE}] BR+GP+CR[epochs=3,lr=1e-3]",
        f"random-blocks-2[{MIDDLE}] BR[unit=model,repair=patch,epochs=3,lr=1e-3]",
        "random-attention-2 BR+GP[unit=sub-block,epochs=3,lr=1e-3]",
    ],
)
def test_repairs_and_gradient_steps_lower_the_last_error_and_keep_what_is_gone_gone(recipe):
    result, plain = pruned(recipe), pruned(recipe.partition(" ")[0] + " LR")
    assert errors(result)[3] < errors(plain)[3]
    assert_sparsity(result.structures.parts if "ghost" in recipe else result.model, result.masks)
    assert all(torch.equal(mask, plain.masks[name]) for name, mask in result.masks.items()) or "held-out" in recipe


@pytest.mark.slow
def test_retraining_trains_the_model_without_its_blocks():
    model = tiny("gpt2")  # its blocks have biases, which must stay gone with them
    text = windows(4, vocabulary=64)
    result = pruned(f"random-blocks-2[{MIDDLE}] retrain[epochs=2,lr=1e-3]", model, calibration=text)
    assert all(
        not p.any()
        for block in (1, 2)
        for m in result.structures.parts.blocks[block].matrices
        for p in m.module.parameters()
    )
    table = result.tables["steps"]
    table = table[table.split == "calibration"].sort_values("epoch")
    assert table.error.iloc[-1] < table.error.iloc[0]
    torch.testing.assert_close(last_hidden(result.model, text.ids), last_hidden(result.shrink(), text.ids))


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        f"perplexity-blocks-2[{MIDDLE}] BR+GP[repair=refit,epochs=1]",
        "influence-mlp-2 BR+GP[repair=refit,epochs=1]",
        f"perplexity-blocks-2[{MIDDLE}] BR+GP[repair=ghost,epochs=1]",
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(recipe, tmp_path, monkeypatch):
    model = tiny("gpt2")
    text = windows(4, vocabulary=64)
    whole, write = pruned(recipe, model, calibration=text), Checkpoint.write

    def once(self, index, *rest):
        write(self, index, *rest)
        raise Interrupted

    monkeypatch.setattr(Checkpoint, "write", once)
    with pytest.raises(Interrupted):
        pruned(recipe, model, calibration=text, checkpoint=tmp_path)
    monkeypatch.setattr(Checkpoint, "write", write)
    again = pruned(recipe, model, calibration=text, checkpoint=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
    assert whole.tables["blocks"].equals(again.tables["blocks"])
    assert whole.structure_masks.keys() == again.structure_masks.keys()


# saved
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family",
    ["llama", *(pytest.param(family, marks=pytest.mark.slow) for family in ("gpt2", "opt", "gemma3", "qwen3"))],
)
def test_what_is_saved_is_an_ordinary_smaller_model(family, tmp_path):
    model, text = tiny(family), windows(3, vocabulary=64)
    repair = "LR" if family == "gemma3" else "refit+GP"
    result = pruned(f"influence-blocks-2[skip=first:1] {repair}", model, calibration=text)
    result.save(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert again.config.num_hidden_layers == 2
    for ours in (result.model, result.shrink()):
        torch.testing.assert_close(last_hidden(ours, text.ids), last_hidden(again, text.ids))
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.slow
def test_an_encoder_loses_whole_blocks_too(tmp_path):
    model, text = encoder("bert"), examples("bert", 8)
    result = pruned("perplexity-blocks-1[skip=last:1] BR+GP[epochs=1]", model, calibration=text)
    result.save(tmp_path / "model")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert again.config.num_hidden_layers == 2
    batch = dict(input_ids=text.ids, attention_mask=text.mask.long(), token_type_ids=text.types)
    torch.testing.assert_close(result.model(**batch).logits, again(**batch).logits)
    assert any(isinstance(module, Passing) for module in result.model.modules()), "zeros are no identity here"
    with pytest.raises(UnsupportedModel, match="not added to the residual stream as it is"):
        pruned("influence-blocks-1 refit", model, calibration=text)


def test_a_model_without_some_halves_keeps_its_size(tmp_path):
    result = pruned("influence-attention-2 LR")
    result.save(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert_sparsity(again, result.masks)
    gone = {name.split(".", 3)[3] for name, mask in result.masks.items() if not mask.any()}
    assert gone == {f"self_attn.{name}_proj" for name in "qkvo"}
    with pytest.raises(UsageError, match="shrink: influence-attention-2 LR removes halves of blocks, and no archi"):
        result.shrink()


def test_a_patch_makes_biases_that_are_saved(tmp_path):
    result = pruned(f"random-blocks-2[{MIDDLE}] patch[form=bias]")
    result.save(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(last_hidden(result.model, TEXT.ids), last_hidden(again, TEXT.ids))
    assert again.config.mlp_bias and anatomy(again).blocks[0].matrices[-1].module.bias.any()


@pytest.mark.parametrize("amount", ["4", "30%"])
def test_a_budget_that_cannot_be_met_is_refused_before_the_work(amount, monkeypatch):
    monkeypatch.setattr("analysis.pruning.start.open_streams", None)
    with pytest.raises(UsageError, match="can go|cannot be taken out of 4 blocks"):
        pruned(f"influence-blocks-{amount} LR")


def test_a_cut_that_the_config_cannot_say_is_refused_before_the_first_visit(monkeypatch):
    model = tiny("gemma3")
    model.model.layers[1].self_attn.sliding_window = 4
    monkeypatch.setattr("analysis.pruning.loop._visit", None)
    with pytest.raises(UnsupportedModel, match="its config describes another model"):
        pruned("deepest-blocks-1 LR", model, calibration=windows(2, vocabulary=64))


def test_wrong_recipes_never_reach_the_model():
    with pytest.raises(RecipeError, match="does not score blocks"):
        pruned("wanda-blocks-25% LR")
    with pytest.raises(RecipeError, match="ghost stands in the place of whole blocks; mlp take LR.*refit.*patch"):
        pruned("influence-mlp-1 ghost")

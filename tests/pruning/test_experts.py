import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from analysis.errors import DataError, RecipeError, UsageError
from analysis.models.anatomy import anatomy, anatomy_of_copy
from analysis.models.experts import find_routers
from analysis.models.load import load_model
from analysis.models.sub_blocks import expert_tokens, matrix_inputs
from analysis.pruning.loop import prune
from analysis.recipe.recipe import Recipe
from tests.helpers.families import EXPERTS, VOCABULARY, tiny
from tests.helpers.small import windows

TEXT = windows(4, padded=True, vocabulary=VOCABULARY)
BRIEF = "epochs=1,batch=2"
RECIPES = {
    "magnitude-50% LR": ("mixtral",),
    f"wanda-50% BR+GP[{BRIEF}]": EXPERTS,
    "sparsegpt-50% LR": ("gpt_oss",),
    f"ria-2:4 BR+GP+CR[{BRIEF}]": ("mixtral",),
    "wanda+swaps-50% LR": ("gpt_oss",),
    "wanda+fw-50%[iterations=20] LR": ("mixtral",),
    "wanda-50% ridge": ("gpt_oss",),
    f"wanda-50% BR[unit=sub-block,{BRIEF}]": ("gpt_oss",),
    f"wanda-50% BR[unit=matrix,{BRIEF}]": ("gpt_oss",),
    f"wanda-50% BR+GP[train=masklora,rank=4,{BRIEF}]": ("gpt_oss",),
    f"wanda-50% retrain[{BRIEF}]": ("mixtral",),
    f"wanda-50%[starved=magnitude,gated=true] BR[train=norms-biases,{BRIEF}]": ("gpt_oss",),
}
CASES = [(recipe, family) for recipe, families in RECIPES.items() for family in families]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "family"), CASES)
def test_every_expert_loses_exactly_its_share_and_routers_nothing(recipe, family, tmp_path):
    dense = tiny(family)
    pruned = prune(dense, recipe, TEXT, measure=False)
    parts = anatomy_of_copy(anatomy(dense), pruned.model)
    pattern = pruned.recipe.pattern.resolve(pruned.recipe.criterion.name)
    for name, matrix in parts.matrices():
        zeros = matrix.weight() == 0
        assert torch.equal(zeros, ~pruned.masks[name]), name
        assert int(zeros.sum()) == zeros.numel() // 2
        if pattern.group == "row":
            assert bool((zeros.sum(1) == matrix.columns // 2).all())
    before, after = (dict(model.named_parameters()) for model in (dense, pruned.model))
    for name in find_routers(dense):
        for key in (key for key in before if key.startswith(f"{name}.")):
            assert torch.equal(before[key], after[key])
    if pruned.recipe.changes_weights:
        changed = [
            m
            for n, m in parts.matrices()
            if m.expert is not None
            and not torch.equal(m.weight(), dict(anatomy(dense).matrices())[n].weight() * pruned.masks[n])
        ]
        assert bool(changed) == (pruned.recipe.solver.train != "norms-biases")
    if pruned.recipe.method == "BR+GP":
        pruned.save(tmp_path / "out")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        for name, value in again.state_dict().items():
            assert torch.equal(value, pruned.model.state_dict()[name]), name


def test_experts_are_saved_under_their_own_names_and_loaded_back(tmp_path):
    from safetensors import safe_open

    pruned = prune(tiny("mixtral"), "magnitude-50% LR", TEXT, measure=False)
    pruned.save(tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        weight = file.get_tensor("model.layers.1.block_sparse_moe.experts.2.w2.weight")
    assert torch.equal(weight == 0, ~pruned.masks["model.layers.1.mlp.experts.2.down_proj"])
    loaded = load_model(tmp_path / "out", device="cpu", dtype="float32")
    assert torch.equal(loaded.model.lm_head.weight, pruned.model.lm_head.weight)


def test_a_tampered_expert_is_not_saved(tmp_path):
    from analysis.errors import SparsityError

    pruned = prune(tiny("mixtral"), "magnitude-50% LR", TEXT, measure=False)
    pruned.model.model.layers[1].mlp.experts.down_proj.data.add_(1.0)
    with pytest.raises(SparsityError, match=r"experts\.0\.down_proj"):
        pruned.save(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sparse", "dense"])
def test_ridge_is_least_squares_on_the_tokens_that_go_to_the_expert(target):
    """Every kept row against `lstsq` on the student's tokens, whose targets are the dense matrix on the same tokens of
    the target's stream."""
    text, dense = windows(16, vocabulary=VOCABULARY), tiny("mixtral")
    recipe = f"magnitude-50% ridge[penalty=0{',target=dense' if target == 'dense' else ''}]"
    pruned = prune(dense, recipe, text, measure=False, precision=torch.float64)
    parts, block = anatomy(dense), anatomy(dense).blocks[0]
    own = anatomy_of_copy(parts, pruned.model).blocks[0]
    name = "mlp.experts.1.gate_up_proj"
    matrix, refit = ({m.name: m for m in b.matrices}[name] for b in (block, own))
    from analysis.models.replay import record

    recording = record(dense, parts, text)
    call = recording.call(0, slice(None))
    with torch.no_grad():
        x = matrix_inputs(own, [name], recording.hidden, call)[name]
        t = x if target == "sparse" else matrix_inputs(block, [name], recording.hidden, call)[name]
        rows = expert_tokens(own, refit, recording.hidden, call)
    wanted, x = t[rows].double() @ matrix.weight().T.double(), x[rows].double()
    assert len(x) > matrix.columns
    for row in range(0, matrix.rows, 17):
        kept = pruned.masks[f"{own.name}.{name}"][row]
        best = torch.linalg.lstsq(x[:, kept], wanted[:, row]).solution
        torch.testing.assert_close(refit.weight()[row, kept].double(), best, rtol=2e-3, atol=2e-4)


def test_tokens_of_every_expert_are_a_table_and_rules_are_recorded(caplog):
    pruned = prune(tiny("mixtral"), "wanda-50%[starved=all-tokens] LR", TEXT, measure=False)
    table, notes = pruned.tables["experts"], pruned.tables["numerics"]
    assert len(table) == 2 * 4 * 2 and set(table["rule"]) == {"", "all-tokens"}
    down = table[table["matrix"].str.endswith("down_proj")].groupby("block")
    assert (down["tokens"].sum() == 2 * TEXT.tokens).all() and down["share"].sum().tolist() == pytest.approx([2.0, 2.0])
    starved = table[table["rule"] == "all-tokens"]
    assert (notes["rule"] == "starved: all-tokens").sum() == len(starved)
    assert set(notes[notes["rule"] == "starved: all-tokens"]["value"]) == set(starved["tokens"])
    least = starved.loc[starved["tokens"].idxmin()]
    words = f"{len(starved)} of 16 matrices of experts saw fewer .*{least['matrix']} of block {least['block']}: "
    assert re.search(f"{words}{least['tokens']} tokens.*starved=all-tokens", caplog.text)


def test_starved_experts_are_refused_or_go_by_magnitude():
    with pytest.raises(DataError, match="matrices of experts see fewer"):
        prune(tiny("mixtral"), "wanda-50%[starved=refuse] LR", TEXT, measure=False)
    plain = prune(tiny("mixtral"), "magnitude-50%[group=row] LR", TEXT, measure=False)
    pruned = prune(tiny("mixtral"), "wanda-50%[starved=magnitude] LR", TEXT, measure=False)
    table = pruned.tables["experts"]
    for row in table.itertuples():
        name = f"model.layers.{row.block}.{row.matrix}"
        assert torch.equal(pruned.masks[name], plain.masks[name]) == (row.rule == "magnitude")


def test_a_gated_criterion_chooses_other_weights_of_experts_alone():
    plain, gated = (prune(tiny("mixtral"), f"wanda-50%{o} LR", TEXT, measure=False) for o in ("", "[gated=true]"))
    same = {name: torch.equal(mask, gated.masks[name]) for name, mask in plain.masks.items() if ".layers.0." in name}
    assert all(same[name] for name in same if "self_attn" in name)
    assert not all(same[name] for name in same if "down_proj" in name)


def test_options_of_experts_are_refused_where_they_mean_nothing():
    with pytest.raises(RecipeError, match="starved=refuse does not apply"):
        Recipe.parse("magnitude-50%[starved=refuse] LR")
    with pytest.raises(RecipeError, match="gated=true does not apply"):
        Recipe.parse("magnitude-50%[gated=true] ridge")
    with pytest.raises(UsageError, match="starved and gated speak of a mixture's experts"):
        prune(tiny("llama"), "wanda-50%[starved=refuse,gated=true] LR", TEXT, measure=False)
    recipe = Recipe.parse("wanda-50%[starved=refuse,gated=true] ridge")
    assert Recipe.parse(str(recipe)) == Recipe.from_toml(recipe.to_toml()) == recipe
    assert not {"starved", "gated"} & Recipe.parse("wanda-50%[starved=shrink] LR").to_dict().keys()


@pytest.mark.slow
def test_streamed_experts_are_the_same_to_the_bit(tmp_path):
    tiny("mixtral").save_pretrained(tmp_path / "dense")
    resident, streamed = (
        prune(
            load_model(tmp_path / "dense", device="cpu", dtype="float32", placement=placement),
            f"wanda-50% BR+GP[{BRIEF}]",
            TEXT,
            measure=False,
        )
        for placement in ("resident", "streamed")
    )
    for name, pruned in (("a", resident), ("b", streamed)):
        pruned.save(tmp_path / name)
    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in "ab")
    assert one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())

import pytest
import torch
from transformers import AutoModelForCausalLM

from analysis.errors import RecipeError, UnsupportedModel, UsageError
from analysis.models.anatomy import anatomy
from analysis.models.experts import Routed, find_experts
from analysis.models.fewer_experts import cut_experts
from analysis.models.hooks import hooked
from analysis.models.replay import last_hidden, run
from analysis.pruning.loop import prune
from analysis.recipe.experts import kept_experts
from analysis.recipe.recipe import Recipe
from analysis.streams.streams import open_streams
from analysis.structured.experts import EXPERT_SCORES, best, expert_sums, seen, weights_side_by_side
from tests.helpers.families import EXPERTS, VOCABULARY, tiny
from tests.helpers.small import windows

TEXT = windows(6, padded=True, vocabulary=VOCABULARY)


def block_of(family, index=1):
    model = tiny(family)
    parts = anatomy(model)
    streams = open_streams(model, parts, "calibration", TEXT, apart=False)
    hidden = streams.dense
    for block in parts.blocks[:index]:
        hidden = run(block.module, hidden, streams.recording.call(block.index, slice(None)))
    (module,) = find_experts(parts.blocks[index].module).values()
    return model, parts, parts.blocks[index], module, streams, hidden


def called(model, module):
    """What a module of experts is called with by the model on the real tokens of the text."""
    calls = []
    with hooked([(module, lambda m, *given: calls.append(Routed.of(m, *given)))]), torch.no_grad():
        model(input_ids=TEXT.ids, attention_mask=TEXT.mask.long(), use_cache=False)
    (call,), real = calls, TEXT.mask.flatten()
    return Routed(module, call.hidden[real], call.experts[real], call.weights[real])


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_scores_are_sums_over_the_real_tokens_that_go_to_an_expert(family):
    model, _, block, module, streams, hidden = block_of(family)
    found, call = seen(block, module, streams, hidden), called(model, module)
    tokens, norms, weighted = torch.zeros(3, 4, dtype=torch.float64)
    for token in range(len(call.hidden)):
        for place, expert in enumerate(call.experts[token].tolist()):
            norm = call.output(expert, torch.tensor([token])).double().norm()
            tokens[expert] += 1
            norms[expert] += norm
            weighted[expert] += norm * call.weights[token, place].double()
    for one, other in ((found.tokens, tokens), (found.norms, norms), (found.weighted, weighted)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    generator = torch.Generator()
    torch.testing.assert_close(EXPERT_SCORES["reap"](found, generator), weighted / tokens, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(EXPERT_SCORES["activation"](found, generator), norms / tokens, rtol=1e-4, atol=1e-6)
    assert torch.equal(EXPERT_SCORES["frequency"](found, generator), tokens)


def test_the_best_of_every_group_stay_and_equal_scores_keep_the_earlier():
    scores = torch.tensor([1.0, 5, 5, 5, 9, 2, 2, 1])
    assert best(scores, 4, 1, "b").nonzero()[:, 0].tolist() == [1, 2, 3, 4]
    assert best(scores, 4, 2, "b").nonzero()[:, 0].tolist() == [1, 2, 4, 5]


def test_shares_of_experts():
    share = lambda text, *how: kept_experts(Recipe.parse(f"reap-experts-{text} LR").pattern, *how)
    assert share("25%", 8, 2) == 6 and share("50%", 8, 4) == 4 and share("0%", 8, 2) == 8
    assert share("25%", 16, 4, 4, 2) == 12
    with pytest.raises(UsageError, match=r"cannot be taken out of 8 experts; possible are 0%, 12.5%, 25%,"):
        share("30%", 8, 2)
    with pytest.raises(UsageError, match=r"would leave 2 of 8 experts, and a token goes to 4: at least 4 must stay"):
        share("75%", 8, 4)
    with pytest.raises(UsageError, match=r"in 4 groups, each losing as many; possible are 0%, 25%, 50%"):
        share("37.5%", 16, 4, 4, 2)
    with pytest.raises(UsageError, match=r"a token goes to 6 in 2 of the groups: at least 12 must stay"):
        share("50%", 16, 6, 4, 2)


def test_the_smaller_model_is_the_old_one_whose_router_never_chooses_what_is_gone():
    model = tiny("mixtral")
    parts = anatomy(model)
    masks = {"model.layers.0": torch.tensor([1, 0, 1, 1]).bool(), "model.layers.1": torch.tensor([0, 1, 1, 1]).bool()}
    small = cut_experts(model, parts, masks)
    assert small.config.num_local_experts == 3 and model.config.num_local_experts == 4
    for layer, mask in zip(model.model.layers, masks.values(), strict=True):
        gate, logits = layer.mlp.gate, torch.nn.functional.linear

        def without(hidden, gate=gate, mask=mask, logits=logits):
            chances = logits(hidden, gate.weight).masked_fill(~mask, -torch.inf).softmax(-1)
            values, ids = chances.topk(gate.top_k)
            return None, values / values.sum(-1, keepdim=True), ids

        gate.forward = without
    torch.testing.assert_close(last_hidden(small, TEXT.ids), last_hidden(model, TEXT.ids), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", EXPERTS)
def test_a_model_with_fewer_experts_is_an_ordinary_one(family, tmp_path):
    dense, share = tiny(family), "50%" if family == "deepseek_v3" else "25%"
    pruned = prune(dense, f"reap-experts-{share} BR+GP[epochs=1]", TEXT, measure=False)
    table = pruned.tables["structures"]
    assert set(table["kind"]) == {"experts"} and (table["kept"] == (4 if share == "50%" else 3)).all()
    assert pruned.tables["experts"].groupby("block")["share"].sum().tolist() == pytest.approx([2.0] * len(table))
    for name, mask in pruned.structure_masks.items():
        if family == "deepseek_v3":
            assert mask.view(2, 4).sum(1).tolist() == [2, 2], name
    pruned.save(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in dense.parameters())
    assert torch.equal(last_hidden(again, TEXT.ids), last_hidden(pruned.model, TEXT.ids))
    assert torch.equal(last_hidden(pruned.shrink(), TEXT.ids), last_hidden(pruned.model, TEXT.ids))


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "qwen2_moe"])
def test_sums_of_all_experts_are_what_they_read_and_what_the_dense_block_gives(family):
    model, parts, block, module, streams, hidden = block_of(family)
    mask = torch.tensor([True, False, True, True])
    small = cut_experts(model, parts, {one.name: mask for one in parts.blocks})
    own = anatomy(small).blocks[1]
    (kept,) = find_experts(own.module).values()
    sums, away = expert_sums(own, kept, block, streams.recording, hidden, hidden)
    assert away < 1e-5 or family == "qwen2_moe"  # whose gate weights are not normalised
    wanted = run(block.module, hidden, streams.recording.call(1, slice(None)))[TEXT.mask].double()
    given = run(own.module, hidden, streams.recording.call(1, slice(None)))[TEXT.mask].double()
    now = sums.loss(weights_side_by_side(kept), None)
    assert now == pytest.approx(float((wanted - given).square().mean()), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), [("mixtral", "LIAR"), ("gpt_oss", "LIAR+GP"), ("gpt_oss", "compensate")])
def test_repairs_bring_the_block_nearer_to_the_dense_one(family, method):
    plain = prune(tiny(family), "reap-experts-25% LR", TEXT)
    pruned = prune(
        tiny(family), f"reap-experts-25% {method}{'' if method == 'compensate' else '[penalty=0.001]'}", TEXT
    )
    layers = pruned.tables["layers"]
    assert (layers["error_after"] < layers["error_before"]).all() and len(layers) == 2
    assert set(layers["action"]) == {"compensate" if method == "compensate" else "liar"}
    error = [
        run.tables["blocks"].query("kind == 'total' and split == 'calibration' and block == 0")["error"].item()
        for run in (plain, pruned)
    ]
    assert error[1] < error[0]
    assert error[1] == pytest.approx(layers["error_after"][0], rel=1e-3)


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    recipe, folder = "frequency-experts-25% BR[epochs=1]", tmp_path / "kept"
    whole = prune(tiny("mixtral"), recipe, TEXT, measure=False)
    prune(tiny("mixtral"), recipe, TEXT, measure=False, checkpoint=folder)
    sorted(path for path in folder.rglob("*.safetensors"))[-1].unlink()
    again = prune(tiny("mixtral"), recipe, TEXT, measure=False, checkpoint=folder)
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(mask, again.structure_masks[name]) for name, mask in whole.structure_masks.items())


def test_refused_by_name():
    refusals = {
        "reap-50% LR": "reap scores experts: reap-experts-25%; single weights take",
        "wanda-experts-25% LR": "wanda does not score experts; experts take random, frequency, activation, reap",
        "reap-experts-25% ridge": "ridge refits matrices that lost single weights; experts take LR, BR,",
        "reap-experts-25% BR[unit=matrix]": "unit=matrix: the experts that stay",
        "reap-experts-25% refit": "refit makes up for blocks",
        "reap-experts-25% scale": "scale makes up for whole structures",
        "reap-experts-25%[skip=first:1] LR": "skip do not go with experts",
        "reap-experts-25%[starved=refuse] LR": "starved=refuse does not apply",
        "reap-experts-25%[statistics=dense] LR": "reap chooses on the dense model",
    }
    for text, words in refusals.items():
        with pytest.raises(RecipeError, match=words):
            Recipe.parse(text)
    models = {
        ("llama", "reap-experts-25% LR"): (UsageError, "removes a mixture's experts, and this model has none"),
        ("mixtral", "reap-experts-75% LR"): (UsageError, "at least 2 must stay"),
        ("mixtral", "reap-experts-25% compensate"): (UnsupportedModel, "its experts have no biases"),
    }
    for (family, text), (error, words) in models.items():
        with pytest.raises(error, match=words):
            prune(tiny(family), text, TEXT, measure=False)


def test_what_a_router_sees_is_recorded_for_the_dense_model():
    """Routers are cut with their experts, so tokens are those of the dense model, whatever is removed."""
    tables = [
        prune(tiny("mixtral"), f"{word}-experts-25% LR", TEXT, measure=False).tables for word in ("reap", "random")
    ]
    assert tables[0]["experts"].equals(tables[1]["experts"])

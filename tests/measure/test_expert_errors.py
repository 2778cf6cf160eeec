"""What became of each expert: as its module's own loop has it, token by token."""

import pytest
import torch

from analysis.errors import UsageError
from analysis.measure.expert_errors import check_experts, expert_errors
from analysis.models.anatomy import anatomy
from analysis.models.experts import Routed, expert_count, find_experts
from analysis.models.fewer_experts import cut_experts
from analysis.models.hooks import hooked
from analysis.models.placement import copy_model
from analysis.windows import Windows
from tests.helpers.families import EXPERTS, tiny, tokens


def alone(module, call, expert):
    """(N, H) an expert's output for every token, by the module's own loop, with a weight of one."""
    only = torch.full_like(call.experts, expert), torch.ones_like(call.weights) / call.weights.shape[1]
    return module(call.hidden, *only).double()


@pytest.mark.parametrize("family", EXPERTS)
def test_errors_are_those_of_single_experts_on_their_own_tokens(family):
    dense = tiny(family)
    dense.config._experts_implementation = "eager"
    pruned = copy_model(dense)
    for module in find_experts(pruned).values():
        module.down_proj[1].zero_()
        module.gate_up_proj[2, 0].zero_()
    windows = Windows(*tokens(3, padding="both"))
    table = expert_errors(dense, pruned, {"some": windows}, batch=2).set_index(["block", "expert"])
    blocks, seen = anatomy(dense).blocks, {}
    hooks = [
        (m, lambda m, a, k, name=name: seen.update({name: Routed.of(m, a, k)}))
        for name, m in find_experts(dense).items()
    ]
    with hooked(hooks), torch.no_grad():
        dense(input_ids=windows.ids, attention_mask=windows.mask.long(), use_cache=False)
        for name, call in seen.items():
            block = next(b.index for b in blocks if name.startswith(f"{b.name}."))
            for expert in range(expert_count(call.module)):
                own = (call.experts == expert).any(1) & windows.mask.flatten()
                row = table.loc[(block, expert)]
                assert row["tokens"] == int(own.sum()) and row["share"] == pytest.approx(
                    int(own.sum()) / windows.tokens
                )
                output = alone(call.module, call, expert)[own]
                apart = alone(pruned.get_submodule(name), call, expert)[own] - output
                assert row["error"] == pytest.approx(float(apart.square().mean()), rel=1e-4)
                expected = float(apart.square().sum() / output.square().sum())
                assert row["relative_error"] == pytest.approx(expected, rel=1e-4)
                assert (row["error"] > 0) == (expert in (1, 2))
    per_block = table["share"].groupby("block").sum()
    assert per_block.to_numpy() == pytest.approx(2.0)


def test_an_expert_without_tokens_has_no_error():
    model = tiny("mixtral")
    windows = Windows(*tokens(1, length=2))
    table = expert_errors(model, copy_model(model), {"short": windows})
    unseen = table["tokens"] == 0
    assert unseen.any() and table["error"].isna().equals(unseen) and (table.loc[~unseen, "error"] == 0).all()


def test_what_has_not_the_same_experts_is_refused():
    with pytest.raises(UsageError, match="LlamaForCausalLM has no mixture of experts; give expert_errors=False"):
        check_experts(tiny("llama"))
    model = tiny("mixtral")
    parts = anatomy(model)
    fewer = cut_experts(model, parts, {b.name: torch.tensor([True, True, False, True]) for b in parts.blocks})
    with pytest.raises(UsageError, match=r"layers\.0\.mlp\.experts of the pruned model has fewer experts"):
        expert_errors(model, fewer, {"some": Windows(*tokens(1))})

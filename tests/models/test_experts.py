import pytest
import torch
from torch.nn.functional import linear

from analysis.errors import UnsupportedModel
from analysis.models.anatomy import anatomy, anatomy_of_copy
from analysis.models.experts import Routed, expert_count, find_experts, find_routers, router_parameters
from analysis.models.hooks import hooked
from analysis.models.placement import copy_model
from tests.helpers.families import EXPERTS, tiny, tokens


def calls(model, ids, mask):
    """What every module of experts is called with and what it returns, by its full name."""
    seen, found = {}, find_experts(model)
    names = {module: name for name, module in found.items()}
    before = [(module, lambda m, args, kwargs: seen.update({names[m]: [args, kwargs]})) for module in names]
    after = [(module, lambda m, args, output: seen[names[m]].append(output)) for module in names]
    with hooked(before, after), torch.no_grad():
        model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    return {found[name]: entry for name, entry in seen.items()}


@pytest.mark.parametrize("family", EXPERTS)
def test_matrices_of_experts_are_slices_and_routers_are_none(family):
    model = tiny(family)
    block = anatomy(model).blocks[-1]
    experts = [matrix for matrix in block.matrices if matrix.expert is not None]
    (holder,) = {matrix.module for matrix in experts}
    assert len(experts) == 2 * expert_count(holder)
    names = [name for name, _ in block.module.named_parameters()]
    for matrix in experts:
        assert matrix.half == "mlp" and matrix.name == f"{matrix.owner}.{matrix.expert}.{matrix.key}"
        assert matrix.parameter_name in names and matrix.reads == matrix.name
    hidden, inner = 32, holder.down_proj[0].numel() // 32
    assert {(m.rows, m.columns) for m in experts} == {(2 * inner, hidden), (hidden, inner)}
    experts[-1].weight()[0, 1] = 7.0
    assert (experts[-1].parameter == 7.0).sum() == 1 and experts[-1].weight()[0, 1] == 7.0
    routers = find_routers(block.module)
    assert routers and not any(matrix.name in routers for matrix in block.matrices)
    assert router_parameters(block.module) == {id(p) for m in routers.values() for p in m.parameters()}
    shared = [matrix.name for matrix in block.matrices if "shared" in matrix.name]
    assert len(shared) == (3 if family in ("qwen2_moe", "deepseek_v3") else 0)


@pytest.mark.parametrize("family", EXPERTS)
def test_what_experts_make_is_what_their_module_returns(family):
    """The module's own eager loop, on all tokens that go to one expert alone, is the reference."""
    model = tiny(family)
    model.config._experts_implementation = "eager"
    for module, (args, kwargs, output) in calls(model, *tokens(3, padding="both")).items():
        call = Routed.of(module, args, kwargs)
        total = torch.zeros_like(output)
        for expert in range(expert_count(module)):
            rows = call.tokens(expert)
            only = torch.where(call.experts == expert, call.weights, 0)
            alone = module(call.hidden, call.experts, only)
            mine = call.output(expert, rows) * call.gate(expert)[rows, None]
            torch.testing.assert_close(mine, alone[rows], rtol=1e-4, atol=1e-5)
            assert not alone[~rows].any()
            total += alone
        torch.testing.assert_close(total, output, rtol=1e-4, atol=1e-5)


def test_what_the_second_matrix_reads_is_the_gated_output_of_the_first():
    module, (args, kwargs, _) = next(iter(calls(tiny("mixtral"), *tokens(2)).items()))
    call = Routed.of(module, args, kwargs)
    rows = call.tokens(1).nonzero()[:, 0]
    gate, up = linear(args[0][rows], module.gate_up_proj[1]).chunk(2, -1)
    torch.testing.assert_close(call.read("down_proj", 1, rows), torch.nn.functional.silu(gate) * up)
    assert torch.equal(call.read("gate_up_proj", 1, rows), args[0][rows])


def test_a_copy_has_slices_of_its_own():
    model = tiny("mixtral")
    parts, copied = anatomy(model), copy_model(model)
    own = anatomy_of_copy(parts, copied)
    dict(own.matrices())["model.layers.1.mlp.experts.2.down_proj"].weight().zero_()
    assert not copied.model.layers[1].mlp.experts.down_proj[2].any()
    assert model.model.layers[1].mlp.experts.down_proj[2].all()


def test_experts_that_compute_something_else_are_refused():
    model = tiny("mixtral")
    experts = model.model.layers[1].mlp.experts
    forward = experts.forward
    experts.forward = lambda hidden, ids, weights: 1.01 * forward(hidden, ids, weights)
    with pytest.raises(UnsupportedModel, match=r"layers\.1\.mlp\.experts .*something else than the weighted sum"):
        anatomy(model)


def test_a_map_with_an_output_for_every_expert_is_a_router_whatever_its_name():
    layer = tiny("mixtral").model.layers[0]
    layer.mlp.chooser, layer.mlp.other = torch.nn.Linear(32, 4), torch.nn.Linear(32, 5)
    assert set(find_routers(layer)) == {"mlp.gate", "mlp.chooser"}


def test_quantized_experts_are_refused():
    model = tiny("mixtral")
    experts = model.model.layers[0].mlp.experts
    experts.down_proj = torch.nn.Parameter(experts.down_proj.to(torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedModel, match=r"layers\.0\.mlp\.experts .*quantized"):
        anatomy(model)

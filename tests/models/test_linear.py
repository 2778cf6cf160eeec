"""Linear maps whose stored weight is not what they multiply by are refused: a mask on it would be one in name only."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM

from analysis.errors import UnsupportedModel
from analysis.models.anatomy import anatomy
from tests.helpers.small import small_llama


class Adapted(nn.Module):
    """A linear map with a low-rank adapter beside it, laid out as peft does."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Scaled(nn.Module):
    """A linear map with a learned scale of its outputs, as IA3 has it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.ia3_l = nn.ParameterDict({"default": nn.Parameter(torch.ones(base.out_features))})

    def forward(self, x):
        return self.base_layer(x) * self.ia3_l["default"]


class OwnAdapter(nn.Linear):
    """A linear map that holds its adapter itself, as loralib does."""

    def __init__(self, base):
        super().__init__(base.in_features, base.out_features, bias=False)
        self.weight = base.weight
        self.lora_A = nn.Parameter(torch.zeros(2, base.in_features))


class Ternary(nn.Linear):
    """A linear map that rounds its weight in every forward."""

    def __init__(self, base):
        super().__init__(base.in_features, base.out_features, bias=False)
        self.weight = base.weight

    def forward(self, x):
        return nn.functional.linear(x, self.weight.sign())


class Integers(nn.Module):
    """A linear map of integers and scales, as GPTQ's are: no parameters at all."""

    def __init__(self, base):
        super().__init__()
        self.register_buffer("qweight", base.weight.detach().mul(10).int())

    def forward(self, x):
        return nn.functional.linear(x, self.qweight.to(x) / 10)


class Wrapped(torch.Tensor):
    """A weight of a class of its own, as torchao's are."""


def of_a_class(layer):
    layer._parameters["weight"] = layer.weight.detach().as_subclass(Wrapped)


def eight_bits(layer):
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)


def forward_of_its_own(layer):
    layer.forward = lambda x: 2 * nn.functional.linear(x, layer.weight)


def writing_hook(layer, write):
    layer.register_forward_pre_hook(lambda module, args: write(module))


def old_norm(layer, norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        norm(layer)


CHANGED = {
    "lora": (Adapted, "carries an adapter \\(lora_A, lora_B\\); merge it first"),
    "ia3": (Scaled, "carries an adapter \\(ia3_l\\); merge it first"),
    "loralib": (OwnAdapter, "carries an adapter \\(lora_A\\); merge it first"),
    "own forward": (forward_of_its_own, "returns something else than its weight times its input"),
    "subclass": (Ternary, "returns something else than its weight times its input"),
    "output hook": (
        lambda layer: layer.register_forward_hook(lambda module, args, output: 2 * output) and None,
        "returns something else",
    ),
    "new weight norm": (lambda layer: parametrizations.weight_norm(layer) and None, "parametrised \\(_WeightNorm\\)"),
    "new spectral norm": (lambda layer: parametrizations.spectral_norm(layer) and None, "parametrised \\(_SpectralNor"),
    "old weight norm": (lambda layer: old_norm(layer, weight_norm), "made at every forward of weight_g, weight_v"),
    "old spectral norm": (lambda layer: old_norm(layer, spectral_norm), "made at every forward of weight_orig"),
    "torch's pruning": (
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3) and None,
        "made at every forward of weight_orig, weight_mask",
    ),
    "hook assigns": (
        lambda layer: writing_hook(layer, lambda m: setattr(m, "weight", nn.Parameter(m.weight.detach().clone()))),
        "a hook writes its weight",
    ),
    "hook points elsewhere": (
        lambda layer: writing_hook(layer, lambda m: setattr(m.weight, "data", m.weight.data.clone())),
        "a hook writes its weight",
    ),
    "hook writes": (lambda layer: writing_hook(layer, lambda m: (m.weight.mul_(1.0), None)[1]), "a hook writes its"),
    "meta": (lambda layer: layer.to("meta") and None, "not in memory"),
    "integers": (Integers, "its weights are quantized; load the unquantized original"),
    "eight bits": (eight_bits, "its weights are quantized"),
    "a class of its own": (of_a_class, "its weights are quantized"),
}


@pytest.mark.parametrize("how", CHANGED)
def test_a_changed_linear_map_is_refused_with_what_to_do(how):
    change, words = CHANGED[how]
    model = small_llama(blocks=2, hidden=16)
    attention = model.model.layers[1].self_attn
    if (new := change(attention.q_proj)) is not None:
        attention.q_proj = new
    with torch.no_grad(), pytest.raises(UnsupportedModel, match=f"layers.1.self_attn.q_proj.*{words}"):
        anatomy(model)


def test_every_linear_map_quantized_is_said_too():
    model = small_llama(blocks=1, hidden=16)
    for module in list(model.model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, Integers(child))
    with pytest.raises(UnsupportedModel, match="quantized"):
        anatomy(model)


@pytest.mark.parametrize("tie", ["within a block", "across blocks", "with the head"])
def test_tied_matrices_are_refused(tie):
    model = small_llama(blocks=2, hidden=16)
    first, second = model.model.layers
    if tie == "within a block":
        first.self_attn.k_proj.weight = first.self_attn.v_proj.weight
    elif tie == "across blocks":
        first.mlp.up_proj.weight = second.mlp.up_proj.weight
    else:
        model.lm_head.weight = nn.Parameter(torch.zeros(16, 16))
        model.lm_head.weight = first.self_attn.q_proj.weight
    with pytest.raises(UnsupportedModel, match="shares its weight with .*tied matrices"):
        anatomy(model)


def test_hooks_that_only_look_are_no_reason_to_refuse():
    model, seen = small_llama(blocks=1, hidden=16), []
    model.model.layers[0].mlp.up_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    assert len(anatomy(model).blocks[0].matrices) == 7 and seen


def test_a_family_with_experts_in_its_name_and_none_in_it():
    config = GraniteMoeHybridConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        shared_intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=0,
        num_experts_per_tok=0,
        layer_types=["attention"],
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_d_state=8,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        model = GraniteMoeHybridForCausalLM(config)
    assert len(anatomy(model).blocks[0].matrices) == 6

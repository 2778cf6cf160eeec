"""Anatomy: found by structure, complete, in the right halves, and refused where it cannot be right."""

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers as tf
from torch import nn

from analysis.errors import UnsupportedModel
from analysis.models.anatomy import anatomy, anatomy_of_copy, evaluating
from analysis.models.replay import random_windows, record
from analysis.models.sub_blocks import check_halves
from tests.helpers.families import FAMILIES, REFUSED, tiny

# attention norms, MLP norms of the families whose names mislead: the same name serves different halves
NORMS = {
    "llama": (["input_layernorm"], ["post_attention_layernorm"]),
    "qwen3": (["input_layernorm", "self_attn.q_norm", "self_attn.k_norm"], ["post_attention_layernorm"]),
    "gemma2": (
        ["input_layernorm", "post_attention_layernorm"],
        ["pre_feedforward_layernorm", "post_feedforward_layernorm"],
    ),
    "glm4": (["input_layernorm", "post_self_attn_layernorm"], ["post_attention_layernorm", "post_mlp_layernorm"]),
    "olmo2": (["self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm"], ["post_feedforward_layernorm"]),
    "opt": (["self_attn_layer_norm"], ["final_layer_norm"]),
    "opt_post_norm": (["self_attn_layer_norm"], ["final_layer_norm"]),
    "gpt2": (["ln_1"], ["ln_2"]),
    "gpt_neox": (["input_layernorm"], ["post_attention_layernorm"]),
    "falcon": (["ln_attn"], ["ln_mlp"]),
    "phi": (["input_layernorm"], []),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_map_of_every_block_is_found_once(family):
    model = tiny(family)
    found = anatomy(model)
    assert [block.index for block in found.blocks] == [0, 1, 2, 3]
    for block in found.blocks:
        assert model.get_submodule(block.name) is block.module
        names = [matrix.name for matrix in block.matrices]
        two_dimensional = [
            name.removesuffix(".weight") for name, value in block.module.named_parameters() if value.ndim == 2
        ]
        assert sorted(names) == sorted(two_dimensional)
        assert {matrix.half for matrix in block.matrices} == {"attention", "mlp"}
        halves = [matrix.half for matrix in block.matrices]
        assert halves == sorted(halves), "matrices come in the order they run, attention first"
        norms = [name for name, module in block.module.named_modules() if "norm" in type(module).__name__.lower()]
        assert sorted(block.attention.norms + block.mlp.norms) == sorted(norms)


@pytest.mark.parametrize("family", NORMS)
def test_norms_are_given_to_the_half_they_serve(family):
    for block in anatomy(tiny(family)).blocks:
        assert (list(block.attention.norms), list(block.mlp.norms)) == NORMS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_parallel_families_are_flagged(family):
    assert {block.parallel for block in anatomy(tiny(family)).blocks} == {family in ("gpt_neox", "phi", "falcon")}


def test_opt_mlp_half_is_two_children():
    block = anatomy(tiny("opt")).blocks[0]
    assert block.attention.modules == ("self_attn",)
    assert block.mlp.modules == ("fc1", "fc2")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weight_is_out_by_in_and_assign_writes_it(family):
    model = tiny(family)
    for name, matrix in anatomy(model).matrices():
        x = torch.randn(3, matrix.columns)
        bias = matrix.module.bias if matrix.module.bias is not None else 0
        assert torch.allclose(matrix.module(x), x @ matrix.weight().T + bias, atol=1e-5)
        assert matrix.weight().shape == (matrix.rows, matrix.columns)
        wanted = torch.randn(matrix.rows, matrix.columns)
        matrix.assign(wanted)
        assert torch.equal(matrix.weight(), wanted)
        assert model.get_submodule(name) is matrix.module


def test_a_copy_is_taken_apart_on_its_own():
    model = tiny("llama")
    twin = copy.deepcopy(model)
    matrix = anatomy(twin).blocks[0].matrices[0]
    matrix.assign(torch.zeros(matrix.rows, matrix.columns))
    assert anatomy(model).blocks[0].matrices[0].weight().abs().sum() > 0


def test_nothing_is_left_behind():
    model = tiny("gpt2").train()
    model.transformer.h[1].eval()
    anatomy(model)
    assert model.training and model.transformer.h[0].training and not model.transformer.h[1].training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_evaluating_restores_modes_after_an_error():
    model = tiny("gpt2").train()
    with pytest.raises(RuntimeError), evaluating(model):
        assert not model.training and not torch.is_grad_enabled()
        raise RuntimeError
    assert model.training and torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("family", "words"), [("jetmoe", "mixture of experts with a layout of its own"), ("t5", "encoder-decoder")]
)
def test_refused(family, words):
    assert family in REFUSED
    with pytest.raises(UnsupportedModel, match=words):
        anatomy(tiny(family))


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.map(x)


class Layer(nn.Module):
    def __init__(self, **halves):
        super().__init__()
        for name, half in halves.items():
            setattr(self, name, half)

    def forward(self, x):
        for half in self.children():
            x = half(x)
        return x


class Decoder(nn.Module):
    """A made-up decoder: runs the layers it is told to, in the order it is told."""

    def __init__(self, layers, order=None):
        super().__init__()
        self.config = SimpleNamespace(model_type="made-up")
        self.embed = nn.Embedding(10, 8)
        self.layers = nn.ModuleList(layers)
        self.order = order if order is not None else range(len(layers))

    @property
    def base_model(self):
        return self

    def forward(self, input_ids, attention_mask, use_cache):
        x = self.embed(input_ids)
        for index in self.order:
            x = self.layers[index](x)
        return x


def layers(count=2):
    return [Layer(attention=Half(), mlp=Half()) for _ in range(count)]


def test_a_family_nobody_has_heard_of_is_found_by_structure():
    found = anatomy(Decoder(layers()))
    assert (found.path, [matrix.name for matrix in found.blocks[1].matrices]) == (
        "layers",
        ["attention.map", "mlp.map"],
    )


def test_blocks_of_a_kind_that_cannot_be_pruned_are_refused():
    class Scan(nn.Module):
        def __init__(self):
            super().__init__()
            self.state = nn.Parameter(torch.zeros(4, 4))

    class Idle(Half):
        def __init__(self):
            super().__init__()
            self.other = nn.Linear(8, 8)

    class Relative(Half):
        def __init__(self):
            super().__init__()
            self.places = nn.Linear(8, 8)

        def forward(self, x):
            return super().forward(x) + self.places(torch.ones(5, 8)).mean()

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Parameter(torch.zeros(4, 8, 8))

    class OwnLinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(8, 8))

    wrong = {
        "linear maps are in mixer, mlp, of which attention: none; needed": [Layer(mixer=Half(), mlp=Half())],
        "attention \\(attention\\) and no MLP beside it": [Layer(attention=Half())],
        "attends to a second text \\(attention, cross_attention\\)": [
            Layer(attention=Half(), cross_attention=Half(), mlp=Half())
        ],
        "state \\(4, 4\\) of a Scan is no linear map": [Layer(attention=Half(), mlp=Half(), scan=Scan())],
        "conv.weight \\(8, 1, 3\\) of a Conv1d belongs to a convolution or state space": [
            Layer(conv=nn.Conv1d(8, 8, 3, groups=8), mlp=Half())
        ],
        "mlp \\(Experts\\): a mixture of experts": [Layer(attention=Half(), mlp=Experts())],
        "experts \\(ModuleList\\): a mixture of experts": [
            Layer(attention=Half(), experts=nn.ModuleList([Half(), Half()]))
        ],
        "mlp \\(ModuleList\\): 2 modules of one kind in a list": [
            Layer(attention=Half(), mlp=nn.ModuleList([Half(), Half()]))
        ],
        "0 \\(Layer\\): attention.other do not run on plain text": [Layer(attention=Idle(), mlp=Half())],
        "attention.places read \\(5, 8\\) in a forward of 2 tokens": [Layer(attention=Relative(), mlp=Half())],
        "no list of blocks that hold linear maps \\(what holds its weights is no nn.Linear: OwnLinear\\)": [
            Layer(attention=OwnLinear(), mlp=OwnLinear())
        ],
    }
    for words, modules in wrong.items():
        with pytest.raises(UnsupportedModel, match=words):
            anatomy(Decoder(modules))


def test_layers_that_share_their_weights_are_refused():
    group = nn.Module()
    group.albert_layers = nn.ModuleList(layers(1))
    model = Decoder([group])
    model.config.num_hidden_layers = 4
    with pytest.raises(UnsupportedModel, match="its 4 layers share the weights of 1 \\(layers, each a Module\\)"):
        anatomy(model)


def test_a_head_that_is_called_a_decoder_is_not_looked_into():
    model = Decoder(layers())
    model.get_decoder = lambda: nn.Linear(8, 8)
    assert anatomy(model).path == "layers"


def test_a_first_block_without_a_norm_before_its_attention():
    """ModernBERT's: the norm between the halves prepares the MLP, as in the blocks that follow."""
    size = dict(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    model = tf.ModernBertModel(tf.ModernBertConfig(**size, pad_token_id=0)).eval()
    parts = anatomy(model)
    assert [block.attention.norms for block in parts.blocks] == [(), ("attn_norm",)]
    assert {block.mlp.norms for block in parts.blocks} == {("mlp_norm",)}
    check_halves(parts, record(model, parts, random_windows(model, count=2)), slice(None))


@pytest.mark.parametrize("order", [[0], [1, 0], [0, 1, 0, 1]])
def test_blocks_that_do_not_run_once_each_in_order_are_refused(order):
    with pytest.raises(UnsupportedModel, match="must run once each, in order"):
        anatomy(Decoder(layers(), order))


def test_two_stacks_are_refused():
    model = Decoder(layers())
    model.vision = nn.ModuleList(layers())
    with pytest.raises(UnsupportedModel, match="2 stacks of blocks \\(layers, vision\\)"):
        anatomy(model)


def test_a_block_used_under_two_numbers_is_refused():
    shared = layers(1)[0]
    with pytest.raises(UnsupportedModel):
        anatomy(Decoder([shared, shared]))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_anatomy_of_a_copy_is_that_of_taking_it_apart(family):
    model = tiny(family)
    twin = copy.deepcopy(model)
    ours, again = anatomy_of_copy(anatomy(model), twin), anatomy(twin)
    assert [(name, matrix.module) for name, matrix in ours.matrices()] == [
        (name, matrix.module) for name, matrix in again.matrices()
    ]
    assert [(b.module, b.attention, b.mlp, b.parallel, b.children) for b in ours.blocks] == [
        (b.module, b.attention, b.mlp, b.parallel, b.children) for b in again.blocks
    ]

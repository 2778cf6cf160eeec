"""Models without some of their blocks: what stands in their place, and what is cut out, in families of every kind."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from analysis.errors import UnsupportedModel
from analysis.models.anatomy import anatomy
from analysis.models.passing import Passing, check_cut, cut_blocks, put_back, take_out, without_blocks
from analysis.models.replay import last_hidden
from tests.helpers.encoders import encoder
from tests.helpers.families import QUICK, tiny, tokens

SLOW = ("qwen2", "gpt_neo", "falcon", "opt_post_norm")
FAMILIES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def bare_cut(model, path: str, gone) -> nn.Module:
    """The model with the blocks deleted from its list, nothing else touched."""
    small = copy.deepcopy(model)
    layers = small.get_submodule(path)
    for index in sorted(gone, reverse=True):
        del layers[index]
    return small


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cut_model_computes_what_the_model_with_passing_blocks_does(family, tmp_path):
    model, (ids, _) = tiny(family), tokens(2)
    parts, gone = anatomy(model), (0, 2)
    before = last_hidden(model, ids)
    with without_blocks(model, parts, gone):
        expected = last_hidden(model, ids)
    assert torch.equal(last_hidden(model, ids), before) and not torch.allclose(before, expected)
    check_cut(model, parts, gone)
    small = cut_blocks(model, parts.path, gone)
    assert torch.equal(last_hidden(small, ids), expected)
    assert len(small.get_submodule(parts.path)) == small.config.num_hidden_layers == 2
    small.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(last_hidden(again, ids), expected), "the config of the cut model says another model"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_the_cut_model_writes_with_a_cache_as_without(family):
    model = tiny(family)
    small = cut_blocks(model, anatomy(model).path, (0, 1))
    ids = tokens(1, 9)[0]
    write = lambda cache: small.generate(ids, max_new_tokens=5, do_sample=False, use_cache=cache, pad_token_id=0)
    assert torch.equal(write(True), write(False))


def test_the_numbers_and_lists_of_layers_are_those_of_the_blocks_that_stay():
    model = tiny("gemma3")
    small = cut_blocks(model, "model.layers", (1,))
    assert small.config.layer_types == ["full_attention", "full_attention", "sliding_attention"]
    assert [layer.self_attn.layer_idx for layer in small.model.layers] == [0, 1, 2]
    assert model.config.num_hidden_layers == 4 and model.model.layers[3].self_attn.layer_idx == 3


def test_an_encoder_with_norms_behind_the_sum_is_cut_too():
    model, ids = encoder("bert"), tokens(2)[0]
    parts = anatomy(model)
    check_cut(model, parts, (1,))
    small = cut_blocks(model, parts.path, (1,))
    assert torch.equal(last_hidden(small, ids), last_hidden(bare_cut(model, parts.path, (1,)), ids))
    with without_blocks(model, parts, (1,)):
        assert torch.equal(last_hidden(model, ids), last_hidden(small, ids))


def test_weights_are_shared_only_where_asked():
    model = tiny("llama")
    shared, own = (cut_blocks(model, "model.layers", (1,), shared=one) for one in (True, False))
    pointers = lambda one: {p.data_ptr() for p in one.parameters()}
    assert pointers(shared) < pointers(model) and not pointers(own) & pointers(model)


def test_taken_out_and_put_back():
    model = tiny("llama")
    parts, first = anatomy(model), model.model.layers[1]
    taken = take_out(model, parts, (1,))
    assert isinstance(model.model.layers[1], Passing) and taken.blocks[1].module is model.model.layers[1]
    assert taken.blocks[1].matrices == parts.blocks[1].matrices and not list(model.model.layers[1].parameters())
    assert model.model.layers[1].self_attn is first.self_attn, "what a model asks of its blocks is answered"
    with pytest.raises(AttributeError):
        _ = model.model.layers[1].nothing
    assert put_back(model, taken, (1,)).blocks[1].module is first is model.model.layers[1]


def test_a_cut_that_breaks_the_kinds_of_layers_is_refused_by_name():
    model = tiny("gemma3")
    model.model.layers[1].self_attn.sliding_window = 4  # a kind that no config word says
    said = (
        r"gemma3_text: without the blocks 2 its config describes another model: sliding_window of"
        r" model\.layers\.1\.self_attn is 4, by the config 6"
    )
    with pytest.raises(UnsupportedModel, match=said):
        check_cut(model, anatomy(model), (2,))


def test_what_a_config_derives_from_the_number_of_a_block_is_refused_too():
    weights = tiny("gpt2")
    weights.config.scale_attn_by_inverse_layer_idx = True
    model = type(weights)(weights.config).eval()
    model.load_state_dict(weights.state_dict())
    check_cut(model, anatomy(model), (3,))
    with pytest.raises(UnsupportedModel, match=r"describes another model: scaling of transformer\.h\.0\.attn is 0\.17"):
        check_cut(model, anatomy(model), (0,))


def test_a_model_that_computes_by_the_number_of_a_block_is_refused():
    model = tiny("llama")
    kind = type(model.model.layers[0].mlp)
    forward = lambda self, x: kind.forward(self, x) * (1 + self.layer_idx)
    for index, layer in enumerate(model.model.layers):
        layer.mlp.layer_idx = index
        layer.mlp.__class__ = type("Numbered", (kind,), {"forward": forward})
    with pytest.raises(UnsupportedModel, match="what a block computes depends on its number"):
        check_cut(model, anatomy(model), (0,))

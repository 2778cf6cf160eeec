"""A streamed model has the very tensors of a resident one, and has them only while somebody holds them."""

import copy
import json

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import nn

from analysis.errors import ModelError, UnsupportedModel, UsageError
from analysis.models.anatomy import anatomy
from analysis.models.held import held
from analysis.models.load import load_model, placed
from analysis.models.placement import away, copy_model, skeleton
from analysis.models.replay import random_windows, record, verify
from analysis.models.save import save_model
from analysis.models.uneven import MANIFEST
from tests.helpers.families import FAMILIES, REFUSED, tiny
from tests.helpers.small import small_llama
from tests.helpers.streamed import in_memory, same_tensors, saved_tensors

EXPERTS = [name for name in REFUSED if name != "t5"]
IDS = torch.arange(3, 15).view(2, 6)


def _both(folder, **options):
    return load_model(folder, **options), load_model(folder, placement="streamed", **options)


def _tied(model):
    """Names that stand for one parameter."""
    names = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(value), []).append(name)
    return sorted(group for group in names.values() if len(group) > 1)


def _same_model(resident, streamed):
    """Every tensor, buffer and tie is the same, part by part, and no part is in memory unless it is held."""
    parts, true = skeleton(streamed.model), resident.model.state_dict()
    assert list(true) == list(streamed.model.state_dict())
    assert sorted(true) == sorted(name for part in (*parts.blocks, parts.outside) for name in part.names)
    assert in_memory(streamed.model) == []
    for index, part in enumerate(parts.blocks):
        with part.held():
            assert in_memory(streamed.model) == [index]
            same_tensors({name: true[name] for name in part.names}, part.state())
            assert not any(value.requires_grad for value in part.state().values())
    same_tensors({name: true[name] for name in parts.outside.names}, parts.outside.state())
    assert _tied(resident.model) == _tied(streamed.model)
    buffers = [dict(model.model.named_non_persistent_buffers()) for model in (resident, streamed)]
    same_tensors(*buffers)
    assert resident.model.generation_config.to_dict() == streamed.model.generation_config.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, "mixtral"])
def test_a_streamed_model_is_the_resident_one_block_by_block(name, tmp_path):
    tiny(name).save_pretrained(tmp_path)
    resident, streamed = _both(tmp_path)
    _same_model(resident, streamed)
    assert (resident.placement, streamed.placement) == ("resident", "streamed")
    assert torch.equal(resident.model(IDS).logits, streamed.model(IDS).logits) and in_memory(streamed.model) == []
    if name in EXPERTS:
        return
    taken, found = anatomy(resident.model), anatomy(streamed.model)
    assert found.path == taken.path and [name for name, _ in found.matrices()] == [n for n, _ in taken.matrices()]
    for one, other in zip(taken.blocks, found.blocks, strict=True):
        assert (one.children, one.attention, one.mlp, one.parallel) == (
            other.children,
            other.attention,
            other.mlp,
            other.parallel,
        )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shards_and_dtypes_and_an_encoder_with_its_head(dtype, tmp_path):
    config = tf.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=3
    )
    torch.manual_seed(0)
    tf.BertForSequenceClassification(config).to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 3
    resident, streamed = load_model(tmp_path, dtype=dtype), load_model(tmp_path, dtype=dtype, placement="streamed")
    true, parts = resident.model.state_dict(), skeleton(streamed.model)
    for part in (*parts.blocks, parts.outside):
        with part.held():
            same_tensors({name: true[name] for name in part.names}, part.state())
    assert streamed.dtype == resident.dtype and streamed.head == "classification"


def test_checkpoints_that_hold_both_tied_weights(tmp_path):
    model = tiny("llama")
    model.config.tie_word_embeddings = True
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for other in (weights["model.embed_tokens.weight"], weights["model.embed_tokens.weight"] + 1):
        save_file(
            weights | {"lm_head.weight": other.clone()}, tmp_path / "model.safetensors", metadata={"format": "pt"}
        )
        resident, streamed = _both(tmp_path)
        _same_model(resident, streamed)


def test_weights_are_held_once_and_as_long_as_anybody_does(tmp_path):
    small_llama().save_pretrained(tmp_path)
    model = load_model(tmp_path, placement="streamed").model
    block = model.model.layers[1]
    with held(block, model.model.layers[0]):
        weight = block.mlp.up_proj.weight
        with held(block):
            assert block.mlp.up_proj.weight is weight
        block(torch.zeros(1, 2, 32), position_embeddings=model.model.rotary_emb(torch.zeros(1, 2, 32), IDS[:1, :2]))
        assert block.mlp.up_proj.weight is weight and in_memory(model) == [0, 1]
    assert in_memory(model) == []
    with torch.inference_mode(), held(block):
        assert not block.mlp.up_proj.weight.is_inference()
    with away(model):
        assert model.lm_head.weight.is_meta and model.model.embed_tokens.weight.is_meta
    assert not model.lm_head.weight.is_meta and not model.lm_head.weight.requires_grad


def test_a_resident_model_has_nothing_to_hold():
    model = small_llama()
    with held(*model.model.layers), away(model):
        assert skeleton(model) is None and not model.lm_head.weight.is_meta


def test_a_copy_shares_what_lies_outside_of_the_blocks(tmp_path):
    small_llama().save_pretrained(tmp_path)
    model = load_model(tmp_path, placement="streamed").model
    copied = copy_model(model)
    assert copied.lm_head.weight is model.lm_head.weight and torch.equal(copied(IDS).logits, model(IDS).logits)
    with held(copied.model.layers[0]):
        copied.model.layers[0].mlp.up_proj.weight.zero_()
        assert in_memory(model) == [] and not torch.equal(copied(IDS).logits, model(IDS).logits)
    with away(model):
        assert copied.lm_head.weight.is_meta
    assert copied.lm_head.weight is model.lm_head.weight and not model.lm_head.weight.is_meta
    with pytest.raises(UsageError, match="a streamed model cannot be copied; load it resident"):
        copy.deepcopy(model)
    resident = small_llama()
    assert torch.equal(copy_model(resident)(IDS).logits, resident(IDS).logits)


def test_replay_keeps_no_more_than_one_blocks_tensors(tmp_path, monkeypatch):
    small_llama(blocks=6).save_pretrained(tmp_path)
    model = load_model(tmp_path, placement="streamed").model
    parts, windows = anatomy(model), random_windows(model, count=2)
    table = verify(model, parts, record(model, parts, windows))
    assert table.relative_error.tolist() == [0.0] * 6 and in_memory(model) == []


def test_files_may_be_removed_while_a_model_reads_from_them(tmp_path):
    true = small_llama()
    true.save_pretrained(tmp_path)
    model = load_model(tmp_path, placement="streamed").model
    (tmp_path / "model.safetensors").unlink()
    assert torch.equal(model(IDS).logits, true(IDS).logits)


def _broken(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


UP = "model.layers.1.mlp.up_proj.weight"
BROKEN = {
    "not finite": (lambda w: w[UP].fill_(float("nan")), "parameter model.layers.1.mlp.up_proj.weight .* is not finite"),
    "missing": (lambda w: w.pop(UP), "1 parameters are missing from its weight files .*up_proj"),
    "misshapen": (lambda w: w.update({UP: w[UP][:5].clone()}), "1 of its weights do not have the shape"),
    "unknown": (lambda w: w.update({"other.weight": torch.ones(3)}), "1 weights in its files have no place"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_weights_are_refused_as_those_of_a_resident_model(case, tmp_path):
    change, message = BROKEN[case]
    small_llama().save_pretrained(tmp_path)
    _broken(tmp_path, change)
    for placement in ("resident", "streamed"):
        with pytest.raises(ModelError, match=message):
            load_model(tmp_path, placement=placement)


def test_what_cannot_be_streamed_is_refused_by_name(tmp_path):
    small_llama().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="placement 'disk': unknown; possible are resident, streamed"):
        load_model(tmp_path, placement="disk")
    (tmp_path / "model.safetensors").rename(tmp_path / "shrunk.safetensors")
    (tmp_path / MANIFEST).write_text(json.dumps({"version": 1, "blocks": []}))
    with pytest.raises(UnsupportedModel, match="unequal widths, and such a model cannot be streamed; load it resident"):
        load_model(tmp_path, placement="streamed")


def test_a_loaded_model_is_placed_elsewhere_by_loading_it_again(tmp_path):
    small_llama().save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype="bfloat16")
    there = placed(model, "streamed")
    assert placed(model, "resident") is model and there.placement == "streamed" and there.dtype == torch.bfloat16
    assert placed(there, "resident").placement == "resident"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_streamed_model_is_saved_part_by_part(name, tmp_path):
    tiny(name).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    resident, streamed = _both(tmp_path / "model")
    masks = {
        key: torch.ones_like(matrix.weight(), dtype=torch.bool) for key, matrix in anatomy(resident.model).matrices()
    }
    save_model(resident.model, None, tmp_path / "resident", masks)
    save_model(streamed.model, None, tmp_path / "streamed", masks)
    same_tensors(saved_tensors(tmp_path / "resident"), saved_tensors(tmp_path / "streamed"))
    assert len(list((tmp_path / "streamed").glob("model-*-of-00005.safetensors"))) == 5
    for file in ("config.json", "generation_config.json"):
        assert (tmp_path / "resident" / file).read_text() == (tmp_path / "streamed" / file).read_text()
    again = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "streamed")
    assert torch.equal(again(IDS).logits, resident.model(IDS).logits)
    assert isinstance(again, nn.Module) and in_memory(streamed.model) == []

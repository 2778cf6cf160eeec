"""A shrunk model is the masked model with smaller matrices; it comes back from its folder; what cannot is refused."""

import json
import shutil

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from analysis.errors import ModelError, UnsupportedModel, UsageError
from analysis.models.anatomy import anatomy
from analysis.models.hub import fingerprint, is_shrunk
from analysis.models.load import load_model
from analysis.models.save import save_shrunk
from analysis.models.uneven import MANIFEST, WEIGHTS, load_shrunk
from analysis.models.widths import Widths, assign_bias, widths
from analysis.structured.find import structures
from analysis.structured.pairs import masked, row_mask
from analysis.structured.shrink import check_shrinks, footprint, holds_bias, shrink
from tests.helpers.encoders import ENCODERS, encoder
from tests.helpers.families import FAMILIES, tiny, tokens
from tests.helpers.structures import ACROSS_HEADS, half_kept, logits

SLOPES = ("bloom",)  # a slope per head is made outside the blocks
FIXED_WIDTH = (
    "opt",
    "opt_post_norm",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "falcon",
    *ENCODERS,
)  # a head is hidden size / heads wide
FIXED_NEURONS = ("bloom",)  # four times the hidden size, whatever the config says


def build(name: str) -> nn.Module:
    return encoder(name) if name in ENCODERS else tiny(name)


def shrunk_pair(name: str, kind: str, even: bool = True, heads: str = "groups"):
    """A model, its structures, masks that keep half of every pair (of every second one, where not even), and the shrunk
    model.
    """
    model = build(name)
    removable = structures(model, kinds=[kind], heads=heads)
    masks = {
        pair.name: half_kept(removable, seed=pair.block)[pair.name] for pair in removable if even or pair.block % 2
    }
    return model, removable, masks, shrink(model, removable, masks)


CASES = [
    (name, kind)
    for name in (*FAMILIES, *ENCODERS)
    for kind in ("heads", "neurons")
    if kind == "neurons" or name not in (*ACROSS_HEADS, *SLOPES)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("even", [True, False], ids=["even", "uneven"])
def test_shrunk_equals_masked_and_comes_back(name, kind, even, tmp_path):
    model, removable, masks, small = shrunk_pair(name, kind, even)
    ids, mask = tokens(4, padding="right" if name in ENCODERS else "both")
    dense = logits(model, ids, mask)
    with masked(removable, masks):
        expected = logits(model, ids, mask)
    assert not torch.allclose(dense, expected, rtol=1e-2, atol=1e-2) and torch.equal(logits(model, ids, mask), dense), (
        "the model itself stays"
    )
    torch.testing.assert_close(logits(small, ids, mask), expected, rtol=1e-5, atol=1e-5)

    folder = save_shrunk(small, None, tmp_path / "model")
    plain = even and name not in (FIXED_WIDTH if kind == "heads" else FIXED_NEURONS)
    assert is_shrunk(folder) is not plain
    again = type(model).from_pretrained(folder).eval() if plain else load_shrunk(folder)
    assert torch.equal(logits(again, ids, mask), logits(small, ids, mask))
    assert widths(again) == widths(small)
    if not plain:
        with pytest.raises(OSError, match="model.safetensors"):
            type(model).from_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "phi3", "falcon"])
@pytest.mark.parametrize("even", [True, False], ids=["even", "uneven"])
def test_query_heads_leave_their_groups(name, even, tmp_path):
    model, removable, masks, small = shrunk_pair(name, "heads", even, heads="queries")
    ids, mask = tokens(4, padding="left")
    with masked(removable, masks):
        torch.testing.assert_close(logits(small, ids, mask), logits(model, ids, mask), rtol=1e-5, atol=1e-5)
    assert widths(small)[1] == Widths(2, 2, 8, widths(model)[1].neurons)
    folder = save_shrunk(small, None, tmp_path / "model")
    assert is_shrunk(folder) is (not even or name in FIXED_WIDTH)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", "gpt_neox", "gemma2", "qwen3", "bert"])
def test_heads_and_neurons_together_take_what_they_cost(name):
    model = build(name)
    removable = structures(model)
    masks = half_kept(removable)
    small = shrink(model, removable, masks)
    gone = {pair.name: int((~masks[pair.name]).sum()) for pair in removable}
    before, after = footprint(model, 64), footprint(small, 64)
    assert (
        before.parameters - after.parameters
        == before.in_blocks - after.in_blocks
        == sum(pair.parameters() * gone[pair.name] for pair in removable)
    )
    assert before.multiply_adds - after.multiply_adds == sum(
        pair.multiply_adds(64) * gone[pair.name] for pair in removable
    )
    again = structures(small)
    assert [pair.count for pair in again] == [int(masks[pair.name].sum()) for pair in removable]


@pytest.mark.slow
def test_a_shrunk_model_can_be_shrunk_again(tmp_path):
    _, _, _, small = shrunk_pair("opt", "heads", even=False)
    removable = structures(small)
    masks = half_kept(removable)
    smaller = shrink(small, removable, masks)
    again = load_shrunk(save_shrunk(smaller, None, tmp_path / "model"))
    assert widths(again) == widths(smaller) and [w.heads for w in widths(again)] == [2, 1, 2, 1]


def test_footprint_as_by_hand():
    model = tiny("llama")
    block = 32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 48 * 32
    assert footprint(model, 10).in_blocks == 4 * block
    assert footprint(model, 10).multiply_adds == 4 * (block + 2 * 10 * 32) + 64 * 32
    assert footprint(model, 10).parameters == sum(p.numel() for p in model.parameters())
    assert footprint(encoder("bert_body"), 0).multiply_adds == 3 * (4 * 32 * 32 + 2 * 32 * 48), (
        "an encoder's body has no output head"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2", "opt"])
def test_generation_with_a_cache_works_in_unequal_layers(name):
    *_, small = shrunk_pair(name, "heads", even=False)
    ids = tokens(2)[0]
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    cached, plain = (
        small.generate(ids, attention_mask=torch.ones_like(ids), use_cache=cache, **options) for cache in (True, False)
    )
    assert torch.equal(cached, plain)


HOLDS = {
    "llama": (True, True),
    "qwen2": (False, False),
    "qwen3": (True, False),
    "gemma2": (True, False),
    "phi3": (False, False),
    "opt": (True, True),
    "gpt2": (True, True),
    "bert": (True, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOLDS)
def test_a_created_bias_is_held_by_the_config_or_by_the_manifest(name, tmp_path):
    model = build(name)
    assert (holds_bias(model, "heads"), holds_bias(model, "neurons")) == HOLDS[name]
    for place, kind in enumerate(("heads", "neurons")):
        model = build(name)
        removable = structures(model, kinds=["neurons"])
        parts = removable.parts
        for block in parts.blocks:
            consumer = [matrix for matrix in block.matrices if matrix.half == ("attention", "mlp")[place]][-1]
            assign_bias(consumer, torch.linspace(-1, 1, consumer.rows))
        masks = half_kept(removable)
        small = shrink(model, removable, dict.fromkeys(masks, masks[removable.pairs[0].name]))
        folder = save_shrunk(small, None, tmp_path / kind)
        assert is_shrunk(folder) is not HOLDS[name][place]
        again = load_shrunk(folder) if is_shrunk(folder) else type(model).from_pretrained(folder).eval()
        ids, mask = tokens(4)
        assert torch.equal(logits(again, ids, mask), logits(small, ids, mask))


@pytest.mark.slow
def test_an_ordinary_shrunk_model_loads_by_the_usual_way(tmp_path):
    *_, small = shrunk_pair("llama", "neurons")
    folder = save_shrunk(small, None, tmp_path / "model")
    loaded = load_model(str(folder), device="cpu").model
    ids, mask = tokens(2)
    assert loaded.config.intermediate_size == 24 and torch.equal(logits(loaded, ids, mask), logits(small, ids, mask))
    with pytest.raises(ModelError, match=f"no {MANIFEST}"):
        load_shrunk(folder)


@pytest.mark.slow
@pytest.mark.parametrize("even", [True, False], ids=["ordinary", "unequal"])
def test_load_model_reads_either_kind_of_folder(even, tmp_path):
    model, _, _, small = shrunk_pair("llama", "neurons", even)
    folder = save_shrunk(small, None, tmp_path / "model")
    loaded = load_model(str(folder), device="cpu")
    assert is_shrunk(folder) is not even and widths(loaded.model) == widths(small)
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.model.state_dict().values(), small.state_dict().values(), strict=True)
    )
    assert loaded.model.config.use_cache is False and loaded.fingerprint == fingerprint(str(folder))
    assert load_model(str(folder), device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    if not even:
        (folder / MANIFEST).write_text((folder / MANIFEST).read_text() + " ")
        assert fingerprint(str(folder)) != loaded.fingerprint, "the manifest is part of the model"
        (folder / WEIGHTS).unlink()
        with pytest.raises(ModelError, match="shrunk.json and no shrunk.safetensors"):
            load_model(str(folder), device="cpu")


@pytest.mark.slow
def test_half_precision_comes_back_in_half_precision(tmp_path):
    model = tiny("llama").to(torch.bfloat16)
    removable = structures(model, kinds=["neurons"])
    masks = half_kept(removable)
    masks.pop(removable.pairs[0].name)
    again = load_shrunk(save_shrunk(shrink(model, removable, masks), None, tmp_path / "model"))
    assert next(again.parameters()).dtype == torch.bfloat16


def test_heads_that_the_model_counts_elsewhere_are_refused():
    model = tiny("bloom")
    removable = structures(model, kinds=["heads"])
    with pytest.raises(UnsupportedModel, match="masks work, smaller matrices do not"):
        shrink(model, removable, half_kept(removable))
    assert anatomy(model).blocks[0].matrices[0].rows == 96, "the model itself stays"
    with pytest.raises(UnsupportedModel, match="masks work, smaller matrices do not"):
        check_shrinks(model, removable)


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["groups", "queries"])
def test_whether_a_model_can_shrink_is_known_before_any_mask(heads):
    model = tiny("llama")
    check_shrinks(model, structures(model, heads=heads))
    assert widths(model) == widths(tiny("llama")), "the model itself stays"


def test_a_smaller_model_that_is_not_the_masked_one_is_refused(monkeypatch):
    model = tiny("llama")
    removable = structures(model, kinds=["neurons"])
    monkeypatch.setattr("analysis.structured.pairs.row_mask", lambda producer, mask: row_mask(producer, mask.flip(0)))
    with pytest.raises(UnsupportedModel, match="differs from the masked one"):
        shrink(model, removable, half_kept(removable))


@pytest.fixture(scope="module")
def saved_uneven(tmp_path_factory):
    *_, small = shrunk_pair("llama", "neurons", even=False)
    return save_shrunk(small, None, tmp_path_factory.mktemp("uneven") / "model")


@pytest.fixture
def uneven(saved_uneven, tmp_path):
    return shutil.copytree(saved_uneven, tmp_path / "model")


def test_a_plain_load_of_unequal_layers_fails_by_itself(uneven):
    with pytest.raises(OSError):
        AutoModelForCausalLM.from_pretrained(uneven, ignore_mismatched_sizes=True)


@pytest.mark.parametrize(
    "damage", ["manifest", "version", "counts", "blocks", "weights", "cut", "shape", "class", "config"]
)
def test_a_broken_folder_is_refused_by_name(uneven, damage):
    manifest = json.loads((uneven / MANIFEST).read_text())
    if damage == "manifest":
        (uneven / MANIFEST).write_text("{")
    elif damage == "version":
        (uneven / MANIFEST).write_text(json.dumps(manifest | {"version": 9}))
    elif damage == "counts":
        manifest["blocks"][0]["neurons"] += 1
        (uneven / MANIFEST).write_text(json.dumps(manifest))
    elif damage == "blocks":
        (uneven / MANIFEST).write_text(json.dumps(manifest | {"blocks": manifest["blocks"][:2]}))
    elif damage == "weights":
        (uneven / WEIGHTS).unlink()
    elif damage == "cut":
        (uneven / WEIGHTS).write_bytes((uneven / WEIGHTS).read_bytes()[:-100])
    elif damage == "shape":
        tensors = load_file(uneven / WEIGHTS)
        tensors["model.layers.0.input_layernorm.weight"] = torch.ones(31)
        save_file(tensors, uneven / WEIGHTS)
    elif damage == "class":
        config = json.loads((uneven / "config.json").read_text())
        (uneven / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchModel"]}))
    else:
        (uneven / "config.json").unlink()
    named = {"weights": WEIGHTS, "cut": WEIGHTS, "shape": WEIGHTS, "class": "config.json", "config": "config.json"}.get(
        damage, MANIFEST
    )
    with pytest.raises(ModelError, match=named):
        load_shrunk(uneven)


@pytest.mark.slow
def test_a_folder_that_holds_something_else_is_left_alone(uneven, tmp_path):
    *_, small = shrunk_pair("llama", "neurons", even=False)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for place in ("file", "full"):
        with pytest.raises(UsageError, match="save_shrunk"):
            save_shrunk(small, None, tmp_path / place)
    assert save_shrunk(small, None, uneven) == uneven and is_shrunk(uneven)


@pytest.mark.slow
@pytest.mark.parametrize("even", [True, False], ids=["even", "uneven"])
def test_heads_of_a_module_that_states_their_number_and_not_their_width(even, tmp_path):
    """The width is what is left divided by the heads that are left, not by those the config once had."""
    config = tf.OpenAIGPTConfig(vocab_size=64, n_embd=32, n_layer=4, n_head=4, n_positions=64, initializer_range=0.2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tf.OpenAIGPTLMHeadModel(config).eval().requires_grad_(False)
    removable = structures(model, kinds=["heads"])
    masks = {pair.name: half_kept(removable)[pair.name] for pair in removable if even or pair.block % 2}
    small = shrink(model, removable, masks)
    assert {(block.heads, block.head_size) for block in widths(small)} == ({(2, 8)} if even else {(2, 8), (4, 8)})
    ids, mask = tokens(4)
    again = load_shrunk(save_shrunk(small, None, tmp_path / "model"))
    assert torch.equal(logits(again, ids, mask), logits(small, ids, mask))

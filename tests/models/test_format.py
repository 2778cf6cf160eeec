"""A saved model has its checkpoint's numbers and neighbours: dtype by dtype, side files, nothing that is not there."""

import json

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from analysis.errors import NumericalError, UsageError
from analysis.models import save
from analysis.models.anatomy import anatomy
from analysis.models.format import format_of, side_files
from analysis.models.load import load_model
from analysis.models.save import save_model, save_shrunk
from analysis.structured.find import structures
from analysis.structured.shrink import shrink
from tests.helpers.families import tiny
from tests.helpers.structures import half_kept

NORM, QUERY = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"


def checkpoint(folder, dtype=torch.bfloat16, **other):
    """A folder of a tiny Llama in one dtype; other: tensors that have another there."""
    model = tiny("llama").to(dtype)
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    for name, kind in other.items():
        state[name] = state[name].to(kind) * 1.001
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def halved(model):
    """Half of every matrix set to zero in place, and the masks."""
    masks = {}
    for name, matrix in anatomy(model).matrices():
        masks[name] = matrix.weight().abs() > matrix.weight().abs().median()
        matrix.assign(matrix.weight() * masks[name])
    return masks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoints", "computed", "asked", "stored"),
    [
        ("bfloat16", "float32", "auto", "bfloat16"),
        ("float16", "float32", "auto", "float16"),
        ("float32", "float32", "auto", "float32"),
        ("float32", "bfloat16", "auto", "bfloat16"),  # nothing is stored wider than it was computed
        ("bfloat16", "float32", "float32", "float32"),
        ("float32", "float32", "float16", "float16"),
    ],
)
def test_weights_are_stored_as_the_checkpoint_has_them_or_as_asked(tmp_path, checkpoints, computed, asked, stored):
    source = checkpoint(tmp_path / "dense", getattr(torch, checkpoints))
    model = load_model(str(source), device="cpu", dtype=computed).model
    masks = halved(model)
    written = format_of(model, source, asked)
    folder = save_model(model, None, tmp_path / "model", masks, written)
    read = load_file(folder / "model.safetensors")
    assert {value.dtype for value in read.values()} == {getattr(torch, stored)}
    assert all(bool((read[f"{name}.weight"][~mask] == 0).all()) for name, mask in masks.items())
    assert json.loads((folder / "config.json").read_text())["dtype"] == stored
    assert written.provenance() == {"computed in": computed, "stored in": stored, "carried over": []}
    assert next(model.parameters()).dtype == getattr(torch, computed)
    if checkpoints == stored:
        assert torch.equal(read[NORM], load_file(source / "model.safetensors")[NORM])


def test_a_tensor_of_another_dtype_keeps_it(tmp_path):
    source = checkpoint(tmp_path / "dense", **{NORM: torch.float32})
    model = load_model(str(source), device="cpu").model
    masks = halved(model)
    folder = save_model(model, None, tmp_path / "model", masks, format_of(model, source))
    before, after = (load_file(path / "model.safetensors") for path in (source, folder))
    assert {name: value.dtype for name, value in after.items()} == {name: value.dtype for name, value in before.items()}
    assert torch.equal(after[NORM], before[NORM])


@pytest.mark.parametrize("placement", ["resident", "streamed"])
def test_a_tensor_of_another_name_in_its_file_keeps_its_dtype_too(tmp_path, placement):
    """Routers of a Mixtral are `block_sparse_moe.gate` there and `mlp.gate` in memory."""
    tiny("mixtral").save_pretrained(tmp_path / "dense")
    file = tmp_path / "dense" / "model.safetensors"
    before = {name: v if "gate.weight" in name else v.bfloat16() for name, v in load_file(file).items()}
    save_file(before, file, metadata={"format": "pt"})
    loaded = load_model(str(tmp_path / "dense"), device="cpu", dtype="float32", placement=placement)
    model = loaded.model
    masks = {name: torch.ones(matrix.rows, matrix.columns).bool() for name, matrix in anatomy(model).matrices()}
    folder = save_model(model, None, tmp_path / "model", masks, format_of(model, tmp_path / "dense"))
    after = {name: v for path in folder.glob("*.safetensors") for name, v in load_file(path).items()}
    assert "model.layers.0.block_sparse_moe.gate.weight" in after
    assert {name: value.dtype for name, value in after.items()} == {name: value.dtype for name, value in before.items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_weight_that_the_stored_dtype_cannot_hold_leaves_the_earlier_model(tmp_path):
    model = tiny("llama")
    masks = halved(model)
    folder = save_model(model, None, tmp_path / "model", masks)
    before = (folder / "model.safetensors").read_bytes()
    model.get_parameter(QUERY)[0, masks[QUERY.removesuffix(".weight")][0].nonzero()[0]] = 7e4
    with pytest.raises(NumericalError, match=rf"{QUERY}: a weight of 7e\+04 is beyond what float16 holds .*65504"):
        save_model(model, None, folder, masks, format_of(model, None, "float16"))
    assert (folder / "model.safetensors").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [
        "model"
    ]


def test_an_unknown_dtype_is_refused():
    with pytest.raises(UsageError, match="save dtype 'int8': unknown; possible are auto, float32"):
        format_of(tiny("llama"), None, "int8")


@pytest.mark.slow
def test_side_files_come_along_and_code_weights_and_the_card_do_not(tmp_path):
    source = checkpoint(tmp_path / "dense")
    texts = {
        "LICENSE": "a licence",
        "NOTICE.txt": "made by somebody",
        "USE_POLICY.md": "be good",
        "chat_template.jinja": "{{ messages }}",
        "pieces.spm": "pieces",
        "preprocessor_config.json": '{"size": 28, "auto_map": {"AutoProcessor": "own.P"}}',
    }
    left = ("README.md", "modeling_own.py", "LICENSE.py", "vocab.bin", "notes.txt", ".gitattributes")
    for name, text in (texts | dict.fromkeys(left, "x")).items():
        (source / name).write_text(text)
    config = json.loads((source / "config.json").read_text())
    more = {"auto_map": {"AutoConfig": "modeling_own.C"}, "custom_pipelines": {"a": {"impl": "own.py"}}}
    (source / "config.json").write_text(json.dumps(config | more))
    model = load_model(str(source), device="cpu").model
    assert {path.name for path in side_files(source)} == set(texts)
    removable = structures(model, kinds=["neurons"])
    written = format_of(model, source)
    folders = [
        save_model(model, None, tmp_path / "model", halved(model), written),
        save_shrunk(shrink(model, removable, half_kept(removable)), None, tmp_path / "small", written),
    ]
    for folder in folders:
        there = {path.name for path in folder.iterdir()}
        assert there == {*texts, "generation_config.json", "config.json", "model.safetensors"}
        assert (folder / "LICENSE").read_text() == "a licence"
        assert json.loads((folder / "preprocessor_config.json").read_text()) == {"size": 28}
        assert not {"auto_map", "custom_pipelines"} & json.loads((folder / "config.json").read_text()).keys()
    dense, small = ((folder / "model.safetensors").stat().st_size for folder in (source, folders[1]))
    assert small < dense


@pytest.mark.slow
def test_a_language_model_in_a_wrapper_comes_back_whole(tmp_path):
    """Its file names are not its module names: what is read back is then what the loader makes of them."""
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    text = sizes | dict(vocab_size=64, num_key_value_heads=2, head_dim=8, sliding_window=6, pad_token_id=0)
    vision = sizes | dict(image_size=28, patch_size=14, num_hidden_layers=1)
    config = tf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=63)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tf.Gemma3ForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "processor_config.json").write_text("{}")
    model = load_model(str(tmp_path / "dense"), device="cpu").model
    masks = halved(model)
    folder = save_model(model, None, tmp_path / "model", masks, format_of(model, tmp_path / "dense"))
    before, after = (load_file(path / "model.safetensors") for path in (tmp_path / "dense", folder))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and len(changed) == len(masks) == 14
    assert all(".layers." in name and "language_model" in name for name in changed)
    assert (folder / "processor_config.json").is_file()
    assert tf.AutoModelForImageTextToText.from_pretrained(folder).dtype == torch.bfloat16


@pytest.mark.slow
def test_the_proof_reads_the_files_and_holds_no_second_model(tmp_path, monkeypatch):
    monkeypatch.setattr(save, "load_model", lambda *_, **__: pytest.fail("a second model was loaded"))
    for family in ("llama", "gpt2"):
        model = tiny(family)
        save_model(model, None, tmp_path / family, halved(model))


def test_a_config_that_describes_another_model_is_found_out(tmp_path, monkeypatch):
    write = save._write

    def badly(model, tokenizer, folder, *more):
        write(model, tokenizer, folder, *more)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True, "vocab_size": 32}))

    monkeypatch.setattr(save, "_write", badly)
    model = tiny("llama")
    with pytest.raises(Exception, match="do not have the shape"):
        save_model(model, None, tmp_path / "model", halved(model))
    assert not list(tmp_path.iterdir())

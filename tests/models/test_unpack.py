"""Weights that are no safetensors: GGUF files and `.bin` checkpoints become ordinary folders once, or say why not."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.errors import ModelError
from analysis.models.unpack import ORIGIN, origin, told, unpacked
from tests.helpers.small import small_llama


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write_gguf(path: Path, model, quantise: str | None = "Q4_1") -> None:
    """A llama of the small tests as llama.cpp would write it; its linear maps quantised."""
    gguf = pytest.importorskip("gguf")
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = [f"<{n}>" if n < 2 else chr(95 + n) for n in range(config.vocab_size - 1)]  # "a" is 2
    writer.add_token_list([*tokens, "ab"])
    writer.add_token_types([3 if n < 2 else 1 for n in range(config.vocab_size)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    tops = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for key, value in model.state_dict().items():
        module = key.removesuffix(".weight")
        if module in tops:
            target = tops[module]
        else:
            _, _, number, rest = module.split(".", 3)
            target = f"blk.{number}.{names[rest]}"
        array = value.numpy().astype(np.float32)
        if names.get(module.split(".", 3)[-1], "").startswith("attn_") and module[-6] in "qk" and array.ndim == 2:
            array = _interleaved(
                array, config.num_attention_heads if "q_proj" in module else config.num_key_value_heads
            )
        kind = getattr(gguf.GGMLQuantizationType, quantise) if quantise and "proj" in module else None
        packed = gguf.quants.quantize(array, kind) if kind else array
        writer.add_tensor(f"{target}.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key map as llama.cpp's rotary embedding wants them."""
    half = array.shape[0] // heads // 2
    return array.reshape(heads, 2, half, array.shape[1]).swapaxes(1, 2).reshape(array.shape)


def folder_of_bin(folder: Path, model, shards: int = 1) -> Path:
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    state = model.state_dict()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    parts = [dict(list(state.items())[n::shards]) for n in range(shards)]
    names = [f"pytorch_model-{n + 1:05}-of-{shards:05}.bin" for n in range(shards)]
    for name, part in zip(names, parts):
        torch.save(part, folder / name)
    places = {key: name for name, part in zip(names, parts) for key in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def same_weights(model, folder: Path) -> bool:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    return all(torch.equal(value, loaded[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("shards", [1, 3])
def test_bin_weights_are_read_as_they_are(shards, tmp_path):
    model = small_llama(blocks=2).to(torch.bfloat16)
    folder = unpacked(folder_of_bin(tmp_path / "bin", model, shards), "m")
    assert same_weights(model, folder) and told(folder) == "loaded from a .bin pickle by weights_only (bfloat16)"
    assert not list(folder.glob("*.bin")) and origin(folder)["file"].startswith("pytorch_model")


def test_tied_weights_that_share_memory_are_read(tmp_path):
    model = small_llama(blocks=1)
    model.lm_head.weight = model.model.embed_tokens.weight
    model.config.tie_word_embeddings = True
    assert same_weights(model, unpacked(folder_of_bin(tmp_path / "bin", model), "m"))


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_a_pickle_that_could_run_code_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = folder_of_bin(tmp_path / "bin", small_llama(blocks=1))
    for content in (pickle.dumps(Evil()), b"\x80\x02.", b"", b"nothing"):
        (folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ModelError, match="pytorch_model.bin is cut short, or holds more than tensors"):
            unpacked(folder, "m")
    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="could run code"):
        unpacked(folder, "m")
    torch.save([torch.ones(2)], folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no state dict"):
        unpacked(folder, "m")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("places", [{"a": "gone.bin"}, {"a": "../gone.bin"}, {"a": 7}, []])
def test_an_index_that_names_no_file_beside_it_is_refused(places, tmp_path):
    folder = folder_of_bin(tmp_path / "bin", small_llama(blocks=1), 2)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ModelError, match="pytorch_model.bin.index.json"):
        unpacked(folder, "m")


@pytest.mark.slow
def test_a_gguf_file_becomes_the_model_it_was_made_of(tmp_path):
    from transformers import AutoTokenizer

    model = small_llama(blocks=2)
    write_gguf(tmp_path / "m.gguf", model, quantise=None)
    folder = unpacked(tmp_path / "m.gguf", "m")
    assert same_weights(model, folder) and told(folder) == "read from F32 (GGUF)"
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert AutoTokenizer.from_pretrained(folder)("ab")["input_ids"]


def test_quantised_weights_are_dequantised_once(tmp_path):
    gguf = pytest.importorskip("gguf")
    model = small_llama(blocks=1)
    write_gguf(tmp_path / "m.gguf", model)
    folder = unpacked(tmp_path, "m")  # the folder that holds it
    assert told(folder) == "dequantised from Q4_1 (GGUF)"
    from safetensors.torch import load_file

    weight = model.model.layers[0].mlp.down_proj.weight.numpy()
    kind = gguf.GGMLQuantizationType.Q4_1
    rounded = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
    written = load_file(folder / "model.safetensors")["model.layers.0.mlp.down_proj.weight"].numpy()
    assert np.array_equal(written, rounded) and not np.array_equal(written, weight)
    before = (folder / ORIGIN).stat().st_mtime_ns
    assert unpacked(tmp_path / "m.gguf", "other name") == folder and (folder / ORIGIN).stat().st_mtime_ns == before


def test_what_cannot_be_read_says_so(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    (tmp_path / "torn.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelError, match="torn.gguf is cut short or no GGUF file"):
        unpacked(tmp_path / "torn.gguf", "m")
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="holds 2 GGUF files .*name one"):
        unpacked(tmp_path, "m")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ModelError, match="pip install gguf"):
        unpacked(tmp_path / "torn.gguf", "m")


def test_a_folder_with_safetensors_is_left_as_it_is(tmp_path):
    small_llama(blocks=1).save_pretrained(tmp_path / "m")
    torch.save({}, tmp_path / "m" / "pytorch_model.bin")
    assert unpacked(tmp_path / "m", "m") == tmp_path / "m" and told(tmp_path / "m") == ""


@pytest.mark.slow
def test_packed_models_load_and_say_what_they_were(tmp_path):
    from analysis.models.hub import fingerprint
    from analysis.models.load import load_model

    model = small_llama(blocks=1)
    loaded = load_model(str(folder_of_bin(tmp_path / "bin", model)))
    assert loaded.notes == ("loaded from a .bin pickle by weights_only (float32)",)
    assert all(torch.equal(value, loaded.model.state_dict()[key]) for key, value in model.state_dict().items())
    write_gguf(tmp_path / "m.gguf", model)
    packed = load_model(tmp_path / "m.gguf")
    assert packed.notes == ("dequantised from Q4_1 (GGUF)",) and packed.tokenizer is not None
    assert packed.fingerprint == fingerprint(str(tmp_path / "m.gguf")) != loaded.fingerprint


@pytest.mark.slow
def test_a_pruned_gguf_model_is_an_ordinary_folder(tmp_path):
    from analysis import prune
    from analysis.models.load import load_model
    from tests.helpers.small import windows

    write_gguf(tmp_path / "m.gguf", small_llama(blocks=1))
    pruned = prune(load_model(tmp_path / "m.gguf"), "magnitude-50% LR", windows(2))
    pruned.save(tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    weight = load_model(tmp_path / "out").model.model.layers[0].mlp.up_proj.weight
    assert torch.equal(weight, pruned.model.model.layers[0].mlp.up_proj.weight)
    assert "dequantised from Q4_1 (GGUF)" in pruned.provenance["notes"]

"""A model's shape from its config is that of the model itself."""

import json
import shutil

import pytest
import torch
from transformers import JetMoeConfig, LlamaConfig, MixtralConfig

from analysis import paths
from analysis.errors import ModelError, UnsupportedModel
from analysis.models.anatomy import anatomy
from analysis.models.shape import model_shape, shape_of
from tests.helpers.families import tiny


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gpt_neox"])
def test_it_lists_the_matrices_that_anatomy_finds_by_running_the_model(family):
    model = tiny(family)
    shape = shape_of(model, family)
    assert shape.parameters == sum(value.numel() for value in model.parameters())
    for found, block in zip(shape.blocks, anatomy(model).blocks, strict=True):
        sizes = {matrix.name: (matrix.half, matrix.rows, matrix.columns) for matrix in found.matrices}
        assert sizes == {matrix.name: (matrix.half, matrix.rows, matrix.columns) for matrix in block.matrices}
        shared = lambda matrices: {
            frozenset(one.name for one in matrices if one.reads == other.reads) for other in matrices
        }
        assert shared(found.matrices) == shared(block.matrices)
        assert found.parameters == sum(value.numel() for value in block.module.parameters())
        assert found.consumer("mlp").name == [m.name for m in block.matrices if m.half == "mlp"][-1]


def folder_of(path, config):
    path.mkdir()
    config.save_pretrained(path)
    return str(path)


def test_a_config_is_enough_and_no_weight_is_made(tmp_path, monkeypatch):
    """Seventy billion parameters, which no machine here could hold."""
    made = []
    monkeypatch.setattr(torch.Tensor, "normal_", lambda tensor, *_, **__: made.append(tensor) or tensor)
    config = LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=3,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    shape = model_shape(folder_of(tmp_path / "llama", config))
    block = 8192 * (8192 * 2 + 1024 * 2 + 28672 * 3)
    assert shape.weights == 3 * block and shape.parameters == 3 * (block + 2 * 8192) + 2 * 128256 * 8192 + 8192
    assert shape.stored == {"BF16": shape.parameters} and shape.dtype(None) == "bfloat16"
    assert shape.dtype("float32") == "float32" and shape.context == 2048 and not made


def test_the_headers_of_weight_files_say_what_is_stored(tmp_path):
    tiny("llama").to(torch.float16).save_pretrained(tmp_path / "half")
    shape = model_shape(str(tmp_path / "half"))
    assert shape.stored == {"F16": shape.parameters} and shape.dtype(None) == "float32"


def test_experts_are_matrices_of_their_own(tmp_path):
    config = MixtralConfig(num_hidden_layers=1, num_local_experts=3, architectures=["MixtralForCausalLM"])
    (block,) = model_shape(folder_of(tmp_path / "experts", config)).blocks
    experts = [matrix for matrix in block.matrices if ".experts." in matrix.name]
    assert [(matrix.rows, matrix.columns) for matrix in experts] == [(28672, 4096), (4096, 14336)] * 3
    assert all(matrix.reads == matrix.name for matrix in experts) and len(block.matrices) == 4 + 6


def test_what_cannot_be_pruned_is_refused_by_its_config(tmp_path):
    config = JetMoeConfig(num_hidden_layers=1, architectures=["JetMoeForCausalLM"])
    with pytest.raises(UnsupportedModel, match="mixture of experts"):
        model_shape(folder_of(tmp_path / "experts", config))
    folder = folder_of(tmp_path / "quantized", LlamaConfig(num_hidden_layers=1))
    file = tmp_path / "quantized" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"bits": 4}}))
    with pytest.raises(UnsupportedModel, match="quantized"):
        model_shape(folder)
    with pytest.raises(ModelError, match=r"no config\.json"):
        (tmp_path / "nothing").mkdir()
        model_shape(str(tmp_path / "nothing"))
    broken = folder_of(tmp_path / "broken", LlamaConfig(num_hidden_layers=1, num_attention_heads=4, hidden_size=32))
    file = tmp_path / "broken" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": "wide"}))
    with pytest.raises(ModelError, match=r"transformers cannot"):
        model_shape(broken)


def test_a_config_of_other_weights_or_of_more_layers_than_any_model_is_not_laid_out(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(paths.ROOT / "data" / "lab" / "tiny", folder)
    config = json.loads((folder / "config.json").read_text())
    for size, said in (("num_hidden_layers", "its weight files hold"), ("hidden_size", "no tensor wider")):
        (folder / "config.json").write_text(json.dumps(config | {size: 10**7}))
        with pytest.raises(ModelError, match=said):
            model_shape(str(folder))
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**7}))
    with pytest.raises(ModelError, match="no model has more than 10,000"):
        model_shape(str(folder))

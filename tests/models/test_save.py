"""Promise 2 at the end of the road: what is saved loads back, with its zeros and every other bit in place."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from analysis.errors import SparsityError, UsageError
from analysis.models import save
from analysis.models.anatomy import anatomy
from analysis.models.load import load_model
from analysis.models.save import assert_sparsity, save_model
from tests.helpers.families import FAMILIES, tiny


def pruned(family="llama", seed=0):
    """A model with half of every matrix set to zero, and its masks."""
    model = tiny(family)
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, matrix in anatomy(model).matrices():
        masks[name] = torch.rand(matrix.rows, matrix.columns, generator=generator) > 0.5
        matrix.assign(matrix.weight() * masks[name])
    return model, masks


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_loads_back_with_its_zeros(family, tmp_path):
    model, masks = pruned(family)
    save_model(model, None, tmp_path / "model", masks)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for name, matrix in anatomy(again).matrices():
        assert torch.equal(matrix.weight() != 0, masks[name])
    ids = torch.arange(3, 15)[None]
    assert torch.equal(again(ids).logits, model(ids).logits)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays(dtype, tmp_path):
    model, masks = pruned()
    save_model(model.to(dtype), None, tmp_path / "model", masks)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == dtype


def test_the_folder_gives_the_cache_back_to_its_users(tmp_path):
    model, masks = pruned()
    model.config.use_cache = False
    save_model(model, None, tmp_path / "model", masks)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["use_cache"] and not model.config.use_cache


def test_one_weight_outside_its_mask_is_an_error_before_anything_is_written(tmp_path):
    model, masks = pruned("gpt2")
    name, matrix = list(anatomy(model).matrices())[5]
    row, column = (~masks[name]).nonzero()[7]
    matrix.weight()[row, column] = 1e-30
    with pytest.raises(SparsityError, match=f"{name}: 1 of {(~masks[name]).sum()} pruned weights are not zero"):
        save_model(model, None, tmp_path / "model", masks)
    assert not list(tmp_path.iterdir())


def test_kept_weights_may_be_zero_by_themselves():
    model, masks = pruned()
    assert_sparsity(model, {name: torch.ones_like(mask) for name, mask in masks.items()})


def test_wrong_masks():
    model, masks = pruned()
    name = next(iter(masks))
    for words, wrong in {
        "no masks": {},
        "'lm_head' is no prunable matrix": {"lm_head": torch.ones(64, 32, dtype=torch.bool)},
        r"\(32, 16\), its weight is": {name: torch.ones(32, 16, dtype=torch.bool)},
        "torch.float32": {name: masks[name].float()},
    }.items():
        with pytest.raises(SparsityError, match=words):
            assert_sparsity(model, wrong)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "pruned weights are not zero"),
        ("model.norm.weight", "tensors differ .* model.norm.weight"),
    ],
)
def test_what_the_disk_gives_back_is_compared(tmp_path, monkeypatch, tensor, words):
    """A disk that changes one tensor is found out, and leaves no folder that looks finished."""
    model, masks = pruned()
    write = save._write

    def badly(model, tokenizer, folder, *more):
        write(model, tokenizer, folder, *more)
        state = load_file(folder / "model.safetensors")
        save_file(state | {tensor: state[tensor] + 1}, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(save, "_write", badly)
    with pytest.raises(SparsityError, match=words):
        save_model(model, None, tmp_path / "model", masks)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_earlier_model_is_replaced_whole(tmp_path):
    model, masks = pruned(seed=1)
    save_model(model, None, tmp_path / "model", masks)
    (tmp_path / "model" / "model-00002-of-00002.safetensors").write_bytes(b"left over")
    other, masks = pruned(seed=2)
    save_model(other, None, tmp_path / "model", masks)
    assert not (tmp_path / "model" / "model-00002-of-00002.safetensors").exists()
    assert_sparsity(load_model(str(tmp_path / "model"), device="cpu").model, masks)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_paths_that_hold_something_else_are_left_alone(tmp_path):
    model, masks = pruned()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    for name, words in {"file": "is a file", "folder": "not empty and holds no model"}.items():
        with pytest.raises(UsageError, match=words):
            save_model(model, None, tmp_path / name, masks)
    assert (tmp_path / "folder" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.real_assets
def test_stories260k_with_its_tokenizer_and_tied_embeddings(assets, tmp_path):
    loaded = load_model(str(assets / "stories260K"), device="cpu")
    masks = {}
    for name, matrix in anatomy(loaded.model).matrices():
        masks[name] = matrix.weight().abs() > matrix.weight().abs().median()
        matrix.assign(matrix.weight() * masks[name])
    again = load_model(str(save_model(loaded.model, loaded.tokenizer, tmp_path / "model", masks)), device="cpu")
    text = "Once upon a time"
    assert again.tokenizer(text).input_ids == loaded.tokenizer(text).input_ids

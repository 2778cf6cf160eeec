"""A streamed run gives the bits of a resident one with one visit's blocks in memory, and says what it cannot do."""

import tempfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from analysis.errors import SparsityError, UsageError
from analysis.measure.mask_overlap import mask_overlaps
from analysis.measure.perplexity import perplexity
from analysis.measure.quality import DenseModel
from analysis.models.load import load_model
from analysis.models.placement import skeleton
from analysis.pruning.checkpoint import Checkpoint
from analysis.pruning.loop import prune
from analysis.recipe.recipe import Recipe
from tests.helpers.families import VOCABULARY, tiny
from tests.helpers.small import small_llama, windows
from tests.helpers.streamed import counting, in_memory, same_tables, same_tensors, saved_tensors

pytestmark = pytest.mark.slow  # whole runs

IDS = torch.arange(3, 15).view(2, 6)
RECIPES = {
    "magnitude-50% LR": "llama",
    "wanda-50% BR+GP+CR[epochs=2]": "llama",
    "sparsegpt-2:4 LR": "gpt2",
    "wanda-50% BR[unit=sub-block,epochs=1]": "llama",
}
MORE = {
    "wanda-50%[shares=owl] BR+GP[epochs=1]": "llama",
    "wanda-50% BR+GP[epochs=1,select=held-out,train=masklora,rank=2]": "llama",
    "wanda-50% ridge": "opt",
    "wanda-50% BR+GP[unit=matrix,epochs=1]": "gemma3",
    "wanda-50% BR+GP[width=2,epochs=1]": "opt",
    "wanda+swaps-50% LR": "llama",
    "magnitude-50% BR+GP[unit=model,epochs=1]": "gpt2",
}


@pytest.fixture
def folder(tmp_path):
    small_llama().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _arguments(vocabulary=97, padded=True):
    held_out = {"other": windows(2, seed=9, label="other", vocabulary=vocabulary)}
    return windows(4, padded=padded, vocabulary=vocabulary), held_out


@pytest.mark.parametrize("recipe", [*RECIPES, *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in MORE)])
def test_every_kind_of_recipe_gives_the_bits_of_a_resident_run(recipe, tmp_path):
    tiny((RECIPES | MORE)[recipe]).save_pretrained(tmp_path / "model")
    arguments = (recipe, *_arguments(VOCABULARY))
    resident = prune(load_model(tmp_path / "model"), *arguments)
    streamed = prune(load_model(tmp_path / "model", placement="streamed"), *arguments)
    same_tables(resident, streamed)
    same_tensors(dict(resident.masks), dict(streamed.masks))
    assert "placement" not in resident.provenance and streamed.provenance["placement"] == "streamed"
    assert in_memory(streamed.model) == [] and torch.equal(resident.model(IDS).logits, streamed.model(IDS).logits)


def test_the_saved_folder_is_that_of_a_resident_run(folder, tmp_path):
    model = load_model(folder)
    saved = {}
    for placement in ("resident", "streamed"):
        pruned = prune(model, "wanda-50% BR+GP[epochs=1]", *_arguments(), placement=placement, measure=False)
        saved[placement] = pruned.save(tmp_path / placement, dtype="bfloat16")
    assert saved["resident"] == saved["streamed"]
    same_tensors(saved_tensors(tmp_path / "resident"), saved_tensors(tmp_path / "streamed"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "streamed")
    assert float((again.model.layers[2].mlp.up_proj.weight == 0).float().mean()) == 0.5


def test_what_is_written_otherwise_than_masked_is_found(folder, tmp_path):
    pruned = prune(load_model(folder, placement="streamed"), "magnitude-50% LR", windows(2), measure=False)
    part = skeleton(pruned.model).blocks[1]
    name = "model.layers.1.mlp.up_proj.weight"
    dense = skeleton(load_model(folder, placement="streamed").model).blocks[1]
    part.plain[name] = dense.plain[name]
    with pytest.raises(SparsityError, match="model.layers.1.mlp.up_proj: .* pruned weights are not zero"):
        pruned.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("first", ["resident", "streamed"])
def test_a_run_resumes_in_either_placement_with_the_same_bits(first, folder, tmp_path, monkeypatch):
    arguments = (load_model(folder), "wanda-50% BR+GP+CR[epochs=1]", *_arguments())
    true = prune(*arguments)
    write = Checkpoint.write

    def stop(checkpoint, index, *options):
        write(checkpoint, index, *options)
        if index == 2:
            raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Checkpoint, "write", stop)
        prune(*arguments, checkpoint=tmp_path / "visits", placement=first)
    other = {"resident": "streamed", "streamed": "resident"}[first]
    resumed = prune(*arguments, checkpoint=tmp_path / "visits", placement=other)
    same_tensors(dict(true.masks), dict(resumed.masks))
    assert torch.equal(true.model(IDS).logits, resumed.model(IDS).logits)
    for name in ("blocks", "perplexity", "steps"):
        assert true.tables[name].equals(resumed.tables[name])


def test_a_result_outlives_its_files_and_leaves_none_behind(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    pruned = prune(load_model(folder), "wanda-50% LR", windows(2), placement="streamed", measure=False)
    assert list(Path(tempfile.gettempdir()).iterdir()) == [] and len(pruned.masks) == 21
    assert (
        int((~pruned.masks["model.layers.0.mlp.up_proj"]).sum()) == 1024 and pruned.model(IDS).logits.isfinite().all()
    )


@pytest.mark.parametrize(
    "recipe, message",
    [
        (
            "wanda-50% retrain",
            "retraining changes the whole model at once, and a streamed one is never in memory whole",
        ),
        ("flap-neurons-50% LR", "removes whole structures, .* take placement=resident"),
        ("influence-blocks-1 ghost", "ghost adds maps between blocks, which files of blocks have no place for"),
    ],
)
def test_what_needs_the_whole_model_is_refused_before_the_work(recipe, message, folder, monkeypatch):
    model = load_model(folder)
    monkeypatch.setattr("analysis.pruning.loop.open_run", None)
    with pytest.raises(UsageError, match=message):
        prune(model, recipe, windows(2), placement="streamed")


def test_a_placement_that_is_none_or_a_model_without_files_is_refused(folder):
    with pytest.raises(UsageError, match="placement must be one of resident, streamed, got 'disk'"):
        prune(load_model(folder), "wanda-50% LR", windows(2), placement="disk")
    with pytest.raises(UsageError, match="placement='streamed' needs a model of load_model, whose files are known"):
        prune(small_llama(), "wanda-50% LR", windows(2), placement="streamed")


def test_a_model_with_a_memory_is_placed_too(folder):
    dense = DenseModel(load_model(folder))
    assert prune(dense, "magnitude-50% LR", *_arguments(), placement="streamed").provenance["placement"] == "streamed"


@pytest.mark.slow
def test_weights_in_memory_do_not_grow_with_depth_and_reads_grow_as_it_does(tmp_path, monkeypatch):
    most, reads = {}, {}
    for blocks in (3, 6, 9):
        small_llama(blocks=blocks).save_pretrained(tmp_path / str(blocks))
        with counting(monkeypatch) as count:
            model = load_model(tmp_path / str(blocks), placement="streamed")
            pruned = prune(model, "wanda-50% BR+GP[epochs=1]", *_arguments())
            pruned.save(tmp_path / f"{blocks}-pruned")
            most[blocks], reads[blocks] = count["most"], count["reads"]
    parts = skeleton(model.model)
    with parts.blocks[0].held():
        block = sum(value.nbytes for value in parts.blocks[0].state().values())
    outside = sum(value.nbytes for value in parts.outside.state().values())
    assert most[3] == most[6] == most[9] <= 2 * block + 2 * outside
    assert reads[9] - reads[6] == reads[6] - reads[3]


@pytest.mark.parametrize("padded", [False, True])
def test_perplexity_reads_every_block_a_fixed_number_of_times(padded, folder, monkeypatch):
    resident, streamed = load_model(folder), load_model(folder, placement="streamed")
    texts = [windows(count, seed=3, padded=padded) for count in (9, 30)]
    reads = []
    for text in texts:
        with counting(monkeypatch) as count:
            found = perplexity(streamed, text)
            reads.append(count["reads"])
        true = perplexity(resident, text)
        assert found.nats_per_token == pytest.approx(true.nats_per_token, rel=1e-6) and found.tokens == true.tokens
    assert reads[0] == reads[1]


@pytest.mark.slow
def test_masks_of_a_streamed_model_are_compared(folder):
    recipes = {word: Recipe.parse(f"{word}-50% LR") for word in ("magnitude", "wanda")}
    tables = [
        mask_overlaps(load_model(folder, placement=where).model, windows(4), recipes)
        for where in ("resident", "streamed")
    ]
    assert tables[0].equals(tables[1])

"""Checkpoints: what is read back is what was written, and nothing torn, altered or foreign is."""

import os
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from analysis import storage
from analysis.errors import SparsityError, StoreError
from analysis.pruning.checkpoint import Checkpoint, computing_with, kept_threads, tensors_digest
from analysis.pruning.loop import prune
from analysis.recipe.recipe import Recipe
from tests.helpers.families import tiny
from tests.helpers.small import small_llama, windows


def _write(folder, identity="a", count=3):
    keeper = Checkpoint(folder, identity)
    for index in range(count):
        keeper.write(
            index,
            {"w": torch.full((2, 3), float(index)), "mask:w": torch.eye(3, dtype=torch.bool)},
            {"blocks": [{"block": index, "error": 0.1}]},
        )
    return keeper


def test_round_trip(tmp_path):
    done = _write(tmp_path / "checkpoint").finished()
    assert [float(visit.tensors["w"][0, 0]) for visit in done] == [0, 1, 2]
    assert done[2].rows == {"blocks": [{"block": 2, "error": 0.1}]}
    assert torch.equal(done[0].tensors["mask:w"], torch.eye(3, dtype=torch.bool))


def _rewrite(file, **changes):
    """The same tensors, with some of the metadata changed; None: left out."""
    with safe_open(file, framework="pt") as opened:
        tensors, meta = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()
    meta = {key: value for key, value in (meta | changes).items() if value is not None}
    save_file(tensors, file, metadata=meta or None)


def _torn(file):
    file.write_bytes(file.read_bytes()[:-5])


def _bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _folder(file):
    file.unlink()
    (file / "within").mkdir(parents=True)


def _fifo(file):
    file.unlink()
    os.mkfifo(file)


DAMAGES = {
    "torn": _torn,
    "one bit": _bit,
    "rows edited": lambda file: _rewrite(file, rows='{"blocks": [{"block": 1, "error": 123.0}]}'),
    "rows emptied": lambda file: _rewrite(file, rows="{}"),
    "no rows": lambda file: _rewrite(file, rows=None),
    "nested rows": lambda file: _rewrite(file, rows="[" * 100000),
    "other threads": lambda file: _rewrite(file, threads="3"),
    "no metadata": lambda file: _rewrite(file, identity=None, rows=None, threads=None, sha256=None),
    "another visit": lambda file: shutil.copy(file.with_name("visit-0002.safetensors"), file),
    "a folder": _folder,
    "a fifo": _fifo,
    "a link to nothing": lambda file: (file.unlink(), file.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_costs_that_visit_and_the_later_ones_and_is_said(tmp_path, damage, caplog):
    keeper = _write(tmp_path)
    DAMAGES[damage](tmp_path / "visit-0001.safetensors")
    assert len(keeper.finished()) == 1
    assert sorted(f.name for f in tmp_path.iterdir()) == ["visit-0000.safetensors"]
    assert "from visit 1 on" in caplog.text and "done again" in caplog.text


def test_a_missing_visit_costs_the_later_ones(tmp_path):
    keeper = _write(tmp_path)
    (tmp_path / "visit-0001.safetensors").unlink()
    assert len(keeper.finished()) == 1 and [f.name for f in tmp_path.iterdir()] == ["visit-0000.safetensors"]


def test_an_interrupted_write_is_cleared_away_without_a_word(tmp_path, caplog):
    keeper = _write(tmp_path)
    (tmp_path / ".visit-0003.77.partial.safetensors").write_text("torn")
    assert len(keeper.finished()) == 3 and len(list(tmp_path.iterdir())) == 3 and not caplog.text


class Interrupted(Exception):
    pass


def _interrupted(monkeypatch, folder):
    """A run that ended after its first visit; what would go on with it."""
    arguments = small_llama(blocks=2), Recipe.parse("wanda-50% LR"), windows(2)
    write = Checkpoint.write

    def stop(*options):
        write(*options)
        raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Checkpoint, "write", stop)
        prune(*arguments, checkpoint=folder, measure=False)
    return lambda: prune(*arguments, checkpoint=folder, measure=False)


@pytest.mark.parametrize(
    ("family", "recipe"),
    [("mixtral", "reap-experts-50% LIAR"), ("llama", "perplexity-blocks-1 LR"), ("llama", "fisher-neurons-50% LIAR")],
)
def test_what_was_recorded_before_the_first_visit_is_kept_with_it(tmp_path, family, recipe):
    """Rows of masks that are chosen for all blocks at once, before any visit."""
    arguments = tiny(family), Recipe.parse(recipe), windows(4, vocabulary=64)
    whole = prune(*arguments, checkpoint=tmp_path, measure=False)
    for file in sorted(tmp_path.glob("visit-*"))[1:]:
        file.unlink()
    resumed = prune(*arguments, checkpoint=tmp_path, measure=False)
    assert resumed.tables["experts"].equals(whole.tables["experts"])
    for made in (whole, resumed):
        cost = made.tables["cost"]
        assert len(cost[(cost.unit == -1) & (cost.stage == "mask")]) == 1


def test_a_run_goes_on_with_the_threads_it_began_with(tmp_path, monkeypatch):
    with computing_with(3):
        resume = _interrupted(monkeypatch, tmp_path)
    assert kept_threads(tmp_path) == 3 and kept_threads(tmp_path / "none") is None and kept_threads(None) is None
    with computing_with(2):
        assert resume().provenance["threads"] == 3 and torch.get_num_threads() == 2
    for threads in ("", "x", "0", "-1", "9" * 5000):
        _rewrite(tmp_path / "visit-0000.safetensors", threads=threads)
        assert kept_threads(tmp_path) is None


def test_visits_of_a_model_of_the_same_weights_and_another_config_are_done_again(tmp_path):
    """Of a model without files the parameters say nothing of how they are used."""
    recipe, text = Recipe.parse("wanda-50% LR"), windows(2)
    made = [small_llama(blocks=2), small_llama(blocks=2)]
    made[1].model.rotary_emb.inv_freq *= 0.5
    made[1].config.rope_parameters["rope_theta"] = 5.0
    keepers = []
    for model in (*made, made[1]):
        prune(model, recipe, text, checkpoint=tmp_path, measure=False)
        with safe_open(tmp_path / "visit-0000.safetensors", framework="pt") as opened:
            keepers.append(opened.metadata()["identity"])
    assert keepers[0] != keepers[1] == keepers[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_visits_of_another_version_of_a_library_are_done_again(tmp_path, monkeypatch, caplog, name):
    resume = _interrupted(monkeypatch, tmp_path)
    monkeypatch.setattr(storage, "libraries", lambda: {"torch": "2.13", "transformers": "5.23", name: "1.0"})
    resume()
    assert "from visit 0 on" in caplog.text


def test_a_matrix_without_a_mask_is_never_a_result(tmp_path, monkeypatch):
    visit = "analysis.pruning.loop._visit"
    monkeypatch.setattr(visit, lambda state, visit: None)
    with pytest.raises(SparsityError, match="14 of 14 matrices were left without a mask"):
        prune(small_llama(blocks=2), Recipe.parse("wanda-50% LR"), windows(2), measure=False)


@pytest.mark.parametrize("make", [lambda path: path.write_text(""), os.mkfifo])
def test_a_file_in_the_place_of_the_folder_is_refused_before_the_work(tmp_path, make):
    make(tmp_path / "there")
    with pytest.raises(StoreError, match="is no folder"):
        prune(None, None, None, checkpoint=tmp_path / "there")


def test_another_walk_is_not_served(tmp_path):
    _write(tmp_path)
    assert Checkpoint(tmp_path, "b").finished() == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        _write(tmp_path / "file")


def test_digest_sees_names_shapes_and_bytes():
    base = {"a": torch.zeros(4)}
    others = [
        {"b": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.tensor([0.0, 0, 0, 1])},
        {"a": torch.zeros(4, dtype=torch.int32)},
    ]
    assert len({tensors_digest(t) for t in [base, *others]}) == 5
    assert tensors_digest({"a": torch.zeros(4, dtype=torch.bfloat16)}) == tensors_digest(
        {"a": torch.zeros(4, dtype=torch.bfloat16)}
    )

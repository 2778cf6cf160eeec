"""The folder of a training: never anybody else's, resumed only as the same training, whole or not there."""

import json
import shutil
from dataclasses import dataclass, replace

import pytest
from safetensors import SafetensorError

from analysis import storage
from analysis.errors import StoreError, UsageError
from analysis.training import folder as folders
from analysis.training.loop import Training, run
from analysis.training.settings import Windowed
from tests.helpers.alphabet import byte_tokenizer

torch = pytest.importorskip("torch")


@dataclass(frozen=True)
class Line(Windowed):
    """A training of three numbers."""

    tokens: int = 12
    window: int = 1
    batch: int = 1
    context: int = 1
    vocabulary: int = 1
    blocks: int = 1
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    warmup: int = 0
    decay: float = 0.5
    seed: int = 0
    threads: int = 1

    parameters = 3


class Model(torch.nn.Linear):
    """Saves as a model of transformers does."""

    def save_pretrained(self, folder):
        storage.write(folder / "config.json", "{}")
        storage.write(folder / "model.safetensors", self.weight.detach().numpy().tobytes())


def train(out, config=Line(), text="a", tokenizer=None, model=Model, **more):
    def make():
        torch.manual_seed(config.seed)
        return Training(
            config,
            model(3, 1),
            tokenizer or byte_tokenizer(),
            [torch.full((1, 3), 1.0 + step) for step in range(config.steps)],
            lambda model, batch: (model(batch) - 1).square().mean(),
            lambda model: {"loss": 0.5},
            "a command",
        )

    return run(make, config, out, reads={"text": text}, device="cpu", **more)


def stopped(step):
    return step == 4


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_a_finished_training_is_shown_and_nothing_is_left_over(tmp_path):
    out = train(tmp_path / "out")
    before = contents(out)
    assert {"config.json", "model.safetensors", "training.json"} <= set(before)
    assert not any(name.startswith(".") or "checkpoint" in name for name in before)
    train(out, model=None)  # a second one builds nothing
    assert contents(out) == before


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"config": Line(seed=1)}, "seed there 0, asked 1.*name another folder"),
        ({"text": "b"}, "text there 'a', asked 'b'"),
        ({"text": "b" * 64}, r"another text\)"),
    ],
)
@pytest.mark.parametrize("interrupted", [True, False])
def test_another_training_is_refused_and_nothing_changes(tmp_path, more, says, interrupted):
    out = train(tmp_path / "out", stop=stopped if interrupted else None)
    before = contents(out)
    with pytest.raises(StoreError, match=says):
        train(out, **more)
    assert contents(out) == before


def test_another_tokenizer_does_not_continue_a_checkpoint(tmp_path, monkeypatch):
    out = train(tmp_path / "out", stop=stopped)
    other = byte_tokenizer()
    other.add_tokens(["and"])
    with pytest.raises(StoreError, match="another tokenizer"):
        train(out, tokenizer=other)


def test_another_length_is_refused_once_it_is_finished(tmp_path):
    out = train(tmp_path / "out", stop=stopped)
    train(out, replace(Line(), tokens=16))
    with pytest.raises(StoreError, match="tokens there 16, asked 12"):
        train(out)


@pytest.mark.parametrize("held", [["notes.txt"], ["config.json", "model.safetensors"], [".git"]])
def test_a_folder_with_other_files_is_left_as_it_is(tmp_path, held):
    for name in held:
        (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(StoreError, match=f"holds other files \\({held[0]}.*name a new or empty folder"):
        train(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_finished_folder_with_an_altered_file_is_not_served(tmp_path, name, gone):
    out = train(tmp_path / "out")
    (out / name).unlink() if gone else (out / name).write_bytes(b"other")
    with pytest.raises(StoreError, match=f"{name} is {'missing' if gone else 'altered'}"):
        train(out)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"asked": 3}', "[" * 200_000])
@pytest.mark.parametrize("file", ["training.json", "checkpoint.safetensors"])
def test_torn_cards_and_checkpoints_are_named(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    with pytest.raises(StoreError, match="cannot be read|does not say from what"):
        train(tmp_path)


@pytest.mark.parametrize("error", [SafetensorError("I/O error: No space (os error 28)"), OSError(28, "No space")])
def test_a_full_disk_at_the_end_leaves_the_checkpoint_and_no_piece_of_a_model(tmp_path, error):
    class Full(Model):
        def save_pretrained(self, folder):
            storage.write(folder / "config.json", "{}")
            raise error

    out = tmp_path / "out"
    with pytest.raises(StoreError, match=f"{out}: no space left"):
        train(out, model=Full, save_every=3)
    assert set(contents(out)) == {"checkpoint.safetensors"}
    assert contents(train(out))["model.safetensors"] == contents(train(tmp_path / "whole"))["model.safetensors"]


def test_a_killed_finish_is_taken_up_again(tmp_path, monkeypatch):
    """Killed while files are moved into place: the card is not there, the checkpoint is."""
    whole, replaced = train(tmp_path / "whole"), []

    def killed(source, target):
        if str(target).endswith("config.json") and len(replaced) > 3:
            raise KeyboardInterrupt
        replaced.append(shutil.move(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "out", save_every=3)
    (tmp_path / "out" / ".placing-left").mkdir()
    train(tmp_path / "out")
    same = [name for name in contents(whole) if name != "training.json"]
    assert contents(tmp_path / "out").keys() == contents(whole).keys()
    assert all(contents(tmp_path / "out")[name] == contents(whole)[name] for name in same)


def test_one_training_writes_a_folder_at_a_time(tmp_path):
    with folders.claimed(tmp_path / "out", {}) as found:
        assert found == "free"
        with pytest.raises(StoreError, match="another training is writing"):
            train(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_paths_that_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert train("~/out") == tmp_path / "out" and (tmp_path / "out" / "training.json").exists()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("")
    for wrong in (None, 3, "", "a\0b", "~no-such-user/x", tmp_path / "file"):
        with pytest.raises(UsageError):
            train(wrong)
    for wrong in ("x" * 5000, "/proc/x", tmp_path / "file" / "x", tmp_path / "loop" / "x"):
        with pytest.raises(StoreError):
            train(wrong)


def test_the_card_names_the_files_it_was_placed_with(tmp_path):
    out = train(tmp_path / "out")
    card = json.loads((out / "training.json").read_text())
    assert card["files"] == {
        file.name: storage.file_sha256(file) for file in sorted(out.iterdir()) if file.name != "training.json"
    }
    assert card["asked"]["text"] == "a"

"""Checkpoints: what is read back is what was written, and nothing torn, altered or foreign is."""

import pytest
import torch

from analysis.errors import StoreError
from analysis.pruning.checkpoint import Checkpoint, tensors_digest


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


@pytest.mark.parametrize("damage", ["torn", "altered", "missing"])
def test_damage_costs_that_visit_and_the_later_ones(tmp_path, damage):
    keeper = _write(tmp_path)
    file = tmp_path / "visit-0001.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "torn":
        file.write_bytes(content[:-5])
    elif damage == "altered":
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    assert len(keeper.finished()) == 1
    assert sorted(f.name for f in tmp_path.iterdir()) == ["visit-0000.safetensors"]


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

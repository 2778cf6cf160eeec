"""Streams against the model's own hidden states; storage on disk; chunking."""

import pytest
import torch

from analysis.models.anatomy import anatomy
from analysis.streams import streams as module
from analysis.streams.streams import advance, allocate, chunks, open_streams
from tests.helpers.small import block_outputs, small_llama, windows


@pytest.mark.parametrize("padded", [False, True])
def test_streams_equal_the_modelsblock_outputs(padded, monkeypatch):
    monkeypatch.setitem(module.TOKENS_PER_FORWARD, "cpu", 48)  # three windows a forward: seven windows do not divide
    dense, other = small_llama(0), small_llama(1)
    other.model.embed_tokens.weight.data.copy_(dense.model.embed_tokens.weight)
    w = windows(7, padded=padded)
    streams = open_streams(dense, anatomy(dense), "calibration", w)
    assert torch.equal(streams.dense, streams.sparse) and streams.dense.data_ptr() != streams.sparse.data_ptr()
    for index, (true_dense, true_other) in enumerate(
        zip(block_outputs(dense, w), block_outputs(other, w), strict=True)
    ):
        advance([anatomy(dense).blocks[index].module], index, streams.recording, streams.dense, out=streams.dense)
        advance([anatomy(other).blocks[index].module], index, streams.recording, streams.sparse, out=streams.sparse)
        torch.testing.assert_close(streams.dense[w.mask], true_dense[w.mask], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(streams.sparse[w.mask], true_other[w.mask], rtol=1e-5, atol=1e-5)


def test_a_unit_of_two_blocks_is_both_in_turn():
    model = small_llama()
    parts = anatomy(model)
    streams = open_streams(model, parts, "calibration", windows(3))
    both = advance([b.module for b in parts.blocks[:2]], 0, streams.recording, streams.dense)
    one = advance([parts.blocks[0].module], 0, streams.recording, streams.dense)
    assert torch.equal(both, advance([parts.blocks[1].module], 1, streams.recording, one))
    assert torch.equal(streams.dense, streams.sparse), "inputs are left alone unless `out` says otherwise"


def test_where_there_is_no_room_streams_live_in_a_file(monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda device: 0)
    on_disk = allocate((4, 5, 6), torch.float32, torch.device("cpu"))
    values = torch.randn(4, 5, 6)
    on_disk.copy_(values)
    assert torch.equal(on_disk[torch.tensor([3, 1])], values[[3, 1]])
    model, w = small_llama(), windows(3)
    streams = open_streams(model, anatomy(model), "calibration", w)
    advance([anatomy(model).blocks[0].module], 0, streams.recording, streams.dense, out=streams.dense)
    torch.testing.assert_close(streams.dense, block_outputs(model, w)[0], rtol=1e-5, atol=1e-5)


def test_chunks_cover_every_window_once():
    device = torch.device("cpu")
    covered = [i for part in chunks(37, 300, device) for i in range(37)[part]]
    assert covered == list(range(37))
    assert all(part.stop - part.start == 1 for part in chunks(2, 10**6, device))

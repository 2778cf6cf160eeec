"""Streams against the model's own hidden states; storage on disk; chunking."""

import errno
import os
import tempfile

import pytest
import torch

from analysis.errors import StoreError
from analysis.measure.block_error import advance_and_measure
from analysis.models.anatomy import anatomy
from analysis.streams import streams as module
from analysis.streams.streams import (
    advance,
    advance_streams,
    allocate,
    chunks,
    input_statistics,
    open_streams,
    row_batches,
    streams_past,
)
from analysis.windows import Windows
from tests.helpers.small import block_outputs, small_llama, windows


@pytest.mark.slow
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


def uneven(lengths=(5, 24, 9, 24, 3, 8, 12)) -> Windows:
    ids = torch.randint(1, 90, (len(lengths), 24), generator=torch.Generator().manual_seed(0))
    return Windows(ids, torch.arange(24) < torch.tensor(lengths)[:, None], "uneven", {})


def test_windows_of_a_like_length_stand_together_where_padding_is_left_out(monkeypatch):
    monkeypatch.setitem(module.TOKENS_PER_FORWARD, "cpu", 48)
    model, device = small_llama(), torch.device("cpu")
    recording = open_streams(model, anatomy(model), "calibration", uneven()).recording
    together = [rows.tolist() for rows in row_batches(recording, 7, device)]
    assert together == [[1, 3], [6, 2, 5, 0], [4]], "two of 24 tokens, four of up to 12, and the rest"
    assert [rows.tolist() for rows in row_batches(recording, 2, device)] == [[1, 0]], "of the first two alone"
    whole = open_streams(model, anatomy(model), "calibration", windows(7)).recording
    assert row_batches(whole, 7, device) == [*chunks(7, whole.mask.shape[1], device)]


def test_what_is_left_out_changes_no_real_token(monkeypatch):
    """Streams, statistics and errors with padding left out against the same with padding run."""
    monkeypatch.setitem(module.TOKENS_PER_FORWARD, "cpu", 48)
    dense, pruned, w = small_llama(0), small_llama(1), uneven()
    block = anatomy(pruned).blocks[0]
    found = []
    for left_out in (True, False):
        streams = open_streams(dense, anatomy(dense), "calibration", w)
        assert streams.recording.lengths is not None
        if not left_out:
            streams.recording.lengths = None
        statistics = input_statistics(block, block.matrices, streams, streams.sparse, "gram", torch.float64)
        rows = advance_and_measure(anatomy(dense).blocks[0].module, block.module, 0, streams)
        found.append((statistics, rows, streams))
    (short, measured, less), (full, expected, more) = found
    for matrix in block.matrices:
        assert short[matrix.name].tokens == full[matrix.name].tokens == int(w.mask.sum())
        torch.testing.assert_close(short[matrix.name].gram, full[matrix.name].gram, rtol=1e-5, atol=1e-5)
    assert [row["error"] for row in measured] == pytest.approx([row["error"] for row in expected], rel=1e-4)
    for name in ("dense", "sparse"):
        torch.testing.assert_close(less.of(name)[w.mask], more.of(name)[w.mask], rtol=1e-4, atol=1e-5)
        assert bool(less.of(name).isfinite().all()), "zeros stand where nothing was computed"


def test_a_unit_of_two_blocks_is_both_in_turn():
    model = small_llama()
    parts = anatomy(model)
    streams = open_streams(model, parts, "calibration", windows(3))
    both = advance([b.module for b in parts.blocks[:2]], 0, streams.recording, streams.dense)
    one = advance([parts.blocks[0].module], 0, streams.recording, streams.dense)
    assert torch.equal(both, advance([parts.blocks[1].module], 1, streams.recording, one))
    assert torch.equal(streams.dense, streams.sparse), "inputs are left alone unless `out` says otherwise"


def test_both_streams_pass_a_block_and_one_that_is_both_passes_it_once():
    dense, pruned, w = small_llama(0), small_llama(1), windows(3)
    modules = [anatomy(model).blocks[0].module for model in (dense, pruned)]
    streams = open_streams(dense, anatomy(dense), "calibration", w)
    expected = [advance([module], 0, streams.recording, streams.dense) for module in modules]
    advance_streams(streams, *modules, 0)
    assert torch.equal(streams.dense, expected[0]) and torch.equal(streams.sparse, expected[1])
    together = open_streams(dense, anatomy(dense), "calibration", w, apart=False)
    advance_streams(together, *modules, 0)
    assert together.dense is together.sparse and torch.equal(together.sparse, expected[1])


def test_streams_past_a_block_leave_those_before_it_where_they_are():
    model, w = small_llama(), windows(3)
    parts = anatomy(model)
    streams = open_streams(model, parts, "calibration", w)
    start = streams.dense.clone()
    first = advance([parts.blocks[0].module], 0, streams.recording, start)
    for count in (2, 3):
        modules = {"sparse": parts.blocks[0].module}
        past = streams_past(streams.first(count), modules, 0, fresh=True)
        assert past.dense is past.sparse and torch.equal(past.sparse, first[:count])
        assert torch.equal(streams.dense, start) and torch.equal(streams.sparse, start)
    further = streams_past(past, dict.fromkeys(("dense", "sparse"), parts.blocks[1].module), 1, fresh=False)
    assert further.dense.data_ptr() == past.dense.data_ptr(), "written over"


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


def test_a_stream_in_a_file_leaves_no_name_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "free_bytes", lambda device: 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    on_disk = allocate((4, 5), torch.float32, torch.device("cpu"))
    assert list(tmp_path.iterdir()) == [], "a killed process leaves nothing"
    assert torch.equal(on_disk.fill_(2.0), torch.full((4, 5), 2.0))
    assert allocate((0, 5), torch.float32, torch.device("cpu")).shape == (0, 5)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room on the disk cannot be taken there")
def test_a_full_disk_is_one_clear_error_before_anything_is_written(monkeypatch, tmp_path):
    def full(file, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "free_bytes", lambda device: 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match="no space left; hidden states need 8 MiB there.*TMPDIR"):
        allocate((2**21,), torch.float32, torch.device("cpu"))
    assert list(tmp_path.iterdir()) == []


def test_the_limit_of_a_container_is_seen(monkeypatch):
    monkeypatch.setattr("analysis.memory.available", lambda: 12345)
    assert module.free_bytes(torch.device("cpu")) == 12345


def test_chunks_cover_every_window_once():
    device = torch.device("cpu")
    covered = [i for part in chunks(37, 300, device) for i in range(37)[part]]
    assert covered == list(range(37))
    assert all(part.stop - part.start == 1 for part in chunks(2, 10**6, device))

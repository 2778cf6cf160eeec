import pytest
import torch
from torch.nn.functional import silu

from analysis.errors import DataError
from analysis.models import replay
from analysis.models.anatomy import anatomy
from analysis.models.experts import Routed, find_experts
from analysis.models.hooks import hooked
from analysis.streams.moments import Accumulator
from analysis.streams.streams import input_statistics, open_streams
from analysis.windows import Windows
from tests.helpers.families import tiny, tokens


def run(family="mixtral", count=6, block=1, **options):
    """Statistics of a block's matrices on windows half of which are padded, and what its experts were called with on
    the real tokens."""
    model = tiny(family)
    ids, mask = tokens(count, padding="both")
    parts = anatomy(model)
    streams = open_streams(model, parts, "calibration", Windows(ids, mask, "made up", {}), apart=False)
    seen = []
    (experts,) = find_experts(parts.blocks[block].module).values()
    with hooked([(experts, lambda module, *given: seen.append(Routed.of(module, *given)))]), torch.no_grad():
        model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    (call,), real = seen, mask.flatten()
    call = Routed(call.module, call.hidden[real], call.experts[real], call.weights[real])
    hidden = streams.dense
    for index in range(block):
        with torch.no_grad():
            hidden = replay.run(parts.blocks[index].module, hidden, streams.recording.call(index, slice(None)))
    block = parts.blocks[block]
    own = options.pop("matrices", block.matrices)
    return input_statistics(block, own, streams, hidden, "gram", torch.float64, **options), call, block


def rows_of(call, matrix, rows):
    """What an expert's matrix reads, by definition, float64; Mixtral's layout."""
    x = call.hidden[rows].double()
    if matrix.key == "down_proj":
        gate, up = (x @ call.module.gate_up_proj[matrix.expert].T.double()).chunk(2, -1)
        x = silu(gate) * up
    return x


def test_experts_count_the_real_tokens_that_go_to_them():
    statistics, call, block = run(starved="magnitude")
    total = 0
    for matrix in block.matrices:
        found = statistics[matrix.name]
        if matrix.expert is None:
            assert found.routed is None and found.tokens == len(call.hidden)
            continue
        rows = (call.experts == matrix.expert).any(1)
        assert found.routed == int(rows.sum())
        total += found.routed * (matrix.key == "down_proj")
        if found.routed < matrix.columns:
            assert found.gram is None and not found.diagonal.any() and not found.tokens
            continue
        x = rows_of(call, matrix, rows)
        torch.testing.assert_close(found.gram, x.T @ x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.mean, x.mean(0), rtol=1e-4, atol=1e-6)
        assert found.tokens == found.routed
    assert total == 2 * len(call.hidden)


@pytest.mark.parametrize("rule", ["shrink", "all-tokens"])
def test_starved_experts_are_fed(rule):
    statistics, call, block = run(count=2, starved=rule)
    starved = [m for m in block.matrices if m.expert is not None and statistics[m.name].routed < m.columns]
    assert len(starved) >= 4
    for matrix in starved:
        found, rows = statistics[matrix.name], (call.experts == matrix.expert).any(1)
        own, every = rows_of(call, matrix, rows), rows_of(call, matrix, slice(None))
        missing = matrix.columns - len(own)
        if rule == "all-tokens":
            gram, tokens_ = every.T @ every, len(every)
        else:
            gram, tokens_ = own.T @ own + every.T @ every * missing / len(every), matrix.columns
        torch.testing.assert_close(found.gram, gram, rtol=1e-4, atol=1e-5)
        assert found.tokens == tokens_ and found.routed == len(own)


def test_refused_with_every_count():
    with pytest.raises(DataError, match=r"layers\.1: \d matrices of experts see fewer .*down_proj \d+ of 48.*starved="):
        run(count=2, starved="refuse")


def test_gated_inputs_count_times_the_weight_of_the_output():
    statistics, call, block = run(gated=True)
    for matrix in block.matrices:
        if matrix.expert is None:
            continue
        rows, found = (call.experts == matrix.expert).any(1), statistics[matrix.name]
        gate = torch.where(call.experts == matrix.expert, call.weights, 0).sum(1).double()
        x = rows_of(call, matrix, rows) * gate[rows, None]
        every = rows_of(call, matrix, slice(None)) * torch.where(rows, gate, 0.5)[:, None]
        missing = max(0, matrix.columns - len(x)) / len(every)
        torch.testing.assert_close(found.gram, x.T @ x + every.T @ every * missing, rtol=1e-4, atol=1e-5)


def test_an_accumulator_is_topped_up_with_average_tokens():
    x, other = torch.randn(3, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    sums, every = (Accumulator(("xx", "x"), 4, precision=torch.float64) for _ in range(2))
    sums.add(x), every.add(other)
    sums.top_up(every, 5)
    torch.testing.assert_close(sums.total("xx", ""), x.T @ x + other.T @ other * 5 / 7)
    torch.testing.assert_close(sums.mean("x", ""), (x.sum(0) + other.mean(0) * 5) / 8)
    with pytest.raises(DataError, match="no real token"):
        sums.top_up(Accumulator(("xx", "x"), 4, precision=torch.float64), 1)

"""Block errors against whole-model forwards and a direct computation in float64."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.errors import NumericalError
from analysis.measure.block_error import QUANTILES, _quantiles, advance_and_measure, error_quantiles, square_sum
from analysis.models.anatomy import anatomy
from analysis.models.replay import run
from analysis.streams.streams import open_streams
from tests.helpers.small import block_outputs, small_llama, windows


def _with_random_zeros(model, seed=0):
    pruned = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for block in anatomy(pruned).blocks:
        for matrix in block.matrices:
            matrix.assign(matrix.weight() * (torch.rand(matrix.weight().shape, generator=generator) > 0.3))
    return pruned


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
def test_every_kind_equals_its_definition(padded):
    dense = small_llama()
    pruned = _with_random_zeros(dense)
    w = windows(5, padded=padded)
    streams = open_streams(dense, anatomy(dense), "calibration", w)
    true_dense, true_pruned = block_outputs(dense, w), block_outputs(pruned, w)
    for index, (d_block, p_block) in enumerate(zip(anatomy(dense).blocks, anatomy(pruned).blocks, strict=True)):
        before = true_pruned[index - 1] if index else streams.sparse.clone()
        with torch.no_grad():
            dense_on_sparse = run(d_block.module, before, streams.recording.call(index, slice(None)))
        rows = {row["kind"]: row for row in advance_and_measure(d_block.module, p_block.module, index, streams)}
        real = [x[w.mask].double() for x in (true_dense[index], true_pruned[index], dense_on_sparse)]
        g_d, h_s, g_s = real
        expected = {
            "total": (g_d - h_s).square().mean(),
            "inherited": (g_d - g_s).square().mean(),
            "local": (g_s - h_s).square().mean(),
            "cross": 2 * ((g_d - g_s) * (g_s - h_s)).mean(),
        }
        for kind, value in expected.items():
            assert rows[kind]["error"] == pytest.approx(float(value), rel=1e-4, abs=1e-7), kind
            assert rows[kind]["relative_error"] == pytest.approx(
                float(value / g_d.square().mean()), rel=1e-4, abs=1e-7
            ), kind
            assert rows[kind]["block"] == index and rows[kind]["split"] == "calibration"


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
def test_readings_that_no_single_token_decides_equal_their_definitions(padded):
    dense, w = small_llama(), windows(5, padded=padded)
    pruned = _with_random_zeros(dense)
    streams = open_streams(dense, anatomy(dense), "calibration", w)
    rows = {
        row["kind"]: row
        for row in advance_and_measure(anatomy(dense).blocks[0].module, anatomy(pruned).blocks[0].module, 0, streams)
    }
    g_d, h_s = (block_outputs(model, w)[0].double() for model in (dense, pruned))
    rest = w.mask.clone()
    rest[:, 0] = False
    expected = (g_d - h_s)[rest].square().mean() / g_d[rest].square().mean()
    assert rows["total"]["relative_error_rest"] == pytest.approx(float(expected), rel=1e-4)
    own = ((g_d - h_s).square().sum(-1) / g_d.square().sum(-1))[w.mask]
    assert rows["total"]["relative_error_median"] == pytest.approx(float(own.median()), rel=1e-4)
    assert rows["local"]["relative_error_median"] == rows["total"]["relative_error_median"], "block 0 inherits nothing"
    assert rows["inherited"]["relative_error_median"] == 0 and np.isnan(rows["cross"]["relative_error_median"])
    energy = g_d.square().sum(-1)
    assert rows["total"]["energy_first"] == pytest.approx(float(energy[:, 0].sum() / energy[w.mask].sum()), rel=1e-4)
    assert rows["total"]["energy_top"] == pytest.approx(float(energy[w.mask].max() / energy[w.mask].sum()), rel=1e-4)


def test_one_loud_token_decides_the_papers_error_and_not_the_other_readings():
    dense, w = small_llama(blocks=1), windows(4)
    streams = open_streams(dense, anatomy(dense), "calibration", w)
    block = anatomy(dense).blocks[0].module
    streams.dense[:, 0] *= 1e3
    streams.sparse.copy_(streams.dense)
    streams.sparse[:, 1:] *= 4  # what is wrong is the other tokens
    total = advance_and_measure(block, block, 0, streams)[0]
    assert total["energy_first"] > 0.99 and total["energy_top"] < 0.6, "four loud tokens, one of them the hundredth"
    assert total["relative_error"] < 1e-3 < 0.1 < min(total["relative_error_rest"], total["relative_error_median"])


def test_first_block_inherits_nothing_and_an_untouched_model_has_no_error():
    dense = small_llama()
    streams = open_streams(dense, anatomy(dense), "calibration", windows(2))
    pruned = anatomy(_with_random_zeros(dense)).blocks[0].module
    rows = {
        row["kind"]: row["error"] for row in advance_and_measure(anatomy(dense).blocks[0].module, pruned, 0, streams)
    }
    assert rows["inherited"] == 0 and rows["total"] == rows["local"] > 0
    streams = open_streams(dense, anatomy(dense), "calibration", windows(2))
    same = anatomy(dense).blocks[0].module
    assert all(row["error"] == 0 for row in advance_and_measure(same, same, 0, streams))


def test_an_overflow_names_block_and_split():
    dense = small_llama()
    broken = copy.deepcopy(dense)
    anatomy(broken).blocks[0].matrices[0].module.weight.data.fill_(float("inf"))
    streams = open_streams(dense, anatomy(dense), "stories", windows(2))
    with pytest.raises(NumericalError, match="block 0 on stories"):
        advance_and_measure(anatomy(dense).blocks[0].module, anatomy(broken).blocks[0].module, 0, streams)


def test_square_sum_ignores_padding_and_does_not_lose_small_terms():
    x = torch.full((1, 3, 4), 1e-4)
    x[0, 0] = 1e4
    assert square_sum(x, torch.tensor([[False, True, True]])) == pytest.approx(8e-8, rel=1e-6)
    assert square_sum(x, torch.tensor([[True, True, True]])) > 4e8


def test_quantiles_are_those_of_torch_to_the_bit_and_of_more_values():
    values = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor(QUANTILES, dtype=torch.float64)
    for count in (1, 2, 101, 1000):
        assert torch.equal(_quantiles(values[:count], levels), values[:count].quantile(levels))
    many = torch.arange(2**24 + 1).double()
    assert _quantiles(many, torch.tensor([0.0, 0.5, 1.0]).double()).tolist() == [0, 2**23, 2**24]


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
def test_quantiles_are_those_of_real_tokens_and_of_windows(padded):
    dense = small_llama()
    pruned = _with_random_zeros(dense)
    w = windows(5, padded=padded)
    streams = open_streams(dense, anatomy(dense), "held", w)
    for index, blocks in enumerate(zip(anatomy(dense).blocks, anatomy(pruned).blocks, strict=True)):
        totals = advance_and_measure(*(block.module for block in blocks), index, streams)
    table = pd.DataFrame(error_quantiles(streams))
    errors = (block_outputs(dense, w)[-1] - block_outputs(pruned, w)[-1]).double().square().mean(-1)
    scale = float(block_outputs(dense, w)[-1].double().square().mean(-1)[w.mask].mean())
    by_window = [float(row[real].mean()) for row, real in zip(errors, w.mask, strict=True)]
    for over, values in (("tokens", errors[w.mask].tolist()), ("windows", by_window)):
        ours = table[table.over == over].set_index("quantile")
        assert ours.error[0.0] == pytest.approx(min(values), rel=1e-3) and ours.error[1.0] == pytest.approx(
            max(values), rel=1e-3
        )
        assert ours.error[0.5] == pytest.approx(np.median(values), rel=1e-3)
        assert ours.relative_error[0.9] == pytest.approx(np.quantile(values, 0.9) / scale, rel=1e-3)
        assert ours.error.is_monotonic_increasing and set(ours.split) == {"held"}
    total = next(row["error"] for row in totals if row["kind"] == "total")
    assert total == pytest.approx(float(errors[w.mask].mean()), rel=1e-3)

"""Statistics against definitions; padding and batch splits change nothing; shared inputs are counted once."""

import pytest
import torch
from torch import Tensor, nn

from analysis.errors import DataError, ModelError, NumericalError, UsageError
from analysis.models.anatomy import Matrix
from analysis.streams.collect import collect
from analysis.streams.moments import PANEL
from tests.helpers.attention import Attention
from tests.helpers.references import correlated


@pytest.fixture
def block() -> Attention:
    return Attention().requires_grad_(False)


@pytest.fixture
def hidden() -> Tensor:
    return correlated(6 * 10, 12, seed=1, dtype=torch.float32).view(6, 10, 12)


@pytest.fixture
def mask() -> Tensor:
    """Six windows of ten tokens with 10, 7, 1, 10, 4 and 9 real ones."""
    return torch.arange(10)[None] < torch.tensor([10, 7, 1, 10, 4, 9])[:, None]


def run(module: Attention, hidden: Tensor, mask: Tensor, batch: int = 6, **options):
    with collect(module.matrices(), **options) as collector:
        for start in range(0, len(hidden), batch):
            collector.mask = mask[start : start + batch]
            module(hidden[start : start + batch])
    return collector.result()


def inputs_of(block: Attention, hidden: Tensor) -> dict[str, Tensor]:
    inner = torch.tanh(block.query(hidden) + block.key(hidden) * block.value(hidden))
    return {"query": hidden, "out": inner}


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_sums_are_those_of_the_definition(block, hidden, mask, precision):
    result = run(block, hidden, mask, precision=precision)
    for name, inputs in inputs_of(block, hidden).items():
        statistics = result[name]
        real = [inputs[n, t].double() for n in range(6) for t in range(10) if mask[n, t]]
        gram = sum(torch.outer(x, x) for x in real)
        assert statistics.gram.dtype == statistics.diagonal.dtype == statistics.mean.dtype == precision
        assert statistics.tokens == len(real) == 41
        torch.testing.assert_close(statistics.gram.double(), gram, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(statistics.diagonal.double(), gram.diagonal(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(statistics.mean.double(), sum(real) / 41, rtol=1e-5, atol=1e-6)
        assert torch.equal(statistics.gram, statistics.gram.T)


def test_a_wide_gram_matrix_is_whole():
    """Wider than one panel: the upper triangle alone is accumulated, both halves come out."""
    width = PANEL + 40
    linear = nn.Linear(width, 2, bias=False).double()
    inputs = correlated(50, width, seed=2)
    with collect([Matrix("wide", linear, False, "mlp")], precision=torch.float64) as collector:
        collector.mask = torch.ones(5, 10, dtype=torch.bool)
        linear(inputs.view(5, 10, width))
    torch.testing.assert_close(collector.result()["wide"].gram, inputs.T @ inputs)


def test_diagonal_alone_equals_the_gram_matrix_diagonal(block, hidden, mask):
    full, cheap = run(block, hidden, mask), run(block, hidden, mask, want="diagonal")
    for name in full:
        assert cheap[name].gram is None
        torch.testing.assert_close(cheap[name].diagonal, full[name].diagonal)
        assert torch.equal(cheap[name].mean, full[name].mean)


def test_matrices_fed_one_tensor_share_one_accumulation(block, hidden, mask):
    result = run(block, hidden, mask, batch=2)
    assert result["query"] is result["key"] is result["value"]
    assert result["out"] is not result["query"]
    assert result["query"].tokens == 41


def test_the_same_batch_twice_counts_twice(block, hidden, mask):
    once = run(block, hidden, mask)
    with collect(block.matrices()) as collector:
        for _ in range(2):
            collector.mask = mask
            block(hidden)
    twice = collector.result()
    for name in once:
        torch.testing.assert_close(twice[name].gram, 2 * once[name].gram)
        torch.testing.assert_close(twice[name].mean, once[name].mean)
        assert twice[name].tokens == 2 * once[name].tokens


def test_padding_changes_nothing(block, hidden, mask):
    """Promise 9: whatever stands in padded positions, even nan, no statistic moves by a bit."""
    spoilt = hidden.masked_fill(~mask[..., None], torch.nan)
    clean, padded = run(block, hidden, mask), run(block, spoilt, mask)
    packed = run(block, hidden[mask][None], torch.ones(1, 41, dtype=torch.bool))
    for name in clean:
        assert torch.equal(clean[name].gram, padded[name].gram)
        assert torch.equal(clean[name].mean, padded[name].mean)
        torch.testing.assert_close(packed[name].gram, clean[name].gram)
        assert packed[name].tokens == clean[name].tokens


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_batch_split_changes_nothing_but_rounding(block, hidden, mask, batch):
    whole, split = run(block, hidden, mask), run(block, hidden, mask, batch=batch)
    for name in whole:
        torch.testing.assert_close(split[name].gram, whole[name].gram, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(split[name].mean, whole[name].mean, rtol=1e-5, atol=1e-6)
        assert split[name].tokens == whole[name].tokens


def test_half_precision_inputs_are_summed_in_float32(hidden, mask):
    block = Attention().half()
    statistics = run(block, (hidden * 300).half(), mask)["query"]
    real = (hidden * 300).half()[mask].double()
    assert statistics.gram.dtype == torch.float32
    assert statistics.diagonal.max() > torch.finfo(torch.float16).max
    torch.testing.assert_close(statistics.gram.double(), real.T @ real, rtol=1e-5, atol=1.0)


def test_flattened_tokens_are_understood(block, hidden, mask):
    """OPT hands its MLP (B*T, H)."""
    linear = block.query
    with collect([Matrix("query", linear, False, "mlp")]) as collector:
        collector.mask = mask
        linear(hidden.reshape(-1, 12))
    assert torch.equal(collector.result()["query"].gram, run(block, hidden, mask)["query"].gram)


def test_hooks_are_gone_after_the_context_even_after_an_error(block, hidden, mask):
    with pytest.raises(RuntimeError, match="stop"), collect(block.matrices()) as collector:
        collector.mask = mask
        raise RuntimeError("stop")
    block(hidden)
    assert not any(matrix.module._forward_pre_hooks for matrix in block.matrices())


def test_a_forward_can_end_once_every_input_is_seen(block, hidden, mask):
    """Same sums, and the last matrix's product is never computed."""
    block.out.register_forward_hook(lambda *_: pytest.fail("the last matrix ran"))
    with collect(block.matrices()) as collector:
        for rows in (slice(0, 3), slice(3, 6)):
            collector.mask = mask[rows]
            with collector.inputs_only():
                block(hidden[rows])
    block.out._forward_hooks.clear()
    expected = run(block, hidden, mask, batch=3)
    for name, statistics in collector.result().items():
        assert torch.equal(statistics.gram, expected[name].gram)
        assert statistics.tokens == expected[name].tokens


def test_an_error_inside_inputs_only_is_not_swallowed(block, hidden, mask):
    with pytest.raises(RuntimeError, match="shape"), collect(block.matrices()) as collector:
        collector.mask = mask
        with collector.inputs_only():
            block(hidden[..., :5])


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("want", ["gram", "diagonal"])
def test_an_input_that_is_not_finite_names_its_matrix(block, hidden, mask, value, want):
    hidden = hidden.clone()
    hidden[3, 2, 5] = value
    with pytest.raises(NumericalError, match=r"input of layers.3.query is not finite in 1 of 12 features \(first: 5\)"):
        run(block, hidden, mask, want=want, block="layers.3")


def test_wrong_calls(block, hidden, mask):
    with pytest.raises(UsageError, match="before the first forward"), collect(block.matrices()):
        block(hidden)
    with (
        pytest.raises(UsageError, match="query received 60 tokens, collector.mask covers 50"),
        collect(block.matrices()) as collector,
    ):
        collector.mask = mask[:5]
        block(hidden)
    with (
        pytest.raises(UsageError, match="a second input reached query in one batch"),
        collect(block.matrices()) as collector,
    ):
        collector.mask = mask
        block(hidden)
        block(hidden.clone())
    with pytest.raises(UsageError, match="must be boolean"), collect(block.matrices()) as collector:
        collector.mask = mask.long()
    with pytest.raises(UsageError, match="want='squares' is unknown"), collect(block.matrices(), want="squares"):
        pass


def test_nothing_seen_is_an_error(block, hidden, mask):
    with pytest.raises(DataError, match="no real token"):
        run(block, hidden, torch.zeros_like(mask))
    with collect([*block.matrices(), Matrix("idle", nn.Linear(3, 3), False, "mlp")]) as collector:
        collector.mask = mask
        block(hidden)
    with pytest.raises(ModelError, match="idle received no input"):
        collector.result()

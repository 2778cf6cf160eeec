"""The one accumulator against sums token by token; halves, processes and streams add up; what is read off it."""

import pytest
import torch
import torch.distributed as distributed
from torch import Tensor

from analysis.errors import DataError, NumericalError, UsageError
from analysis.streams.collect import collect
from analysis.streams.moments import (
    PANEL,
    PARTS,
    Accumulator,
    Moments,
    Statistics,
    Sums,
    hidden_accumulator,
    mean_square,
    real_rows,
)
from tests.helpers.attention import Attention
from tests.helpers.ranks import ended, start
from tests.helpers.references import correlated


def rows(tokens: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def token_by_token(x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
    """Every part by its definition, float64."""
    given = {"x": x.double(), **({} if y is None else {"y": y.double()})}
    sums = {}
    for letter, values in given.items():
        sums[letter] = sum(values)
        sums[f"{letter}2"] = sum(token * token for token in values)
        sums[letter * 2] = sum(torch.outer(token, token) for token in values)
    if y is not None:
        sums["yx"] = sum(torch.outer(t, s) for t, s in zip(given["y"], given["x"], strict=True))
    return sums


@pytest.mark.parametrize("given", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_every_part_is_the_sum_over_tokens(precision, given):
    """Batches of different sizes, one of them empty; two widths."""
    x, y = rows(23, 5, 0, given), rows(23, 3, 1, given)
    sums = Accumulator(PARTS, 5, 3, precision=precision)
    for batch in torch.arange(23).split([10, 0, 1, 12]):
        sums.add(x[batch], y[batch])
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if precision == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    for part, expected in token_by_token(x, y).items():
        total = sums.total(part, "m")
        assert total.dtype == precision and total.shape == expected.shape
        torch.testing.assert_close(total.double(), expected, **tolerance)
        torch.testing.assert_close(sums.mean(part, "m").double(), expected / 23, **tolerance)
    assert sums.tokens == 23


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_sums_wider_than_a_panel_are_whole_and_symmetric(precision):
    x, y = rows(90, PANEL + 44, 2), rows(90, 2 * PANEL + 1, 3)
    sums = Accumulator(("xx", "yx", "yy"), PANEL + 44, 2 * PANEL + 1, precision=precision)
    sums.add(x, y)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if precision == torch.float32 else {"rtol": 1e-12, "atol": 1e-11}
    for part, expected in (("xx", x.T @ x), ("yx", y.T @ x), ("yy", y.T @ y)):
        total = sums.total(part, "m")
        torch.testing.assert_close(total.double(), expected, **tolerance)
        assert part == "yx" or torch.equal(total, total.T)


def test_what_is_added_or_read_is_not_changed_afterwards():
    x, y = rows(9, 4, 0), rows(9, 2, 1)
    before = x.clone(), y.clone()
    sums = Accumulator(PARTS, 4, 2, precision=torch.float64)
    sums.add(x, y)
    first = {part: sums.total(part, "m") for part in PARTS}
    copies = {part: total.clone() for part, total in first.items()}
    sums.add(x, y)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    assert all(torch.equal(first[part], copies[part]) for part in PARTS)


def test_sums_made_in_inference_mode_can_be_added_to_outside():
    with torch.inference_mode():
        sums = Accumulator(("x", "xx"), 4)
        sums.add(rows(5, 4, 0, torch.float32))
    sums.add(rows(5, 4, 1, torch.float32).requires_grad_())
    assert sums.tokens == 10 and not sums.total("xx", "m").requires_grad


def integers(tokens: int, width: int, seed: int) -> Tensor:
    """Small whole numbers, whose sums have no rounding in any order."""
    return torch.randint(-8, 9, (tokens, width), generator=torch.Generator().manual_seed(seed)).double()


def test_merged_halves_are_the_whole():
    x, y = integers(31, 6, 0), integers(31, 4, 1)
    whole, first, second, empty = (Accumulator(PARTS, 6, 4, precision=torch.float64) for _ in range(4))
    whole.add(x, y)
    first.add(x[:12], y[:12])
    second.add(x[12:], y[12:])
    first.merge(second)
    first.merge(empty)
    assert first.tokens == whole.tokens == 31
    for part in PARTS:
        assert torch.equal(first.total(part, "m"), whole.total(part, "m"))
    assert second.tokens == 19, "what is merged stays as it is"


def test_what_does_not_belong_together_is_not_merged():
    sums = Accumulator(("xx",), 4)
    for other in (Accumulator(("x",), 4), Accumulator(("xx",), 5), Accumulator(("xx",), 4, precision=torch.float64)):
        with pytest.raises(UsageError, match="cannot be merged"):
            sums.merge(other)


def test_without_a_group_nothing_is_reduced():
    sums = Accumulator(("x", "xx"), 4)
    sums.add(rows(5, 4, 0, torch.float32))
    before = sums.total("xx", "m")
    sums.reduce(None)
    assert sums.tokens == 5 and torch.equal(sums.total("xx", "m"), before)


def share(folder: str) -> None:
    """What one of two processes counts; the second has no token of one of the sums."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    x, y = integers(31, 6, 0), integers(31, 4, 1)
    here = slice(0, 12) if rank == 0 else slice(12, 31)
    sums, lopsided = (Accumulator(PARTS, 6, 4, precision=torch.float64) for _ in range(2))
    sums.add(x[here], y[here])
    if rank == 0:
        lopsided.add(x, y)
    block, hidden = Attention().requires_grad_(False), correlated(24, 12, 1, torch.float32).view(4, 6, 12)
    with collect(block.matrices(), precision=torch.float64) as collector:
        collector.mask = torch.ones(2, 6, dtype=torch.bool)
        block(hidden[2 * rank : 2 * rank + 2])
    for reducible in (sums, lopsided, collector):
        reducible.reduce(distributed.group.WORLD)
    statistics = collector.result()
    torch.save(
        {
            "tokens": (sums.tokens, lopsided.tokens, statistics["out"].tokens),
            "sums": {part: (sums.total(part, "m"), lopsided.total(part, "m")) for part in PARTS},
            "grams": {name: statistics[name].gram for name in ("query", "out")},
            "shared": statistics["query"] is statistics["key"],
        },
        f"{folder}/{rank}",
    )
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    assert ended(start(2, share, str(tmp_path), logs=tmp_path / "logs")) == [0, 0]
    whole = Accumulator(PARTS, 6, 4, precision=torch.float64)
    whole.add(integers(31, 6, 0), integers(31, 4, 1))
    block, hidden = Attention().requires_grad_(False), correlated(24, 12, 1, torch.float32).view(4, 6, 12)
    with collect(block.matrices(), precision=torch.float64) as collector:
        collector.mask = torch.ones(4, 6, dtype=torch.bool)
        block(hidden)
    expected = collector.result()
    for rank in range(2):
        seen = torch.load(tmp_path / str(rank), weights_only=True)
        assert seen["tokens"] == (31, 31, 24) and seen["shared"]
        for part in PARTS:
            assert all(torch.equal(total, whole.total(part, "m")) for total in seen["sums"][part])
        for name, gram in seen["grams"].items():
            torch.testing.assert_close(gram, expected[name].gram, rtol=1e-6, atol=1e-5)  # the block runs in float32


def test_statistics_read_the_input_s_sums():
    x = rows(20, 5, 0)
    expected = token_by_token(x)
    for want in ("gram", "diagonal"):
        sums = Accumulator(Statistics.PARTS[want], 5, precision=torch.float64)
        sums.add(x)
        statistics = Statistics.of(sums, "m")
        assert statistics.tokens == 20 and (statistics.gram is None) == (want == "diagonal")
        torch.testing.assert_close(statistics.diagonal, expected["x2"])
        torch.testing.assert_close(statistics.mean, expected["x"] / 20)
        if want == "gram":
            torch.testing.assert_close(statistics.gram, expected["xx"])
            assert torch.equal(statistics.gram.diagonal(), statistics.diagonal)


def test_moments_read_one_stream_or_two():
    student, target = rows(20, 5, 0), rows(20, 5, 1)
    one = Accumulator(Moments.PARTS["one stream"], 5, precision=torch.float64)
    two = Accumulator(Moments.PARTS["two streams"], 5, precision=torch.float64)
    one.add(student)
    two.add(student, target)
    single, double, expected = Moments.of(one, "m"), Moments.of(two, "m"), token_by_token(student, target)
    assert single.one_stream and not double.one_stream and single.tokens == double.tokens == 20
    assert single.cross is single.gram and single.target is single.gram
    assert single.nbytes * 3 == double.nbytes == 3 * 25 * 8
    for sums, part in ((single.gram, "xx"), (double.gram, "xx"), (double.cross, "yx"), (double.target, "yy")):
        torch.testing.assert_close(sums, expected[part])


def test_sums_of_an_input_and_a_wanted_output():
    x, y, weight = rows(20, 5, 0), rows(20, 3, 1), rows(3, 5, 2)
    sums = Accumulator(Sums.PARTS, 5, 3, precision=torch.float64)
    for batch in torch.arange(20).split(7):
        sums.add(x[batch], y[batch])
    collected, expected = Sums.of(sums, "m"), token_by_token(x, y)
    names = {"gram": "xx", "inputs": "x", "cross": "yx", "outputs": "y", "energy": "y2"}
    for name, part in names.items():
        torch.testing.assert_close(getattr(collected, name), expected[part])
    assert collected.precision == torch.float64 and collected.tokens == 20
    assert collected.scale == pytest.approx(float(y.square().mean()))
    assert collected.loss(weight, None) == pytest.approx(float((y - x @ weight.T).square().mean()))


def test_padded_positions_of_hidden_states_are_not_counted_even_if_not_finite():
    hidden = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    hidden[~mask] = float("nan")
    sums = hidden_accumulator(4, "cpu")
    sums.add(real_rows(hidden, mask))
    real = hidden[mask].double()
    assert sums.tokens == 3 and torch.allclose(mean_square(sums, "m"), real.T @ real / 3)
    assert torch.equal(real_rows(hidden, torch.ones_like(mask))[:2], hidden[0, :2])


def test_many_batches_do_not_wear_the_sum_of_hidden_states_down():
    """A sum held in float32 would stop growing long before: each batch adds one part in 10^8."""
    sums = hidden_accumulator(1, "cpu")
    sums.add(torch.full((1, 1), 1e4))
    for _ in range(1000):
        sums.add(torch.ones(1, 1))
    assert float(mean_square(sums, "m")) == pytest.approx((1e8 + 1000) / 1001, rel=1e-12)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("parts", [("xx", "yy"), ("x2", "y2"), ("x", "y"), ("yx", "x2", "yy")])
def test_what_is_not_finite_is_named(parts, value):
    for place, label in ((0, "input"), (1, "target")):
        x, y = rows(6, 4, 0), rows(6, 4, 1)
        (x, y)[place][3, 2] = value
        sums = Accumulator(parts, 4, precision=torch.float64)
        sums.add(x, y)
        with pytest.raises(NumericalError, match=rf"the {label} of m is not finite in 1 of 4 features \(first: 2\)"):
            sums.total("yx" if "yx" in parts else parts[place], "m")


def test_a_square_that_overflows_is_said_rather_than_used():
    sums = Accumulator(("x", "xx"), 2)
    sums.add(torch.tensor([[1e25, 1.0]]))
    with pytest.raises(NumericalError, match="float32 or bfloat16"):
        sums.total("x", "m")


def test_wrong_calls():
    with pytest.raises(UsageError, match="must be some of x, x2"):
        Accumulator(("xz",), 3)
    with pytest.raises(UsageError, match="must be some of"):
        Accumulator((), 3)
    with pytest.raises(DataError, match="moments of m: no real token"):
        Accumulator(("x",), 3).total("x", "m")
    with pytest.raises(UsageError, match="yx needs one of yy, y2, y too"):
        Accumulator(("xx", "yx"), 3)
    sums = Accumulator(("xx", "yx", "y"), 3, 2)
    with pytest.raises(UsageError, match=r"rows x have shape \(5, 2\); expected \(5, 3\)"):
        sums.add(torch.ones(5, 2), torch.ones(5, 2))
    with pytest.raises(UsageError, match=r"rows y have shape \(4, 2\); expected \(5, 2\)"):
        sums.add(torch.ones(5, 3), torch.ones(4, 2))
    with pytest.raises(UsageError, match="need x and y; y is missing"):
        sums.add(torch.ones(5, 3))
    with pytest.raises(UsageError, match="need x alone; y was given too"):
        Accumulator(("xx",), 3).add(torch.ones(5, 3), torch.ones(5, 3))
    assert sums.tokens == 0 and not any(total.any() for total in sums._sums.values())

"""Masks of the score-based criteria against their definitions by naive loops, and the dispatch."""

import math
from dataclasses import replace

import pytest
import torch

from analysis.errors import NumericalError, UsageError
from analysis.masks.choose import choose_mask, wanted_statistics
from analysis.masks.criteria import SCORES, random_scores, ria_scores, wanda_scores
from analysis.masks.notes import Note
from analysis.masks.patterns import check_mask
from analysis.masks.refine import frank_wolfe, swaps
from analysis.masks.sparsegpt import sparsegpt
from analysis.recipe.parts import Criterion, Pattern, Refinement
from analysis.recipe.words import CRITERION_WORDS
from tests.helpers.references import correlated, largest, normal, output_error, statistics_of

PATTERNS = [
    Pattern(sparsity=0.5),
    Pattern(sparsity=0.3, group="row"),
    Pattern(sparsity=0.7, group="matrix"),
    Pattern(keep=2, of=4),
    Pattern(keep=1, of=4),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chosen(name: str, weight, statistics=None, pattern=PATTERNS[0], seed=0, refinement=None):
    return choose_mask(Criterion(name), pattern, weight, statistics, generator(seed), name="m", refinement=refinement)


def test_magnitude_keeps_the_largest_of_the_whole_matrix():
    weight = normal((6, 10), 1)
    result = chosen("magnitude", weight)
    assert result.mask.flatten().tolist() == largest([abs(w) for w in weight.flatten().tolist()], 30)
    assert result.weight is None and result.notes == () and result.refined is None


def test_weights_whose_sum_overflows_are_finite_all_the_same():
    weight = torch.full((4, 8), 6e4, dtype=torch.float16)
    assert not weight.sum().isfinite() and int(chosen("magnitude", weight).mask.sum()) == 16
    weight[1, 2] = torch.inf
    with pytest.raises(NumericalError, match="not finite"):
        chosen("magnitude", weight)


def test_wanda_keeps_the_largest_of_every_row():
    """|W_ij| times the root mean square of input j (papers.md 1.5), by loops."""
    weight, inputs = normal((6, 10), 1), correlated(40, 10, 2)
    result = chosen("wanda", weight, statistics_of(inputs))
    for i in range(6):
        scores = [
            abs(float(weight[i, j])) * math.sqrt(sum(float(x) ** 2 for x in inputs[:, j]) / 40) for j in range(10)
        ]
        assert result.mask[i].tolist() == largest(scores, 5)
    assert result.weight is None and result.notes == ()
    assert not torch.equal(result.mask, chosen("magnitude", weight, pattern=Pattern(sparsity=0.5, group="row")).mask)


def test_ria_keeps_the_largest_shares_of_row_and_column_of_the_whole_matrix():
    """(|W| / column sum + |W| / row sum) times the root mean square of input j to the power alpha (papers.md 2.5), by
    loops.
    """
    weight, inputs = normal((6, 10), 1), correlated(40, 10, 2)
    size, statistics = weight.abs().tolist(), statistics_of(inputs)
    for exponent in (0.5, 1.0):
        norms = [math.sqrt(sum(float(x) ** 2 for x in inputs[:, j]) / 40) ** exponent for j in range(10)]
        shares = [
            [size[i][j] / sum(row[j] for row in size) + size[i][j] / sum(size[i]) for j in range(10)] for i in range(6)
        ]
        scores = [[share * norm for share, norm in zip(row, norms, strict=True)] for row in shares]
        torch.testing.assert_close(
            ria_scores(weight, statistics, exponent=exponent), torch.tensor(scores, dtype=torch.float64)
        )
        mask = choose_mask(
            Criterion("ria", exponent=exponent), PATTERNS[0], weight, statistics, generator(), name="m"
        ).mask
        assert mask.flatten().tolist() == largest([score for row in scores for score in row], 30)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rows_and_columns_of_zeros_score_zero_in_ria(dtype):
    weight, statistics = normal((6, 10), 1).to(dtype), statistics_of(correlated(40, 10, 2))
    weight[2], weight[:, 3] = 0, 0
    scores = ria_scores(weight, statistics, exponent=0.5)
    zero = weight == 0
    assert bool((scores[zero] == 0).all()) and bool((scores[~zero] > 0).all()) and bool(scores.isfinite().all())
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_wanda_prunes_inputs_that_are_always_zero_first():
    inputs = correlated(40, 8, 2)
    inputs[:, [1, 3, 4, 6]] = 0
    mask = chosen("wanda", normal((5, 8), 1), statistics_of(inputs)).mask
    assert mask.tolist() == [[True, False, True, False, False, True, False, True]] * 5


def test_random_is_a_function_of_the_generator_alone():
    weight = normal((20, 30), 1)
    first, again, other = (chosen("random", weight, seed=seed).mask for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert int(first.sum()) == 300


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("name", CRITERION_WORDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_criterion_keeps_exact_counts_and_leaves_the_weight_alone(name, pattern, dtype):
    weight, statistics = normal((9, 132), 1).to(dtype), statistics_of(correlated(200, 132, 2, torch.float32))
    before = weight.clone()
    result = chosen(name, weight, statistics, pattern)
    mask, updated = result.mask, result.weight
    check_mask(mask, pattern.resolve(name), name="m")
    assert torch.equal(weight, before)
    if updated is not None:
        assert updated.dtype == dtype and updated.shape == weight.shape
        assert bool((updated[~mask] == 0).all()) and bool((updated[mask] != 0).all())


@pytest.mark.parametrize("name", [name for name in CRITERION_WORDS if name != "random"])
def test_a_pruned_matrix_gets_its_own_mask_again(name):
    """papers.md 1.2: zeros score lowest, so a second visit at 50 % changes no mask, and SparseGPT no weight."""
    weight, statistics = normal((12, 300), 1, torch.float32), statistics_of(correlated(400, 300, 2, torch.float32))
    result = chosen(name, weight, statistics)
    pruned = (weight if result.weight is None else result.weight) * result.mask
    again = chosen(name, pruned, statistics)
    assert torch.equal(again.mask, result.mask)
    assert again.weight is None or torch.equal(again.weight, pruned)


REFINEMENTS = [
    Refinement("swaps"),
    Refinement("swaps", rounds=1),
    Refinement("fw", iterations=20),
    Refinement("fw", iterations=20, protect=0.0),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("name", CRITERION_WORDS)
@pytest.mark.parametrize(
    "refinement", REFINEMENTS, ids=lambda r: f"{r.name}-{r.rounds if r.name == 'swaps' else r.protect}"
)
def test_a_refined_mask_keeps_exact_counts_and_costs_no_more(refinement, name, pattern):
    weight, statistics = normal((9, 132), 1, torch.float32), statistics_of(correlated(200, 132, 2, torch.float32))
    before = weight.clone()
    plain, result = (
        chosen(name, weight, statistics, pattern),
        chosen(name, weight, statistics, pattern, refinement=refinement),
    )
    check_mask(result.mask, pattern.resolve(name), name="m")
    assert torch.equal(weight, before) and plain.refined is None
    losses = [output_error(weight, weight * mask, statistics.gram) / (9 * 200) for mask in (plain.mask, result.mask)]
    assert [result.refined.loss_before, result.refined.loss_after] == pytest.approx(losses, rel=1e-6)
    kept_start = any(note.rule == "kept start" for note in result.notes)
    assert losses[1] < losses[0] or (kept_start and losses[1] == losses[0])
    assert torch.equal(result.refined.mask, result.mask) and not (kept_start and refinement.name == "swaps")
    assert (result.weight is None) == (name != "sparsegpt")


def test_more_rounds_of_swaps_gain_more():
    weight, statistics = normal((16, 128), 1), statistics_of(correlated(300, 128, 2))
    for name in ("wanda", "ria", "magnitude", "random"):
        losses = [
            chosen(name, weight, statistics, refinement=Refinement("swaps", rounds=rounds)).refined.loss_after
            for rounds in (1, 5, 100)
        ]
        assert losses == sorted(losses, reverse=True) and losses[2] < losses[0]


def test_frank_wolfe_gets_the_criterion_s_scores():
    """Random ones are drawn once; SparseGPT, which has none of its own, is given Wanda's."""
    weight, statistics = normal((8, 64), 1), statistics_of(correlated(300, 64, 2))
    refinement, arguments = Refinement("fw", iterations=30), {"iterations": 30, "protect": 0.9, "name": "m"}
    wanda = wanda_scores(weight, statistics)
    for name, scores in (
        ("random", random_scores(weight, None, generator(0))),
        ("magnitude", weight.abs()),
        ("wanda", wanda),
        ("sparsegpt", wanda),
    ):
        pattern, plain = PATTERNS[0].resolve(name), chosen(name, weight, statistics).mask
        expected = frank_wolfe(weight, statistics, plain, pattern, scores, **arguments)
        result = chosen(name, weight, statistics, refinement=refinement)
        assert (
            torch.equal(result.mask, expected.mask)
            and result.notes == expected.notes
            and not torch.equal(result.mask, plain)
        )


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_sparsegpt_updates_for_the_refined_mask(pattern):
    """The mask is refined on the original weights; then the sweep runs once more with that mask fixed."""
    weight, statistics = normal((9, 132), 1), statistics_of(correlated(300, 132, 2))
    result = chosen("sparsegpt", weight, statistics, pattern, refinement=Refinement("swaps", rounds=7))
    options, resolved = {"damping": 0.01, "columns": 128, "name": "m"}, pattern.resolve("sparsegpt")
    mask = swaps(
        weight, statistics, sparsegpt(weight, statistics, resolved, **options).mask, resolved, rounds=7, name="m"
    ).mask
    assert torch.equal(result.mask, mask)
    assert torch.equal(result.weight, sparsegpt(weight, statistics, resolved, **options, mask=mask).weight)
    without = choose_mask(
        Criterion("sparsegpt", update=False),
        pattern,
        weight,
        statistics,
        None,
        refinement=Refinement("swaps", rounds=7),
    )
    assert without.weight is None and torch.equal(without.mask, mask)


def test_sparsegpt_s_own_columns_bound_the_swaps():
    weight, statistics, criterion = (
        normal((9, 48), 1),
        statistics_of(correlated(300, 48, 2)),
        Criterion("sparsegpt", columns=10),
    )
    result = choose_mask(criterion, PATTERNS[0], weight, statistics, None, refinement=Refinement("swaps"))
    check_mask(result.mask, PATTERNS[0].resolve("sparsegpt"), name="m", columns=10)
    assert result.refined.steps > 0


def test_dead_inputs_are_noted_once():
    inputs = correlated(100, 20, 2)
    inputs[:, [3, 11]] = 0
    result = chosen("sparsegpt", normal((5, 20), 1), statistics_of(inputs), refinement=Refinement("swaps"))
    assert result.notes == (Note("dead input", 2.0),)


def test_statistics_wanted():
    assert {name: wanted_statistics(Criterion(name)) for name in CRITERION_WORDS} == {
        "random": None,
        "magnitude": None,
        "wanda": "diagonal",
        "sparsegpt": "gram",
        "ria": "diagonal",
    }
    for name in CRITERION_WORDS:
        assert wanted_statistics(Criterion(name), Refinement("none")) == wanted_statistics(Criterion(name))
        assert {wanted_statistics(Criterion(name), refinement) for refinement in REFINEMENTS} == {"gram"}


def test_wrong_calls():
    weight, statistics = normal((4, 8), 1), statistics_of(correlated(20, 8, 2))
    for name in ("wanda", "sparsegpt", "ria"):
        with pytest.raises(UsageError, match=f"{name} needs the statistics of m's input"):
            chosen(name, weight)
    with pytest.raises(UsageError, match="swaps needs the statistics of m's input; collect them with want='gram'"):
        chosen("magnitude", weight, refinement=Refinement("swaps"))
    with pytest.raises(UsageError, match="fw needs the Gram matrix of m's input"):
        chosen("wanda", weight, replace(statistics, gram=None), refinement=Refinement("fw"))
    with pytest.raises(UsageError, match="its 8 inputs are not divisible by 16"):
        chosen("sparsegpt", weight, statistics, Pattern(keep=4, of=16))
    weight[2, 3] = torch.nan
    with pytest.raises(NumericalError, match="m holds weights that are not finite"):
        chosen("magnitude", weight)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CRITERION_WORDS)
def test_a_gpu_chooses_what_a_cpu_chooses(name):
    weight, inputs = normal((32, 256), 1), correlated(500, 256, 2)
    expected = chosen(name, weight, statistics_of(inputs)).mask
    mask = chosen(name, weight.cuda(), statistics_of(inputs.cuda())).mask
    assert mask.is_cuda and torch.equal(mask.cpu(), expected)


def test_scores_that_are_no_scores_are_refused_by_name(monkeypatch):
    weight, statistics = torch.ones(4, 6), statistics_of(torch.full((8, 6), 1e-8))
    with pytest.raises(NumericalError, match="criterion ria of q: exponent=10 takes the norms .*, from 1e-08 to 1e-08"):
        choose_mask(Criterion("ria", exponent=10), Pattern(0.5), weight, statistics, torch.Generator(), name="q")
    wrong = {
        torch.full((4, 6), torch.nan): (NumericalError, "24 scores are no numbers"),
        torch.ones(6, 4): (UsageError, r"must be numbers of shape \(4, 6\), got a tensor \(6, 4\)"),
        "scores": (UsageError, "got 'scores'"),
    }
    for scores, (kind, said) in wrong.items():
        monkeypatch.setitem(SCORES, "magnitude", lambda *args, scores=scores: scores)
        with pytest.raises(kind, match=f"criterion magnitude of q: .*{said}"):
            choose_mask(Criterion("magnitude"), Pattern(0.5), weight, None, torch.Generator(), name="q")

"""Structured scores against loops over columns, gradients against finite differences, selection against every possible
mask.
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from analysis.errors import DataError, NumericalError, UsageError
from analysis.recipe.words import STRUCTURED_WORDS
from analysis.structured.budget import cost, select
from analysis.structured.criteria import (
    Evidence,
    consumer_statistics,
    mask_gradients,
    ranking,
    structure_scores,
    token_batches,
)
from analysis.structured.find import structures
from analysis.structured.pairs import Structures, masked
from analysis.windows import Windows
from tests.helpers.encoders import encoder
from tests.helpers.families import tiny, tokens
from tests.helpers.references import statistics_of

MODELS = ["llama", "gpt2", "gpt_neox", "bert"]


def build(name: str) -> nn.Module:
    return encoder(name) if name == "bert" else tiny(name)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(count: int = 6, padding: str | None = "right") -> Windows:
    ids, mask = tokens(count, padding=padding)
    return Windows(ids, mask, "calibration", {})


def batches(name: str, padding: str | None = "right") -> list[dict[str, Tensor]]:
    found = list(token_batches(windows(padding=padding), 2))
    if name == "bert":
        found = [batch | {"labels": torch.tensor([0, 1])} for batch in found]
    return found


def inputs_of(model: nn.Module, pair, given: list[dict[str, Tensor]]) -> Tensor:
    """Real tokens' inputs (n, in) of a consumer, float64."""
    seen = []
    handle = pair.consumer.module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for batch in given:
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    handle.remove()
    return torch.cat(
        [
            x.reshape(-1, x.shape[-1])[batch["attention_mask"].bool().flatten()]
            for x, batch in zip(seen, given, strict=True)
        ]
    ).double()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_statistics_are_of_real_tokens_only(name):
    model = build(name)
    found = structures(model)
    given = batches(name, padding="right" if name == "bert" else "both")
    statistics = consumer_statistics(model, found, given, want="gram")
    for pair in found:
        inputs = inputs_of(model, pair, given)
        expected = statistics_of(inputs)
        assert statistics[pair.name].tokens == len(inputs) == sum(int(batch["attention_mask"].sum()) for batch in given)
        torch.testing.assert_close(statistics[pair.name].gram, expected.gram, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(statistics[pair.name].mean, expected.mean, rtol=1e-10, atol=1e-10)


def by_hand(criterion: str, pair, inputs: Tensor, gradients: Tensor) -> list[float]:
    """One structure after another, one column after another."""
    weight = pair.consumer.weight().double()
    rows = [(producer.matrix.weight().double(), producer.rows) for producer in pair.producers]
    every = []
    for column in range(weight.shape[1]):
        x = inputs[:, column]
        fluctuation = float(x.var(correction=0)) * sum(float(w) ** 2 for w in weight[:, column])
        every.append(fluctuation**2 if pair.kind == "heads" else fluctuation)
    mean = sum(every) / len(every)
    spread = math.sqrt(sum((value - mean) ** 2 for value in every) / (len(every) - 1))
    scores = []
    for index, columns in enumerate(pair.columns.tolist()):
        if criterion == "magnitude":
            own = sum(float(w) ** 2 for column in columns for w in weight[:, column])
            own += sum(float(w) ** 2 for matrix, owned in rows for row in owned[index].tolist() for w in matrix[row])
            scores.append(math.sqrt(own))
        elif criterion == "activation":
            scores.append(math.sqrt(sum(float(inputs[:, column].square().mean()) for column in columns)))
        elif criterion == "wanda-sp":
            norms = {column: math.sqrt(float(inputs[:, column].square().mean())) for column in columns}
            scores.append(
                sum(sum(abs(float(w)) for w in weight[:, column]) / len(weight) * norms[column] for column in columns)
            )
        elif criterion == "flap":
            scores.append(sum((every[column] - mean) / spread for column in columns) / len(columns))
        elif criterion == "snip":
            scores.append(abs(sum(float(row[index]) for row in gradients) / len(gradients)))
        else:
            scores.append(sum(float(row[index]) ** 2 for row in gradients))
    return scores


@pytest.mark.slow
@pytest.mark.parametrize("criterion", [name for name in STRUCTURED_WORDS if name != "random"])
@pytest.mark.parametrize("name", MODELS)
def test_scores_equal_a_loop_over_columns(name, criterion):
    model = build(name)
    found = structures(model)
    given = batches(name)
    statistics, gradients = consumer_statistics(model, found, given), mask_gradients(model, found, given)
    for pair in found.pairs[:2]:
        scores = structure_scores(criterion, pair, Evidence(statistics[pair.name], gradients[pair.name]), generator())
        assert scores.shape == (pair.count,) and scores.dtype == torch.float64
        expected = by_hand(criterion, pair, inputs_of(model, pair, given), gradients[pair.name])
        assert scores.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_random_scores_follow_the_generator():
    pair = structures(tiny("opt")).pairs[0]
    one, same, other = (structure_scores("random", pair, None, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_flap_scores_of_columns_that_are_all_alike_are_zero():
    pair = structures(tiny("opt")).pairs[1]
    still = statistics_of(torch.ones(10, 48, dtype=torch.float64))
    assert not structure_scores("flap", pair, Evidence(still), generator()).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["opt", "gpt2", "bert"])
def test_mask_gradients_equal_finite_differences(name):
    model = build(name).double()
    found = structures(model)
    given = batches(name)[:1]

    def spread(
        net: nn.Module, batch: dict[str, Tensor]
    ) -> Tensor:  # the library's own losses round to float32, as Llama's norms do
        return net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.square().mean()

    gradients = mask_gradients(model, found, given, spread)
    for pair in found.pairs[:2]:
        for index in (0, pair.count - 1):

            def loss(factor: float, pair=pair, index=index) -> float:
                scale = torch.ones(pair.consumer.columns, dtype=torch.float64)
                scale[pair.columns[index]] = factor
                handle = pair.consumer.module.register_forward_pre_hook(lambda module, args: (args[0] * scale,))
                value = float(spread(model, given[0]))
                handle.remove()
                return value

            expected = (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5
            assert float(gradients[pair.name][0, index]) == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_snip_is_weight_times_gradient_over_the_columns():
    model = tiny("opt").double()
    found = structures(model)
    given = batches("opt")
    gradients = mask_gradients(model, found, given)
    pair = found.pairs[1]
    parameter = pair.consumer.module.weight.requires_grad_(True)
    total = sum(torch.autograd.grad(model(**batch).loss, parameter)[0] for batch in given) / len(given)
    expected = (parameter * total).sum(0)[pair.columns].sum(1).abs()
    scores = structure_scores("snip", pair, Evidence(gradients=gradients[pair.name]), generator())
    torch.testing.assert_close(scores, expected.detach(), rtol=1e-8, atol=1e-10)
    assert parameter.grad is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_what_stands_in_padding_changes_nothing(name):
    model = build(name)
    found = structures(model)
    given = batches(name)
    noisy = [
        batch | {"input_ids": torch.where(batch["attention_mask"].bool(), batch["input_ids"], 9)} for batch in given
    ]
    for one, other in zip(
        mask_gradients(model, found, given).values(), mask_gradients(model, found, noisy).values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for one, other in zip(
        consumer_statistics(model, found, given).values(),
        consumer_statistics(model, found, noisy).values(),
        strict=True,
    ):
        torch.testing.assert_close(one.diagonal, other.diagonal, rtol=1e-5, atol=1e-7)


def test_an_own_loss_is_followed():
    model = encoder("bert")
    found = structures(model)
    given = [{"input_ids": tokens(2)[0]}]
    own = mask_gradients(model, found, given, lambda net, batch: net(**batch).logits.square().sum())
    assert all(value.shape == (1, pair.count) and value.any() for pair, value in zip(found, own.values(), strict=True))
    with pytest.raises(DataError, match="gave no loss"):
        mask_gradients(model, found, given)


def test_missing_evidence_and_broken_numbers_are_refused():
    model = tiny("llama")
    found = structures(model)
    pair = found.pairs[0]
    with pytest.raises(UsageError, match="unknown for structures"):
        structure_scores("sparsegpt", pair, None, generator())
    for criterion, what in (("flap", "consumer_statistics"), ("fisher", "mask_gradients")):
        with pytest.raises(UsageError, match=what):
            structure_scores(criterion, pair, Evidence(), generator())
    with pytest.raises(NumericalError, match=pair.name):
        structure_scores("fisher", pair, Evidence(gradients=torch.full((1, pair.count), math.inf)), generator())
    for call in (consumer_statistics, mask_gradients):
        with pytest.raises(DataError, match="no batch"):
            call(model, found, [])
    with pytest.raises(NumericalError, match="no finite gradient"):
        mask_gradients(model, found, batches("llama"), lambda net, batch: net(**batch).loss * math.nan)


# --- selection -------------------------------------------------------------------------------------------------------


def random_scores(pairs, seed: int = 0) -> dict[str, Tensor]:
    source = generator(seed)
    return {pair.name: torch.rand(pair.count, generator=source, dtype=torch.float64) for pair in pairs}


@pytest.mark.parametrize("removed", [0.0, 0.25, 0.5, 0.9])
def test_uniform_keeps_the_best_of_every_layer(removed):
    found = structures(tiny("opt"), kinds=["neurons"])
    scores = random_scores(found)
    masks = select(found, scores, removed)
    for pair in found:
        kept = masks[pair.name]
        assert int(kept.sum()) == round(48 * (1 - removed))
        assert not (~kept).any() or scores[pair.name][kept].min() >= scores[pair.name][~kept].max()


def test_equal_scores_keep_the_earlier_structure():
    pair = structures(tiny("opt"), kinds=["neurons"]).pairs[0]
    assert select([pair], {pair.name: torch.ones(48)}, 0.5)[pair.name].tolist() == [True] * 24 + [False] * 24


POSSIBLE = [
    ("llama", "groups", "2 KV groups of 2 query heads.*are 0, 0.5"),
    ("opt", "groups", "4 heads.*0, 0.25, 0.5, 0.75"),
    ("llama", "queries", "2 query heads in each of its 2 KV groups.*0, 0.5"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "heads", "possible"), POSSIBLE)
def test_a_ratio_whole_heads_cannot_express_is_refused_with_those_they_can(family, heads, possible):
    found = structures(tiny(family), kinds=["heads"], heads=heads)
    for removed in (0.3, 0.9):
        with pytest.raises(UsageError, match=possible):
            select(found, random_scores(found), removed)
    masks = select(found, random_scores(found), 0.5)
    assert {int(mask.sum()) for mask in masks.values()} == {found.pairs[0].count // 2}


def test_query_heads_leave_every_group_alike():
    found = structures(tiny("falcon"), kinds=["heads"], heads="queries")
    scores = random_scores(found)
    for pair, mask in zip(found, select(found, scores, 0.5).values(), strict=True):
        for group in (0, 1):
            inside = (pair.groups == group).nonzero().flatten()
            assert mask[inside].tolist() == [
                bool(scores[pair.name][index] == scores[pair.name][inside].max()) for index in inside
            ]


def few(name: str, blocks: int, counts: dict[str, int]) -> Structures:
    """The first structures of the first blocks' pairs, so that every mask can be tried."""

    def cut(pair):
        count = counts[pair.kind]
        return replace(
            pair,
            columns=pair.columns[:count],
            groups=pair.groups[:count],
            producers=tuple(replace(p, rows=p.rows[:count]) for p in pair.producers),
        )

    found = structures(tiny(name))
    return Structures(found.parts, tuple(cut(pair) for pair in found if pair.block < blocks and pair.kind in counts))


def every_mask(pairs):
    """Every way to keep at least one structure of each pair."""
    options = [
        [torch.tensor(bits) for bits in itertools.product([False, True], repeat=pair.count) if any(bits)]
        for pair in pairs
    ]
    for choice in itertools.product(*options):
        yield {pair.name: mask for pair, mask in zip(pairs, choice, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("context", [None, 64])
@pytest.mark.parametrize(
    "counts", [{"heads": 3, "neurons": 4}, {"heads": 4}, {"neurons": 5}], ids=["both", "heads", "neurons"]
)
@pytest.mark.parametrize("removed", [0.2, 0.5])
@pytest.mark.parametrize("seed", range(2))
def test_the_global_mask_is_the_best_of_all(seed, removed, counts, context):
    found = few("opt", 2, counts)
    scores = random_scores(found, seed)
    budget = cost(found, context=context) * (1 - removed)
    masks = select(found, scores, removed, scope="global", context=context)
    assert cost(found, masks, context) <= budget + 1e-6

    def worth(choice) -> float:
        return sum(float(scores[name][mask].sum()) for name, mask in choice.items())

    best = max(worth(choice) for choice in every_mask(found.pairs) if cost(found, choice, context) <= budget)
    assert worth(masks) == pytest.approx(best)


@pytest.mark.slow
@pytest.mark.parametrize("removed", [0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_mask_keeps_from_the_best_down(seed, removed):
    found = few("opt", 2, {"heads": 3, "neurons": 4})
    scores = {name: value - 0.5 for name, value in random_scores(found, seed).items()}
    masks = select(found, scores, removed, scope="global", rule="threshold")
    budget = cost(found) * (1 - removed)
    best = {pair.name: int(scores[pair.name].argmax()) for pair in found}
    rest = sorted(
        (
            (float(scores[pair.name][i]), pair.name, i)
            for pair in found
            for i in range(pair.count)
            if i != best[pair.name]
        ),
        reverse=True,
    )
    expected = {pair.name: torch.arange(pair.count) == best[pair.name] for pair in found}
    for _, name, index in rest:
        larger = {key: value.clone() for key, value in expected.items()}
        larger[name][index] = True
        if cost(found, larger) > budget:
            break
        expected = larger
    assert all(torch.equal(masks[name], expected[name]) for name in expected)


def test_a_layer_whose_scores_are_lowest_is_not_emptied():
    found = structures(tiny("opt"), kinds=["neurons"])
    scores = {pair.name: torch.rand(48, generator=generator()) + 10 * pair.block for pair in found}
    for rule in ("sum", "threshold"):
        masks = select(found, scores, 0.7, scope="global", rule=rule)
        assert [int(masks[pair.name].sum()) for pair in found] == [1, 1, 7, 48]


def test_flops_and_parameters_are_different_budgets():
    found = structures(tiny("opt"))
    scores = random_scores(found)
    by_parameters, by_flops = (select(found, scores, 0.5, scope="global", context=context) for context in (None, 4096))
    assert cost(found, by_parameters) <= 0.5 * cost(found) and cost(found, by_flops, 4096) <= 0.5 * cost(
        found, context=4096
    )
    heads = [sum(int(masks[pair.name].sum()) for pair in found.of("heads")) for masks in (by_parameters, by_flops)]
    assert heads[0] != heads[1]


def test_what_no_mask_can_meet_is_refused():
    found = structures(tiny("opt"))
    scores = random_scores(found)
    with pytest.raises(UsageError, match="one in each of 8 layers must stay.*most that can be removed is 0.8"):
        select(found, scores, 0.95, scope="global")
    for removed in (-0.1, 1.0, math.nan):
        with pytest.raises(UsageError, match="share from 0"):
            select(found, scores, removed)
    for wrong in ({"scope": "layer"}, {"rule": "greedy"}):
        with pytest.raises(UsageError, match="scope is"):
            select(found, scores, 0.5, **wrong)
    with pytest.raises(UsageError, match="scores are missing"):
        select(found, {}, 0.5)
    with pytest.raises(UsageError, match=r"scores are \(3,\)"):
        select(found, scores | {found.pairs[0].name: torch.ones(3)}, 0.5)
    with pytest.raises(NumericalError, match="not finite"):
        select(found, scores | {found.pairs[0].name: torch.full((4,), math.nan)}, 0.5)
    with pytest.raises(UsageError, match="threshold"):
        select(found, {name: value - 1 for name, value in scores.items()}, 0.5, scope="global")


def test_structures_of_different_cost_need_the_threshold():
    found = structures(tiny("opt"), kinds=["neurons"])
    odd = [replace(found.pairs[0], producers=()), *found.pairs[1:]]
    with pytest.raises(UsageError, match="cost the same in every layer"):
        select(odd, random_scores(odd), 0.5, scope="global")
    masks = select(odd, random_scores(odd), 0.5, scope="global", rule="threshold")
    assert cost(odd, masks) <= 0.5 * cost(odd)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", STRUCTURED_WORDS)
def test_every_criterion_gives_masks_the_model_can_run_with(criterion):
    model = tiny("llama")
    found = structures(model)
    given = batches("llama")
    statistics, gradients = consumer_statistics(model, found, given), mask_gradients(model, found, given)
    scores = {
        pair.name: structure_scores(
            criterion, pair, Evidence(statistics[pair.name], gradients[pair.name]), generator(1)
        )
        for pair in found
    }
    masks = select(found, scores, 0.4, scope="global", rule=ranking(criterion))
    with masked(found, masks):
        assert bool(model(input_ids=given[0]["input_ids"]).logits.isfinite().all())
    assert 0.6 * cost(found) - max(pair.parameters() for pair in found) < cost(found, masks) <= 0.6 * cost(found)

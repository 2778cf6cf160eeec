"""Criteria of blocks against brute force in float64, and the choice that costs least."""

import copy
import itertools
import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from analysis.errors import DataError, NumericalError, UsageError
from analysis.models.anatomy import anatomy
from analysis.recipe.recipe import Recipe
from analysis.streams.streams import open_streams
from analysis.structured import criteria, depth_criteria
from analysis.structured.depth_criteria import DEPTH_COSTS, NOISE, Look, choose_blocks, gains, influences, last_states
from analysis.windows import Windows
from tests.helpers.encoders import encoder, examples
from tests.helpers.families import tiny
from tests.helpers.pictured import pictured
from tests.helpers.small import block_outputs, small_llama, windows

TEXT = windows(4, padded=True)


def look(model, kind: str = "blocks", text=TEXT) -> Look:
    parts = anatomy(model)
    return Look(model, parts, open_streams(model, parts, "calibration", text), len(text), kind, source)


def source(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(sum(map(ord, name)))


def double_llama():
    return small_llama(blocks=4, dtype=torch.float64)


def states(model) -> list[torch.Tensor]:
    """Hidden states at every block's input, and behind the last."""
    return [model.model.embed_tokens(TEXT.ids), *block_outputs(model, TEXT)]


def test_the_angle_is_that_of_the_last_tokens_that_count():
    """Of text and of pictures alone; a window without such tokens counts for nothing."""
    model, given = pictured("llava", padded=True)
    parts = anatomy(model)
    given.pictures.at[1] = False
    for tokens, picked in (("text", [19, 19, 14]), ("image", [6, None, 6])):
        streams = open_streams(model, parts, "calibration", given, tokens=tokens)
        rows = [row for row, place in enumerate(picked) if place is not None]
        expected = streams.dense[rows, [picked[row] for row in rows]].double()
        torch.testing.assert_close(last_states(Look(model, parts, streams, 3, "blocks", source))[0], expected)


def middle(model) -> list[torch.Tensor]:
    """The residual stream between the halves of every block."""
    found = []
    hooks = [
        layer.post_attention_layernorm.register_forward_pre_hook(lambda module, args: found.append(args[0]))
        for layer in model.model.layers
    ]
    model(input_ids=TEXT.ids, attention_mask=TEXT.mask.long(), use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def test_influence_is_what_hooks_see():
    model = double_llama()
    stream, between = states(model), middle(model)
    pairs = {
        "blocks": list(itertools.pairwise(stream)),
        "attention": list(zip(stream, between, strict=False)),
        "mlp": list(zip(between, stream[1:], strict=True)),
    }
    for kind, both in pairs.items():
        expected = [float((1 - cosine_similarity(a[TEXT.mask], b[TEXT.mask], dim=-1)).mean()) for a, b in both]
        torch.testing.assert_close(influences(look(model, kind)), expected)


def test_the_angle_is_between_the_last_real_tokens_before_and_behind_a_run():
    model = double_llama()
    stream, cost = states(model), DEPTH_COSTS["angular"](look(model))
    last = TEXT.mask.sum(1) - 1
    picked = [hidden[torch.arange(len(TEXT)), last] for hidden in stream]
    torch.testing.assert_close(last_states(look(model)), torch.stack(picked))
    for run in ([0], [1, 2], [0, 1, 2, 3]):
        angles = cosine_similarity(picked[run[0]], picked[run[-1] + 1], dim=-1).arccos() / math.pi
        assert cost(run) == pytest.approx(float(angles.mean()))


def test_the_gain_is_the_error_behind_over_the_error_before():
    model = double_llama()
    measured = gains(look(model))
    for index, (layer, x) in enumerate(zip(model.model.layers, states(model), strict=False)):
        noise = torch.randn(x.shape, generator=source(f"model.layers.{index}"), dtype=torch.float64)
        error = noise * TEXT.mask[..., None] * NOISE * x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
        kwargs = {}
        hook = layer.register_forward_pre_hook(lambda m, args, given, kept=kwargs: kept.update(given), with_kwargs=True)
        model(input_ids=TEXT.ids, attention_mask=TEXT.mask.long(), use_cache=False)
        hook.remove()
        kwargs.pop("past_key_values", None)
        kwargs.pop("hidden_states", None)
        change = (layer(x + error, **kwargs) - layer(x, **kwargs))[TEXT.mask]
        assert measured[index] == pytest.approx(abs(float(change.norm() / error[TEXT.mask].norm()) - 1), rel=1e-9)


def without(model, kind: str, numbers) -> torch.nn.Module:
    """The model with blocks deleted, or with zeros in a half's last matrix."""
    small = copy.deepcopy(model)
    for index in sorted(numbers, reverse=True):
        layer = small.model.layers[index]
        if kind == "blocks":
            del small.model.layers[index]
        else:
            torch.nn.init.zeros_((layer.self_attn.o_proj if kind == "attention" else layer.mlp.down_proj).weight)
    return small


@torch.no_grad()
def own_loss(model) -> float:
    labels = TEXT.ids.masked_fill(~TEXT.mask, -100)
    return float(model(input_ids=TEXT.ids, attention_mask=TEXT.mask.long(), labels=labels, use_cache=False).loss)


@pytest.mark.parametrize("kind", ["blocks", "attention", "mlp"])
def test_the_loss_is_that_of_the_model_without_them(kind):
    model = double_llama()
    cost = DEPTH_COSTS["perplexity"](look(model, kind))
    for numbers in ([], [2], [0, 3]):
        assert cost(numbers) == pytest.approx(own_loss(without(model, kind, numbers)), rel=1e-9)


@pytest.mark.parametrize("portion", [None, 0])
def test_the_loss_is_the_same_on_whatever_side_the_padding_stands(portion, monkeypatch):
    """Nothing is predicted from padding; as one forward, and where logits are made in parts."""
    if portion is not None:
        monkeypatch.setattr(criteria, "portion", lambda size: portion)
    model = double_llama()
    order = TEXT.mask.int().argsort(dim=1, stable=True)
    left = Windows(TEXT.ids.gather(1, order), TEXT.mask.gather(1, order))
    costs = [DEPTH_COSTS["perplexity"](look(model, "blocks", text))([1]) for text in (TEXT, left)]
    assert costs[0] == pytest.approx(costs[1], rel=1e-6)
    assert costs[0] == pytest.approx(own_loss(without(model, "blocks", [1])), rel=1e-6)


@pytest.mark.slow
def test_blocks_go_one_after_the_other_by_the_loss():
    model = double_llama()
    gone: list[int] = []
    for _ in range(2):
        left = [index for index in range(4) if index not in gone]
        gone.append(min(left, key=lambda index: own_loss(without(model, "blocks", [*gone, index]))))
    assert chosen("perplexity-blocks-2 LR", look(model)) == sorted(gone)
    run = min(([i, i + 1] for i in range(3)), key=lambda run: own_loss(without(model, "blocks", run)))
    assert chosen("perplexity-blocks-2[contiguous=true] LR", look(model)) == run


def chosen(text: str, seen: Look) -> list[int]:
    recipe = Recipe.parse(text)
    return choose_blocks(recipe.criterion, recipe.pattern, seen)


def test_the_cheapest_set_or_run_goes_and_of_equal_ones_the_deepest(monkeypatch):
    seen = look(small_llama(blocks=6))
    costs = [3.0, 1.0, 5.0, 2.0, 2.0, 5.0]
    monkeypatch.setitem(DEPTH_COSTS, "influence", lambda look: depth_criteria.summed(costs))
    assert chosen("influence-blocks-1 LR", seen) == [1]
    assert chosen("influence-blocks-2 LR", seen) == [1, 4]
    assert chosen("influence-blocks-3[skip=1] LR", seen) == [0, 3, 4]
    assert chosen("influence-blocks-2[contiguous=true] LR", seen) == [3, 4]
    assert chosen("influence-blocks-2[contiguous=true,skip=3] LR", seen) == [0, 1]
    assert chosen("influence-blocks-0% LR", seen) == []
    assert chosen("deepest-blocks-2[skip=last:1] LR", seen) == [3, 4]
    monkeypatch.setitem(DEPTH_COSTS, "influence", lambda look: depth_criteria.summed([math.nan] * 6))
    with pytest.raises(NumericalError, match="taking out blocks 0 is no number"):
        chosen("influence-blocks-1 LR", seen)


def test_random_blocks_follow_the_seed():
    seen = look(small_llama(blocks=6))
    expected = sorted(
        range(6), key=lambda i: float(torch.rand((), generator=source(f"model.layers.{i}"), dtype=torch.float64))
    )
    assert chosen("random-blocks-3 LR", seen) == sorted(expected[:3])


@pytest.mark.slow
def test_padding_changes_no_cost():
    model = tiny("gpt2")
    for criterion, kind in (
        ("influence", "mlp"),
        ("gain", "blocks"),
        ("angular", "blocks"),
        ("perplexity", "attention"),
    ):
        costs = []
        for fill in (0, 7):
            text = windows(4, padded=True, vocabulary=64)
            text.ids[~text.mask] = fill
            costs.append(DEPTH_COSTS[criterion](look(model, kind, text))([1]))
        assert costs[0] == pytest.approx(costs[1], rel=1e-5), criterion


def test_the_loss_of_an_encoder_is_that_of_its_task():
    model, text = encoder("bert"), examples("bert")
    cost = DEPTH_COSTS["perplexity"](look(model, "blocks", text))
    batch = dict(input_ids=text.ids, attention_mask=text.mask.long(), token_type_ids=text.types)
    assert cost([]) == pytest.approx(float(model(**batch, labels=text.answers.labels).loss), rel=1e-5)
    with pytest.raises(DataError, match="criterion perplexity"):
        DEPTH_COSTS["perplexity"](look(model, "blocks", windows(2, vocabulary=60)))


def test_too_many_are_refused_by_name():
    with pytest.raises(UsageError, match="at most 2 can go"):
        chosen("influence-blocks-3 LR", look(small_llama(blocks=3)))

"""Repairs of a cut against brute force in float64: sums, refit, linear replacement, patches."""

import pytest
import torch

from analysis.errors import UnsupportedModel
from analysis.models.anatomy import anatomy
from analysis.pruning.checks import witnesses
from analysis.recipe.parts import Repair
from analysis.streams.moments import Accumulator, Sums
from analysis.streams.streams import open_streams
from analysis.structured.depth_repair import (
    check_added,
    cut_sums,
    ghost_sums,
    last_projection,
    repair_projection,
    through,
)
from tests.helpers.encoders import encoder
from tests.helpers.families import tiny
from tests.helpers.pictured import pictured
from tests.helpers.small import block_outputs, small_llama, windows

TOKENS, IN, OUT = 200, 12, 5


def drawn(seed: int = 0, bias: bool = True):
    """Inputs, wanted outputs, weight and bias, and the sums of the first two; float64."""
    source = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=source, dtype=torch.float64)
    x, weight, b = draw(TOKENS, IN) + 0.3, draw(OUT, IN), draw(OUT) if bias else None
    y = x @ draw(IN, OUT) + 0.5 * draw(TOKENS, OUT) + 1
    sums = Accumulator(Sums.PARTS, IN, OUT, precision=torch.float64)
    sums.add(x, y)
    return x, y, weight, b, Sums.of(sums, "matrix")


def error(y, x, weight, bias) -> float:
    return float((y - x @ weight.T - (0 if bias is None else bias)).square().mean())


def ridge(x, y, start, share: float):
    """argmin |y - x W'|^2 + penalty |W - start|^2 by an augmented least-squares problem; the penalty is a share of the
    mean diagonal of the second moments of x."""
    penalty = (share * x.square().sum(0).mean()) ** 0.5
    rows = torch.cat([x, penalty * torch.eye(x.shape[1], dtype=x.dtype)])
    wanted = torch.cat([y, penalty * start.T])
    return torch.linalg.lstsq(rows, wanted, driver="gelsd").solution.T


@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_refit_is_the_ridge_regression_towards_the_weight_as_it_is(penalty):
    x, y, weight, _, sums = drawn(bias=False)
    repaired = repair_projection(Repair("refit", penalty=penalty), weight, None, sums, None, "matrix")
    expected = ridge(x, y, weight, penalty)
    torch.testing.assert_close(repaired.weight, expected, rtol=1e-8, atol=1e-10)
    assert repaired.bias is None and repaired.loss_after == pytest.approx(error(y, x, expected, None))
    assert repaired.loss_before == pytest.approx(error(y, x, weight, None))


def test_refit_of_a_projection_with_a_bias_moves_it_too():
    x, y, weight, bias, sums = drawn()
    repaired = repair_projection(Repair("refit", penalty=0.0), weight, bias, sums, None, "matrix")
    best = torch.linalg.lstsq(torch.cat([x, torch.ones(TOKENS, 1, dtype=x.dtype)], 1), y).solution.T
    torch.testing.assert_close(repaired.weight, best[:, :-1], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(repaired.bias, best[:, -1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("with_bias", [True, False])
def test_replace_is_one_linear_map_of_the_output(penalty, with_bias):
    x, y, weight, bias, sums = drawn(bias=with_bias)
    z = x @ weight.T + (bias if with_bias else 0)
    linear = ridge(z, y, torch.eye(OUT, dtype=x.dtype), penalty)
    repaired = repair_projection(Repair("replace", penalty=penalty), weight, bias, sums, None, "matrix")
    torch.testing.assert_close(repaired.weight, linear @ weight, rtol=1e-8, atol=1e-10)
    if with_bias:
        torch.testing.assert_close(repaired.bias, linear @ bias, rtol=1e-8, atol=1e-10)
    assert repaired.loss_after == pytest.approx(error(y, z, linear, None))


def test_patches_are_one_scale_or_one_constant_for_each_output():
    x, y, weight, bias, sums = drawn()
    z = x @ weight.T + bias
    scales = (y * z).sum(0) / z.square().sum(0)
    scaled = repair_projection(Repair("patch"), weight, bias, sums, None, "matrix")
    torch.testing.assert_close(scaled.weight, scales[:, None] * weight)
    torch.testing.assert_close(scaled.bias, scales * bias)
    moved = repair_projection(Repair("patch", form="bias"), weight, bias, sums, None, "matrix")
    assert torch.equal(moved.weight, weight)
    torch.testing.assert_close(moved.bias, bias + (y - z).mean(0))


def test_the_larger_the_class_the_smaller_the_error():
    _, _, weight, bias, sums = drawn()
    after = lambda how: repair_projection(how, weight, bias, sums, None, "matrix").loss_after
    ladder = [after(Repair("refit", penalty=0.0)), after(Repair("replace", penalty=0.0)), after(Repair("patch"))]
    assert ladder == sorted(ladder) and len(set(ladder)) == 3


def test_held_out_text_chooses_the_penalty():
    (x, y, weight, _, sums), (_, _, _, _, other) = drawn(bias=False), drawn(1, bias=False)
    repaired = repair_projection(Repair("refit", penalty="held-out"), weight, None, sums, other, "matrix")
    losses = {share: other.loss(ridge(x, y, weight, share), None) for share in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)}
    assert repaired.penalty == min(losses, key=losses.get)
    assert repaired.held_out == pytest.approx(min(losses.values()))


def test_the_sums_of_what_a_projection_gives():
    x, y, weight, bias, sums = drawn()
    z = x @ weight.T + bias
    again = through(sums, weight, bias)
    torch.testing.assert_close((again.gram, again.inputs, again.cross), (z.T @ z, z.sum(0), y.T @ z))


def test_a_projection_is_asked_for_what_the_dense_run_gives_less_the_residual():
    model, text = small_llama(blocks=4, dtype=torch.float64), windows(3, padded=True)
    parts, seen = anatomy(model), {}
    layer = model.model.layers[1]
    layer.mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.__setitem__("x", args[0]))
    layer.post_attention_layernorm.register_forward_pre_hook(lambda module, args: seen.__setitem__("r", args[0]))
    outputs = block_outputs(model, text)
    x, y = seen["x"][text.mask], (outputs[3] - seen["r"])[text.mask]
    streams = open_streams(model, parts, "calibration", text)
    hidden = outputs[0]
    matrix = last_projection(parts.blocks[1], "blocks")
    sums = cut_sums(parts.blocks[1], matrix, parts.blocks[1:4], streams.recording, hidden, hidden)
    torch.testing.assert_close((sums.gram, sums.cross, sums.outputs), (x.T @ x, y.T @ x, y.sum(0)))
    ghost = ghost_sums(parts.blocks[1:4], streams.recording, hidden, hidden)
    h, t = hidden[text.mask], outputs[3][text.mask]
    torch.testing.assert_close((ghost.gram, ghost.cross, ghost.outputs), (h.T @ h, t.T @ h, t.sum(0)))
    assert matrix.name == "mlp.down_proj" and last_projection(parts.blocks[1], "mlp").name == "self_attn.o_proj"


@pytest.mark.parametrize("tokens", ["all", "text", "image"])
def test_sums_are_over_the_tokens_that_count(tokens):
    model, given = pictured("llava", padded=True)
    parts = anatomy(model)
    streams, block = open_streams(model, parts, "calibration", given, tokens=tokens), parts.blocks[0]
    cut = cut_sums(block, last_projection(block, "blocks"), [block], streams.recording, streams.dense, streams.dense)
    ghost = ghost_sums([block], streams.recording, streams.dense, streams.dense)
    assert cut.tokens == ghost.tokens == int(given.which(tokens).sum())


@pytest.mark.parametrize("kind", ["blocks", "mlp"])
def test_what_is_not_added_as_it_is_is_refused_by_name(kind):
    def check(model):
        text = windows(2, vocabulary=60)
        parts = anatomy(model)
        recording = open_streams(model, parts, "calibration", text).recording
        check_added(parts, kind, recording, witnesses(text))

    for model in (tiny("llama"), tiny("gpt2"), tiny("opt")):
        check(model)
    for model, name in ((tiny("gemma3"), "model.layers.0"), (encoder("bert"), "bert.encoder.layer.0")):
        with pytest.raises(UnsupportedModel, match=rf"{name}\.\S+ gives is not added to the residual stream as it is"):
            check(model)

"""The gradient solver against plain loops that multiply by the mask in the forward; selection, schedule, retraining,
errors.
"""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.func import functional_call

from analysis.errors import NumericalError, UsageError
from analysis.models.anatomy import anatomy
from analysis.models.block_arguments import HIDDEN
from analysis.models.replay import record, run
from analysis.recipe.parts import Solver
from analysis.reconstruction.gradient import held_bytes, learning_rate, reconstruct, unit_error
from analysis.reconstruction.losses import LOSSES
from analysis.reconstruction.targets import Problem
from analysis.reconstruction.units import Piece, whole_model
from tests.helpers.gradient import block_piece, block_problem, case, pruned, solve, weights
from tests.helpers.small import small_llama, windows


def whole_piece(model) -> Piece:
    return whole_model(model, dict(anatomy(model).matrices()))


def text_problem(model, targets=None, label="calibration", seed=0, count=8, padded=False) -> Problem:
    """Windows of ids that follow each other mod 90, so that there is something to learn; targets: the ids unless
    given.
    """
    w = windows(count, seed=seed, padded=padded)
    ids = (torch.arange(w.length) + w.ids[:, :1]) % 90 + 1
    recording = record(model, anatomy(model), replace(w, ids=ids * w.mask))
    return Problem(label, recording.ids, recording.ids if targets is None else targets, recording)


def plain_loop(piece, masks, problem, solver, seed, dtype, optimiser_of):
    """Mask times weight in the forward of block 0, autograd and a torch optimiser; returns the effective weights."""
    (block,) = piece.modules
    by_name = {name: masks.get(parameter) for name, parameter in block.named_parameters()}
    block = copy.deepcopy(block).to(dtype)
    parameters = {name: p.detach().requires_grad_(True) for name, p in block.named_parameters()}

    def effective():
        return {name: p if by_name[name] is None else p * by_name[name] for name, p in parameters.items()}

    optimiser = optimiser_of(
        parameters.values(), lr=solver.lr, betas=(solver.beta1, solver.beta2), eps=solver.eps, weight_decay=0
    )
    batches = math.ceil(len(problem) / solver.batch)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(solver.epochs):
        order = torch.randperm(len(problem), generator=generator) if solver.shuffle else torch.arange(len(problem))
        for batch, rows in enumerate(order.split(solver.batch)):
            call = problem.recording.call(0, rows)
            kwargs = {k: tuple(t.to(dtype) for t in v) if isinstance(v, tuple) else v for k, v in call.kwargs.items()}
            args = tuple(problem.inputs[rows].to(dtype) if value is HIDDEN else value for value in call.args)
            output = functional_call(block, effective(), args, kwargs)
            output = output[0] if isinstance(output, tuple) else output
            mask = problem.recording.mask[rows]
            optimiser.zero_grad()
            LOSSES[solver.loss](output, problem.targets[rows].to(dtype), None if mask.all() else mask).backward()
            if solver.clip:
                torch.nn.utils.clip_grad_norm_(parameters.values(), solver.clip)
            optimiser.param_groups[0]["lr"] = learning_rate(solver, epoch * batches + batch, batches * solver.epochs)
            optimiser.step()
    return {name: value.detach() for name, value in effective().items()}


def fused_adam(*args, **kwargs):
    return torch.optim.Adam(*args, **kwargs, fused=True)


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
def test_paper_1_equals_a_plain_loop_bit_for_bit(padded):
    piece, masks, problem = case(padded=padded)
    problem.recording.lengths = None  # bits are those of the same shapes
    solver = Solver("gradient", epochs=3, batch=4, lr=1e-3)
    expected = plain_loop(piece, masks, problem, solver, 5, torch.float32, fused_adam)
    solve(piece, masks, problem, solver, seed=5)
    for name, value in weights(piece).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
def test_equals_masking_in_the_forward_in_float64(padded):
    piece, masks, problem = case(padded=padded)
    solver = Solver("gradient", epochs=3, batch=4, lr=1e-3)
    expected = plain_loop(piece, masks, problem, solver, 5, torch.float64, torch.optim.AdamW)
    solve(piece, masks, problem, solver, seed=5)
    for name, value in weights(piece).items():
        # Adam's first steps have size lr whatever the gradient's, so float32 rounding shows at that scale
        torch.testing.assert_close(
            value.double(), expected[name], atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"clip": 0.01},
        {"warmup": 0.4},
        {"shuffle": False},
        {"loss": "relative"},
        {"loss": "cosine"},
        {"clip": 0.02, "warmup": 0.2, "loss": "relative"},
    ],
    ids=str,
)
def test_every_option_equals_the_plain_loop_and_does_something(options):
    piece, masks, problem = case(padded=True)
    problem.recording.lengths = None  # bits are those of the same shapes
    solver = Solver("gradient", epochs=2, batch=3, lr=1e-3, **options)
    expected = plain_loop(piece, masks, problem, solver, 5, torch.float32, fused_adam)
    default = plain_loop(
        piece, masks, problem, Solver("gradient", epochs=2, batch=3, lr=1e-3), 5, torch.float32, fused_adam
    )
    solve(piece, masks, problem, solver, seed=5)
    for name, value in weights(piece).items():
        assert torch.equal(value, expected[name]), name
    assert not torch.equal(expected["mlp.up_proj.weight"], default["mlp.up_proj.weight"])


@pytest.mark.slow
def test_error_falls_and_zeros_stay():
    piece, masks, problem = case()
    before, _ = unit_error(piece, problem)
    steps = solve(piece, masks, problem, Solver("gradient", epochs=20, batch=4, lr=5e-3))
    after, scale = unit_error(piece, problem)
    assert after < 0.5 * before
    assert steps[0].error == pytest.approx(before, rel=1e-5)
    assert steps[-1].relative_error == pytest.approx(steps[-1].error / scale, rel=1e-5)
    assert [(step.epoch, step.step) for step in steps] == [(epoch, 3 * epoch) for epoch in range(21)]
    for parameter, mask in masks.items():
        assert torch.equal(parameter != 0, mask)
    assert not any(p.requires_grad or p.grad is not None for p in piece.parameters())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits():
    results = []
    for seed in (1, 1, 2):
        piece, masks, problem = case()
        steps = solve(piece, masks, problem, Solver("gradient", epochs=2, batch=4), seed=seed)
        results.append((steps, weights(piece)))
    assert results[0][0] == results[1][0] and all(
        torch.equal(value, results[1][1][name]) for name, value in results[0][1].items()
    )
    assert any(not torch.equal(value, results[2][1][name]) for name, value in results[0][1].items())


@pytest.mark.slow
def test_the_epochs_error_is_the_mean_over_its_real_tokens():
    """At a rate too small to matter, with uneven batches of unevenly padded windows, every epoch has the error of the
    start.
    """
    piece, masks, problem = case(padded=True)
    for loss in ("mse", "relative", "cosine"):
        steps = solve(piece, masks, problem, Solver("gradient", epochs=2, batch=4, lr=1e-12, loss=loss))
        for step in steps:
            assert step.error == pytest.approx(unit_error(piece, problem)[0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["relative", "cosine"])
def test_other_losses_fall_too(loss):
    piece, masks, problem = case()

    def value():
        return float(LOSSES[loss](piece.run(problem.recording, problem.inputs, slice(None)), problem.targets))

    before = value()
    solve(piece, masks, problem, Solver("gradient", epochs=20, batch=4, lr=5e-3, loss=loss))
    assert value() < 0.5 * before


def test_shuffle_off_takes_windows_in_their_order():
    orders = []
    for shuffle in (False, True):
        piece, masks, problem = case()
        seen, inner = [], piece.run
        watched = replace(
            piece, run=lambda recording, hidden, rows: (seen.append(rows), inner(recording, hidden, rows))[1]
        )
        generator = torch.Generator().manual_seed(0)
        before = generator.get_state()
        reconstruct(watched, masks, problem, [], Solver("gradient", epochs=2, batch=4, shuffle=shuffle), generator)
        assert torch.equal(before, generator.get_state()) == (not shuffle)
        orders.append([row for rows in seen if isinstance(rows, torch.Tensor) for row in rows.tolist()])
    assert orders[0] == [*range(10)] * 2
    assert orders[1] != orders[0] and sorted(orders[1][:10]) == sorted(orders[1][10:]) == [*range(10)]


def test_learning_rate():
    plain, warm = Solver("gradient", lr=2.0), Solver("gradient", lr=2.0, warmup=0.3)
    assert [learning_rate(plain, step, 4) for step in range(4)] == [2.0, 1.5, 1.0, 0.5]
    expected = [0.5, 1.0, 1.5, *(2 * left / 7 for left in range(7, 0, -1))]
    assert [learning_rate(warm, step, 10) for step in range(10)] == pytest.approx(expected, rel=1e-15)
    assert learning_rate(warm, 0, 1) == 2.0, "less than half a step is none"


def test_padding_does_not_enter_the_error():
    piece, _, problem = case(padded=True)
    error, scale = unit_error(piece, problem)
    output = run(piece.modules[0], problem.inputs, problem.recording.call(0, slice(None)))
    real = problem.recording.mask
    assert error == pytest.approx(float((output - problem.targets)[real].double().square().mean()), rel=1e-5)
    assert scale == pytest.approx(float(problem.targets[real].double().square().mean()), rel=1e-5)


@pytest.mark.slow
def test_half_precision_is_solved_in_float32():
    piece, masks, problem = case(dtype=torch.bfloat16)

    def error():
        single = small_llama()
        single.model.layers[0].load_state_dict(piece.modules[0].state_dict())
        return unit_error(block_piece(single), problem)[0]

    before = error()
    solve(piece, masks, problem, Solver("gradient", epochs=10, lr=5e-3))
    assert {p.dtype for p in piece.parameters()} == {torch.bfloat16}
    assert error() < before
    assert all(bool((parameter[~mask] == 0).all()) for parameter, mask in masks.items())


def test_hosts_get_their_own_precision_back():
    """A whole model in bfloat16 keeps its rotary frequencies in float32, to the bit."""
    model = small_llama(dtype=torch.bfloat16)
    model.model.rotary_emb.inv_freq = small_llama().model.rotary_emb.inv_freq.clone()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    piece, problem = whole_piece(model), text_problem(small_llama())
    solve(piece, pruned(piece), problem, Solver("retrain", epochs=1))
    assert {name: parameter.dtype for name, parameter in model.named_parameters()} == dtypes
    assert any(buffer.dtype == torch.float32 for buffer in buffers.values())
    for name, buffer in model.named_buffers():
        assert buffer.dtype == buffers[name].dtype and torch.equal(buffer, buffers[name])


# --- what is trained -------------------------------------------------------------------------------------------------


def test_norms_and_biases_alone_change_nothing_else():
    piece, masks, problem = case()
    before, error = weights(piece), unit_error(piece, problem)[0]
    solve(piece, masks, problem, Solver("gradient", epochs=5, batch=4, lr=1e-2, train="norms-biases"))
    changed = {name for name, value in weights(piece).items() if not torch.equal(value, before[name])}
    assert changed == {"input_layernorm.weight", "post_attention_layernorm.weight"}
    assert unit_error(piece, problem)[0] < error


def test_only_the_piece_changes():
    """A piece of one matrix, hosted by its block."""
    piece, masks, problem = case()
    block = piece.modules[0]
    part = replace(
        piece,
        modules=(block.mlp.down_proj,),
        matrices={k: m for k, m in piece.matrices.items() if k.endswith("down_proj")},
    )
    before, asking, inner = weights(piece), set(), part.run

    def watched(*arguments):
        asking.update(name for name, parameter in block.named_parameters() if parameter.requires_grad)
        return inner(*arguments)

    solve(
        replace(part, run=watched),
        {block.mlp.down_proj.weight: masks[block.mlp.down_proj.weight]},
        problem,
        Solver("gradient", epochs=1),
    )
    assert {name for name, value in weights(piece).items() if not torch.equal(value, before[name])} == {
        "mlp.down_proj.weight"
    }
    assert asking == {"mlp.down_proj.weight"}, "gradients of anything else would be paid for and thrown away"
    with pytest.raises(UsageError, match="block 0 has neither norms nor biases"):
        solve(part, {}, problem, Solver("gradient", train="norms-biases"))


@pytest.mark.parametrize("options", [{}, {"train": "masklora", "rank": 4}])
def test_the_loss_per_token_does_not_follow_a_massive_one(options):
    """One token's target is a thousand times as long: the mean square fits it alone, `relative` the others."""
    left = {}
    for loss in ("mse", "relative"):
        piece, masks, problem = case(count=4)
        problem.targets = problem.targets.clone()
        problem.targets[0, 0] *= 1000
        others = problem.recording.mask.clone()
        others[0, 0] = False

        def error(piece=piece, problem=problem, others=others) -> float:
            with torch.no_grad():
                output = piece.run(problem.recording, problem.inputs, slice(0, 4))
            return float(LOSSES["relative"](output, problem.targets, others))

        before = error()
        solve(piece, masks, problem, Solver("gradient", epochs=10, batch=2, lr=5e-3, loss=loss, **options))
        left[loss] = error() / before
    assert left["relative"] < 0.95 and left["relative"] < 0.9 * left["mse"], left


# --- selection -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_held_out_selection_keeps_the_best_epoch():
    piece, masks, problem = case(count=4)
    held_out = block_problem(small_llama(), "other", seed=9)
    steps = solve(
        piece, masks, problem, Solver("gradient", epochs=30, batch=2, lr=3e-2, select="held-out"), validation=held_out
    )
    errors = [step.error for step in steps if step.split == "other"]
    assert len(errors) == 31 and min(errors) < errors[-1]
    assert unit_error(piece, held_out)[0] == pytest.approx(min(errors), rel=1e-6)
    assert all(torch.equal(parameter != 0, mask) for parameter, mask in masks.items())


def test_calibration_selection_keeps_the_best_epoch_and_records_it():
    piece, masks, problem = case(count=4)
    steps = solve(piece, masks, problem, Solver("gradient", epochs=3, batch=1, lr=5e-3, select="calibration"))
    errors = [step.error for step in steps]
    assert min(errors) < errors[0]
    assert unit_error(piece, problem)[0] == pytest.approx(min(errors), rel=1e-6)


@pytest.mark.slow
def test_the_start_is_kept_where_every_epoch_is_worse():
    piece, masks, problem = case()
    before = weights(piece)
    for options in ({"select": "calibration"}, {"select": "held-out"}):
        solve(
            piece,
            masks,
            problem,
            Solver("gradient", epochs=2, lr=3.0, **options),
            validation=block_problem(small_llama(), "other", seed=9),
        )
        assert all(torch.equal(value, before[name]) for name, value in weights(piece).items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "every, seen", [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (5, [0, 5]), (9, [0, 5]), ("end", [5])]
)
def test_held_out_error_is_taken_as_often_as_asked_and_decides_nothing(every, seen):
    piece, masks, problem = case(count=4)
    others = [
        block_problem(small_llama(), label, seed=seed, count=2) for label, seed in (("reported", 8), ("other", 9))
    ]
    solver = Solver("gradient", epochs=5, batch=2, lr=3e-2, select="held-out")
    steps = solve(piece, masks, problem, solver, others[0], validation=others[1], every=every)
    assert [step.epoch for step in steps if step.split == "reported"] == seen
    judged = [step.error for step in steps if step.split == "other"]
    assert len(judged) == 6 and unit_error(piece, others[1])[0] == pytest.approx(min(judged), rel=1e-6)
    alone, masks, _ = case(count=4)
    solve(alone, masks, problem, solver, validation=others[1])
    assert all(torch.equal(value, weights(alone)[name]) for name, value in weights(piece).items())


@pytest.mark.slow
def test_patience_stops_and_the_schedule_is_that_of_all_epochs():
    runs = []
    for patience in (0, 2):
        piece, masks, problem = case(count=4)
        held_out = block_problem(small_llama(), "other", seed=9)
        solver = Solver("gradient", epochs=30, batch=2, lr=3e-2, select="held-out", patience=patience)
        runs.append((solve(piece, masks, problem, solver, validation=held_out), unit_error(piece, held_out)[0]))
    (full, _), (stopped, error) = runs
    assert stopped == full[: len(stopped)] and len(stopped) < len(full)
    others = [step.error for step in stopped if step.split == "other"]
    best = others.index(min(others))
    assert len(others) - 1 == best + 2
    assert error == pytest.approx(others[best], rel=1e-6)


def test_selection_without_validation_is_refused():
    piece, masks, problem = case()
    with pytest.raises(UsageError, match="select=held-out needs windows to select on"):
        solve(piece, masks, problem, Solver("gradient", select="held-out"), block_problem(small_llama(), "other"))


# --- errors ----------------------------------------------------------------------------------------------------------


def beyond_bounds(solver, lr):
    """A solver with a rate that no recipe may have."""
    object.__setattr__(solver, "lr", lr)
    return solver


def test_divergence_is_an_error_that_names_the_piece():
    piece, masks, problem = case()
    with pytest.raises(NumericalError, match="gradient reconstruction of block 0.*epoch 2.*lower lr .now 1e.30"):
        solve(piece, masks, problem, beyond_bounds(Solver("gradient", epochs=3, batch=10), 1e30))
    assert not any(p.requires_grad or p.grad is not None for p in piece.parameters())


def test_a_loss_that_overflows_is_an_error_though_the_squares_are_finite():
    piece, masks, problem = case()
    problem.targets = problem.targets.clone()
    problem.targets[0, 0] = 2e-20 * torch.ones(32)  # its square, 1.28e-38, is just above the smallest normal number
    assert math.isfinite(unit_error(piece, problem)[0])
    with pytest.raises(NumericalError, match="the loss is not finite in epoch 1"):
        solve(piece, masks, problem, Solver("gradient", epochs=1, batch=10, loss="relative"))


def test_results_that_overflow_the_models_precision_are_an_error():
    piece, masks, problem = case(dtype=torch.float16)
    with pytest.raises(NumericalError, match="a result is not finite in torch.float16"):
        solve(piece, masks, problem, beyond_bounds(Solver("gradient", epochs=1, batch=10), 1e6))


def test_non_finite_inputs_are_named_before_training():
    piece, masks, problem = case()
    other = block_problem(small_llama(), "other", seed=9)
    other.targets = other.targets.clone()
    other.targets[3, 2, 1] = math.inf
    with pytest.raises(NumericalError, match="error on 'other' is not finite after epoch 0"):
        solve(piece, masks, problem, Solver("gradient"), other)


# --- retraining ------------------------------------------------------------------------------------------------------


def test_retraining_equals_direct_training_under_masks():
    """Against the model's own loss with its labels, float64, mask times weight in the forward."""
    model = small_llama(blocks=2)
    piece = whole_piece(model)
    masks = pruned(piece)
    problem = text_problem(model, padded=True)
    solver = Solver("retrain", epochs=2, batch=3, lr=1e-3)
    reference = copy.deepcopy(model).double()
    kept = {name: masks[p].double() if p in masks else 1 for name, p in model.named_parameters()}
    parameters = {name: p.detach().requires_grad_(True) for name, p in reference.named_parameters()}
    optimiser = torch.optim.Adam(parameters.values(), lr=solver.lr, betas=(0.9, 0.95), eps=1e-8)
    generator, step, losses = torch.Generator().manual_seed(5), 0, []
    for _ in range(2):
        for rows in torch.randperm(8, generator=generator).split(3):
            ids, mask = problem.inputs[rows], problem.recording.mask[rows]
            batch = {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, -100)}
            loss = functional_call(reference, {n: p * kept[n] for n, p in parameters.items()}, (), batch).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.param_groups[0]["lr"] = solver.lr * (6 - step) / 6
            optimiser.step()
            losses.append((loss.item(), int((mask[:, 1:] & mask[:, :-1]).sum())))
            step += 1
    steps = solve(piece, masks, problem, solver, seed=5)
    for name, parameter in model.named_parameters():
        expected = (parameters[name] * kept[name]).detach()
        torch.testing.assert_close(
            parameter.double(), expected, atol=5e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    first = sum(loss * count for loss, count in losses[:3]) / sum(count for _, count in losses[:3])
    assert steps[1].error == pytest.approx(first, rel=1e-4)
    assert all(torch.equal(parameter != 0, mask) for parameter, mask in masks.items())


@pytest.mark.slow
def test_retraining_lowers_the_nats_of_the_text():
    model = small_llama(blocks=1)
    piece = whole_piece(model)
    masks, held_out = pruned(piece), text_problem(model, label="other", seed=4)
    steps = solve(
        piece,
        masks,
        text_problem(model, count=16),
        Solver("retrain", epochs=10, batch=4, lr=1e-2, select="held-out"),
        validation=held_out,
    )
    nats = [step.error for step in steps if step.split == "other"]
    assert min(nats) < 0.7 * nats[0] and all(math.isnan(step.relative_error) for step in steps)
    assert unit_error(piece, held_out, "ce")[0] == pytest.approx(min(nats), rel=1e-6)


def follow(dense, problem: Problem) -> Problem:
    """The problem of following the dense model, whose outputs are computed when asked for."""
    piece = whole_piece(dense)
    problem.targets = lambda rows: piece.run(problem.recording, problem.inputs[rows], rows)
    problem.head = piece.head
    return problem


def whole_logits(model, problem: Problem) -> torch.Tensor:
    piece = whole_piece(model)
    return piece.head.logits(piece.run(problem.recording, problem.inputs, slice(None)))


@pytest.mark.slow
def test_distillation_stays_at_the_dense_model_and_returns_to_it():
    dense = small_llama(blocks=1)
    problem = follow(dense, text_problem(dense, padded=True))
    same = whole_piece(small_llama(blocks=1))
    assert unit_error(same, problem, "distill")[0] == pytest.approx(0, abs=1e-6)
    piece = whole_piece(small_llama(blocks=1))
    masks = pruned(piece)
    steps = solve(piece, masks, problem, Solver("retrain", objective="distill", epochs=15, batch=4, lr=5e-3))
    assert steps[-1].error < 0.2 * steps[0].error
    assert steps[0].error == pytest.approx(unit_error(whole_after(pruned), problem, "distill")[0], rel=1e-6)


def test_following_hidden_states_lowers_what_autograd_says_and_is_nothing_at_the_dense_model():
    dense = small_llama(blocks=1)
    problem = follow(dense, text_problem(dense, padded=True))
    problem.head, problem.mix = None, 1.0
    assert unit_error(whole_piece(small_llama(blocks=1)), problem, "hidden")[0] < 1e-9
    piece = whole_piece(small_llama(blocks=1))
    masks = pruned(piece)
    ids, real = problem.inputs, problem.mask.long()
    counts = (real[:, :-1] & real[:, 1:]).bool()
    with torch.no_grad():
        last = [m.model(ids, attention_mask=real).last_hidden_state[:, :-1][counts] for m in (dense, *piece.modules)]
    expected = float((last[0] - last[1]).double().square().mean())
    steps = solve(piece, masks, problem, Solver("retrain", objective="hidden", states=1, epochs=3, batch=4, lr=5e-3))
    assert steps[0].error == pytest.approx(expected, rel=1e-5) and steps[-1].error < 0.8 * steps[0].error


def whole_after(change) -> Piece:
    piece = whole_piece(small_llama(blocks=1))
    change(piece)
    return piece


def test_distillation_has_no_gradient_at_the_dense_model():
    dense = small_llama(blocks=1)
    problem = text_problem(dense)
    model = small_llama(blocks=1).requires_grad_(True)
    LOSSES["distill"](whole_logits(model, problem), whole_logits(dense, problem)).backward()
    LOSSES["ce"](whole_logits(dense.requires_grad_(True), problem), problem.inputs).backward()
    for (name, at_dense), of_ce in zip(model.named_parameters(), dense.parameters(), strict=True):
        assert float(at_dense.grad.norm()) < 1e-5 * float(of_ce.grad.norm()), name


def test_windows_that_predict_nothing_are_refused():
    model = small_llama(blocks=1)
    piece = whole_piece(model)
    recording = record(model, anatomy(model), windows(2, length=1))
    with pytest.raises(UsageError, match="no real token to compare on in 'calibration'"):
        solve(piece, {}, Problem("calibration", recording.ids, recording.ids, recording), Solver("retrain"))


def test_held_bytes_are_those_of_a_linear_map_counted_by_hand():
    """One 4 x 6 matrix without bias on 5 windows of 3 tokens in batches of 2: weight, gradient, two moments, the kept
    windows, one batch of differences.
    """
    module = torch.nn.Linear(6, 4, bias=False)
    inputs, targets = torch.randn(5, 3, 6), torch.randn(5, 3, 4)
    real = torch.ones(5, 3, dtype=torch.bool)
    recording = SimpleNamespace(mask=real, counts=real)
    piece = Piece("m", "m", {}, (module,), (module,), None, lambda recording, x, rows: module(x))
    module.weight.requires_grad_(True)
    held = held_bytes(piece, [], [Problem("calibration", inputs, targets, recording)], Solver("gradient", batch=2))
    difference = 2 * 3 * 4  # saved for the square; the inputs saved for the product are kept anyway
    assert held == 4 * (4 * 24 + inputs.numel() + targets.numel() + difference)

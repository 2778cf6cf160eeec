"""Repairs of the sum of all experts without its Gram matrix, against those with it and against sums by hand."""

from functools import partial

import pytest
import torch

from analysis.models.anatomy import anatomy
from analysis.models.experts import find_experts
from analysis.models.fewer_experts import cut_experts
from analysis.models.replay import run
from analysis.pruning import experts
from analysis.pruning.loop import prune
from analysis.streams.streams import open_streams
from analysis.structured import routed
from analysis.structured.experts import expert_sums, weights_side_by_side
from analysis.structured.repair import repair
from analysis.structured.routed import repair_routed, routed_sums
from tests.helpers.families import VOCABULARY, tiny
from tests.helpers.small import windows

TEXT = windows(12, padded=True, vocabulary=VOCABULARY)
OTHER = windows(4, seed=1, padded=True, vocabulary=VOCABULARY)


@pytest.fixture(scope="module", params=["mixtral", "gpt_oss"])
def mixture(request):
    """A block without one of its four experts, the dense one, and how to get the sums of a text for it."""
    model = tiny(request.param)
    parts = anatomy(model)
    small = cut_experts(model, parts, {block.name: torch.tensor([1, 0, 1, 1]).bool() for block in parts.blocks})
    dense, own = parts.blocks[0], anatomy(small).blocks[0]
    (module,) = find_experts(own.module).values()

    def given(text):
        streams = open_streams(model, parts, "calibration", text, apart=False)
        return own, module, dense, streams.recording, streams.dense, streams.dense

    return module, given


def test_sums_are_those_of_what_the_experts_lack(mixture):
    module, given = mixture
    own, _, dense, recording, hidden, _ = given(TEXT)
    sums = routed_sums(*given(TEXT))
    lack = run(dense.module, hidden, recording.call(0, slice(None))) - run(
        own.module, hidden, recording.call(0, slice(None))
    )
    lack = lack[TEXT.mask].double()
    torch.testing.assert_close(sums.missing, lack.sum(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sums.energy, lack.square().sum(0), rtol=1e-4, atol=0)
    whole, away = expert_sums(*given(TEXT))
    weight = weights_side_by_side(module).double()
    exact = whole.cross - weight @ whole.gram
    assert (sums.cross - exact).norm() < 1e-6 * exact.norm()
    step = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = step @ whole.gram
    assert (sums.times(step) - exact).norm() < 1e-6 * exact.norm()
    assert sums.lost(step) == pytest.approx(whole.loss(weight + step, None) * sums.tokens * len(weight), rel=1e-5)
    assert (sums.tokens, sums.away) == (int(TEXT.mask.sum()), pytest.approx(away))
    assert sums.level == pytest.approx(float(whole.gram.diagonal().mean()), rel=1e-6)


def both(mixture, penalties, *, judged=()):
    """A repair from the Gram matrix, and the same one without it."""
    module, given = mixture
    weight = weights_side_by_side(module)
    (sums, _), kept = expert_sums(*given(TEXT)), torch.ones(weight.shape[1], dtype=torch.bool)
    held_out = expert_sums(*given(judged[0]))[0] if judged else None
    direct = repair(
        "liar", weight, None, kept, sums, penalty=penalties, held_out=held_out, create_bias=False, name="it"
    )
    texts = [routed_sums(*given(text)) for text in judged]
    return direct, repair_routed(
        "liar", weight, routed_sums(*given(TEXT)), penalties=penalties, held_out=texts, name="it"
    )


@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1.0])
def test_the_step_is_that_of_the_direct_solution(mixture, penalty):
    direct, other = both(mixture, [penalty])
    torch.testing.assert_close(other.weight, direct.weight, rtol=1e-4, atol=1e-5)
    for one in ("loss_before", "loss_after", "scale"):
        assert getattr(other, one) == pytest.approx(getattr(direct, one), rel=1e-4), one
    assert other.loss_after < other.loss_before and other.held_out is None
    rules = {note.rule: note.value for note in other.notes}
    assert 1 <= rules.pop("conjugate gradients") < 200
    assert rules == {note.rule: note.value for note in direct.notes}


def test_held_out_text_chooses_the_same_penalty(mixture):
    direct, other = both(mixture, [1e-4, 1e-2, 1.0, 100.0], judged=[OTHER])
    assert other.penalty == direct.penalty
    assert other.held_out == pytest.approx(direct.held_out, rel=1e-4)


def test_without_penalty_few_tokens_are_damped_as_in_the_direct_solution(mixture):
    direct, other = both(mixture, [0.0])
    torch.testing.assert_close(other.weight, direct.weight, rtol=1e-3, atol=1e-4)
    damping = [note for note in direct.notes if note.rule == "damping"]
    assert damping == [note for note in other.notes if note.rule == "damping"] != []


def test_steps_that_do_not_suffice_are_recorded(mixture, monkeypatch):
    monkeypatch.setattr(routed, "STEPS", 2)
    _, other = both(mixture, [1e-6])
    rules = {note.rule: note.value for note in other.notes}
    assert rules["conjugate gradients"] == 2 and rules["not converged"] > 1e-8
    assert other.loss_after <= other.loss_before


def test_nothing_to_repair_is_no_step(mixture):
    module, given = mixture
    sums = routed_sums(*given(TEXT))
    none = torch.zeros_like
    fitting = routed.RoutedSums(
        sums.chunks, none(sums.cross), sums.own, none(sums.missing), none(sums.energy), sums.wanted, sums.tokens, 0.0
    )
    weight = weights_side_by_side(module)
    repaired = repair_routed("liar", weight, fitting, name="it")
    assert torch.equal(repaired.weight, weight) and repaired.loss_after == repaired.loss_before == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method"),
    [("mixtral", "LIAR[penalty=0.01]"), ("gpt_oss", "LIAR+GP[penalty=0.01]"), ("gpt_oss", "compensate")],
)
def test_a_run_is_the_same_with_and_without_the_gram_matrix(family, method, monkeypatch):
    once = partial(prune, recipe=f"reap-experts-25% {method}", calibration=TEXT, held_out={"other": OTHER})
    direct = once(tiny(family), measure=False)
    monkeypatch.setattr(experts, "LARGEST", 4)
    other = once(tiny(family), measure=False)
    for (name, one), two in zip(direct.model.named_parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5, msg=name)
    for column in ("error_before", "error_after"):
        assert list(other.tables["layers"][column]) == pytest.approx(list(direct.tables["layers"][column]), rel=1e-3)
    rules = [set(pruned.tables["numerics"]["rule"]) for pruned in (other, direct)]
    assert rules[0] - rules[1] == (set() if method == "compensate" else {"conjugate gradients"})

"""Hooks and replaced forwards act while their context is open and are gone afterwards; nobody else registers any."""

import ast
import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

import analysis
from analysis.models.hooks import StopForward, hooked, replaced, stoppable

X = torch.tensor([[1.0, -2.0]])


@pytest.fixture
def model() -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    for layer in (layers[0], layers[2]):
        layer.weight.data = torch.eye(2)
    return layers


def bare(model: nn.Module) -> bool:
    """Whether nothing is left on any module or parameter."""
    return not any(
        module._forward_pre_hooks
        or module._forward_pre_hooks_with_kwargs
        or module._forward_hooks
        or "forward" in module.__dict__
        or any(parameter._post_accumulate_grad_hooks for parameter in module.parameters())
        for module in model.modules()
    )


def test_hooks_see_and_change_a_forward(model):
    seen = []
    double = lambda module, args, kwargs: ((2 * args[0],), kwargs)
    with hooked(
        before=[(model[0], double), (model[0], lambda module, args, kwargs: seen.append(("before", args[0].tolist())))],
        after=[(model[2], lambda module, args, output: seen.append(("after", output.tolist()))), (model, _plus_one)],
        gradients=[(model[0].weight, lambda parameter: seen.append(("gradient", parameter.grad.tolist())))],
    ):
        output = model(X)
        output.sum().backward()
    assert output.tolist() == [[3.0, 1.0]]
    assert seen == [("before", [[2.0, -4.0]]), ("after", [[2.0, 0.0]]), ("gradient", [[2.0, -4.0], [0.0, 0.0]])]
    assert bare(model) and model(X).tolist() == [[1.0, 0.0]]


def _plus_one(module, args, output):
    return output + 1


def test_keyword_arguments_are_seen():
    class Scaled(nn.Module):
        def forward(self, x, *, scale):
            return scale * x

    module = Scaled()
    with hooked(before=[(module, lambda module, args, kwargs: (args, {"scale": kwargs["scale"] + 1}))]):
        assert module(X, scale=2).tolist() == [[3.0, -6.0]]
    assert module(X, scale=2).tolist() == [[2.0, -4.0]]


def test_all_is_gone_after_an_error(model):
    def fail(module, args, kwargs):
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        hooked(
            before=[(model[2], fail)], after=[(model[0], _plus_one)], gradients=[(model[0].weight, lambda parameter: 0)]
        ),
        replaced([(model[1], lambda x: x)]),
    ):
        model(X)
    assert bare(model)


def test_what_was_registered_before_an_error_of_the_arguments_is_gone(model):
    """A list of hooks can fail half way: a module that does not exist."""
    with pytest.raises(AttributeError), hooked(before=[(model[0], _plus_one)], after=[(None, _plus_one)]):
        pytest.fail("the context opened")
    assert bare(model)


def test_replaced_forwards_come_back_even_those_of_others(model):
    others = lambda x: x + 10
    model[0].forward = others
    with replaced([(model[0], lambda x: x), (model[1], lambda x: -x), (model[1], lambda x: 3 * x)]):
        assert model(X).tolist() == [[3.0, -6.0]]
    assert model[0].__dict__.pop("forward") is others
    assert bare(model) and model(X).tolist() == [[1.0, 0.0]]


def test_a_stopped_forward_runs_no_further(model):
    seen = []
    with (
        stoppable() as stop,
        hooked(before=[(model[1], lambda module, args, kwargs: stop())]),
        hooked(
            before=[(model[0], lambda module, args, kwargs: seen.append(0))],
            after=[(model[2], lambda *_: pytest.fail("it went on"))],
        ),
    ):
        model(X)
        pytest.fail("it was not stopped")
    assert seen == [0] and bare(model)


def test_each_context_is_ended_by_its_own_stop_alone(model):
    reached = []
    with stoppable() as outer:
        with stoppable() as inner:
            reached.append("inner")
            outer()
        reached.append(inner)
    assert reached == ["inner"]
    with pytest.raises(StopForward), stoppable():
        outer()


def test_a_stopped_forward_keeps_no_tensor_alive(model):
    """Without the garbage collector: a traceback that is held on to would keep every activation."""
    gc.disable()
    try:
        references = []
        with (
            stoppable() as stop,
            hooked(before=[(model[2], lambda module, args, kwargs: _stop(args[0], references, stop))]),
        ):
            model(X)
        assert len(references) == 1 and references[0]() is None
    finally:
        gc.enable()


def _stop(tensor, references, stop):
    references.append(weakref.ref(tensor))
    stop()


def test_no_other_file_registers_hooks_or_replaces_forwards():
    package = Path(analysis.__file__).parent
    guilty = []
    for path in package.rglob("*.py"):
        text = path.read_text("utf-8")
        if path == package / "models" / "hooks.py" or not ("register_" in text or "forward =" in text):
            continue
        for node in ast.walk(ast.parse(text)):
            registers = isinstance(node, ast.Attribute) and node.attr.startswith("register_") and "hook" in node.attr
            targets = node.targets if isinstance(node, ast.Assign) else ()
            if registers or any(isinstance(target, ast.Attribute) and target.attr == "forward" for target in targets):
                guilty.append(f"{path.relative_to(package)}:{node.lineno}")
    assert not guilty, "use analysis.models.hooks"

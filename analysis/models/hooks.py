"""Hooks and replaced forwards on the modules of a model, and forwards that end early: gone when the context closes,
after an error too. No other file registers a hook or replaces a forward by hand.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

from torch import Tensor, nn

Before = tuple[nn.Module, Callable[[nn.Module, tuple, dict], Any]]
After = tuple[nn.Module, Callable[[nn.Module, tuple, Any], Any]]
Gradient = tuple[Tensor, Callable[[Any], None]]


@contextmanager
def hooked(
    before: Iterable[Before] = (), after: Iterable[After] = (), gradients: Iterable[Gradient] = ()
) -> Iterator[None]:
    """While open, these hooks are called; hooks of one module in the order given.

    before     (module, hook): hook(module, args, kwargs) ahead of every forward; (args, kwargs) that it returns replace
               the forward's own, None leaves them
    after      (module, hook): hook(module, args, output) after every forward; what it returns replaces the output, None
               leaves it
    gradients  (parameter, hook): hook(parameter) once a backward pass has left its gradient on it
    """
    with ExitStack() as stack:
        for module, prepare in before:
            stack.callback(module.register_forward_pre_hook(prepare, with_kwargs=True).remove)
        for module, finish in after:
            stack.callback(module.register_forward_hook(finish).remove)
        for parameter, take in gradients:
            stack.callback(parameter.register_post_accumulate_grad_hook(take).remove)
        yield


@contextmanager
def replaced(forwards: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """While open, modules have these forwards; afterwards what they had before, a forward put on the instance by others
    included.
    """
    with ExitStack() as stack:
        for module, forward in forwards:
            stack.callback(replace_forward, module, module.__dict__.get("forward"))
            module.forward = forward
        yield


def replace_forward(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """Give a module this forward for good; None: that of its class again."""
    module.__dict__.pop("forward", None)
    if forward is not None:
        module.forward = forward


class StopForward(Exception):
    """Ends a forward whose hooks have seen enough; never leaves the context of `stoppable` that it belongs to."""


@contextmanager
def stoppable() -> Iterator[Callable[[], NoReturn]]:
    """Gives a function for hooks that ends the forward, and with it the context; contexts inside and outside have their
    own.

    with stoppable() as stop, hooked(before=[(module, lambda *_: stop())]):
        model(ids)
    """
    owner = object()  # rather than one exception that is compared: its traceback would keep the forward's tensors alive

    def stop() -> NoReturn:
        raise StopForward(owner)

    try:
        yield stop
    except StopForward as raised:
        if raised.args[0] is not owner:
            raise

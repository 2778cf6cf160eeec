"""Half a block, run the way the block runs it: attention half, MLP half, and the inputs of single matrices.

A block computes mid = h + attention(norm(h)) and then mid + mlp(norm(mid)), with norms in other places in some
families. Nothing here rewrites that: the block's own forward runs, on its own arguments. It is ended where the MLP half
begins, or it runs with what its other half calls silenced, so that this half adds nothing (`Block.children` knows what
that takes). Silenced modules do no work. `check_halves` proves on the dense model that the two halves make up the
block.

Every module is found by its name in `block.module`, so a `Block` whose module is replaced by a copy
(dataclasses.replace) runs the copy.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from analysis.errors import ReplayError, UnsupportedModel, UsageError
from analysis.models.anatomy import Anatomy, Block, Child, Matrix
from analysis.models.block_arguments import Call
from analysis.models.experts import Routed
from analysis.models.held import held
from analysis.models.hooks import hooked, replaced, stoppable
from analysis.models.linear import tensor_given
from analysis.models.replay import Recording, run, tolerance_for

HALVES = ("attention", "mlp")


def half_output(block: Block, half: str, hidden: Tensor, call: Call) -> Tensor:
    """Output (B, T, H) of one half of `block`. Differentiable.

    half "attention": hidden (B, T, H) is the block's input, the output the residual stream between the halves. "mlp":
    from that stream to the block's output. In a parallel block both halves read the block's input h, and block(h) =
    attention + mlp - h. Raises UsageError for another half and for a block in training mode. Whether the halves of a
    family can be had is for `check_halves` to say.
    """
    if half not in HALVES:
        raise UsageError(f"half_output: half={half!r} of {block.name} is unknown; it is 'attention' or 'mlp'")
    if half == "attention" and not block.parallel:
        entry = next(child.name for child in block.children if child.half == "mlp")
        return module_inputs(block, [entry], hidden, call)[entry]
    with _silenced(block, "mlp" if half == "attention" else "attention", hidden):
        return run(block.module, hidden, call)


def matrix_inputs(block: Block, names: Sequence[str], hidden: Tensor, call: Call) -> dict[str, Tensor]:
    """Inputs (B, T, in) of the matrices `names` (relative to the block) when it runs on `hidden` (B, T, H).
    Differentiable.

    Matrices fed the same tensor (query, key and value) share it here too. The forward ends at the last of them, before
    its product. Of an expert's matrix: its inputs of all tokens, whether they go to it or not (`expert_tokens`). Raises
    UsageError for a name that is no matrix of the block.
    """
    matrices = {matrix.name: matrix for matrix in block.matrices}
    unknown = [name for name in names if name not in matrices]
    if unknown:
        raise UsageError(
            f"matrix_inputs: {', '.join(unknown)} is no matrix of {block.name}; there are {', '.join(sorted(matrices))}"
        )
    wanted = [matrices[name] for name in names]
    if not any(matrix.expert is not None for matrix in wanted):
        return module_inputs(block, names, hidden, call)
    given, every = _given(block, [matrix.owner for matrix in wanted], hidden, call), slice(None)
    inputs = {}
    for matrix in wanted:
        args, kwargs = given.get(matrix.owner, ((), {}))
        tensor = tensor_given(args, kwargs)
        if matrix.expert is not None and tensor is not None:
            tensor = Routed.of(matrix.module, args, kwargs).read(matrix.key, matrix.expert, every)
        inputs[matrix.name] = _per_token(f"{block.name}.{matrix.name}", tensor, hidden)
    return inputs


def expert_tokens(block: Block, matrix: Matrix, hidden: Tensor, call: Call) -> Tensor:
    """(B, T) bool: the tokens that go to the expert of a matrix when the block runs on `hidden` (B, T, H)."""
    assert matrix.expert is not None
    args, kwargs = _given(block, [matrix.owner], hidden, call)[matrix.owner]
    return Routed.of(matrix.module, args, kwargs).tokens(matrix.expert).reshape(hidden.shape[:-1])


def halves_error(block: Block, hidden: Tensor, call: Call) -> float:
    """|halves - block| / |block|, 2-norms over `hidden` (B, T, H): how far the two halves are from the block's own
    output.
    """
    with torch.no_grad():
        return _relative(_both_halves(block, hidden, call), run(block.module, hidden, call)).item()


def check_halves(anatomy: Anatomy, recording: Recording, rows: Tensor | slice) -> None:
    """Raise UnsupportedModel naming the first block whose halves, on the windows `rows`, do not make up the block to
    `tolerance_for` its dtype.

    Blocks run one after another from the recorded input of block 0; every window is held to the tolerance over its real
    tokens.
    """
    hidden = recording.hidden[rows]
    with torch.no_grad():
        for block in anatomy.blocks:
            with held(block.module):
                parameter = next(block.module.parameters())
                hidden = hidden.to(parameter.device)
                call = recording.call(block.index, rows, hidden.device)
                true = run(block.module, hidden, call)
                try:
                    joined = _both_halves(block, hidden, call)
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:  # whatever the family's forward makes of a silenced half
                    raise _refusal(block, f"running them failed with {type(error).__name__}: {error}") from error
                allowed = tolerance_for(parameter.dtype)
                windows = zip(joined, true, recording.mask[rows].to(true.device), strict=True)
                errors = torch.stack([_relative(half[real], whole[real]) for half, whole, real in windows])
                if not (errors <= allowed).all():  # nan is refused
                    worst = errors.max().item()
                    raise _refusal(
                        block,
                        f"together they differ from the block's own output by a relative error of {worst:.3g} (allowed"
                        f" {allowed:.1g})",
                    )
            hidden = true


def _refusal(block: Block, why: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{block.name} ({type(block.module).__name__}): its attention and MLP halves cannot be run apart; {why}."
        " Reconstruct whole blocks or single matrices instead"
    )


def _both_halves(block: Block, hidden: Tensor, call: Call) -> Tensor:
    """The block's output (B, T, H) put together from its halves, float64."""
    middle = half_output(block, "attention", hidden, call)
    if not block.parallel:
        return half_output(block, "mlp", middle, call).double()
    return middle.double() - hidden.double() + half_output(block, "mlp", hidden, call).double()


def _relative(approximate: Tensor, true: Tensor) -> Tensor:
    """|approximate - true| / |true|, 2-norms in float64; 0 where they are equal."""
    difference = (approximate.double() - true.double()).norm()
    return torch.where(difference == 0, difference, difference / true.double().norm())


def module_inputs(block: Block, names: Sequence[str], hidden: Tensor, call: Call) -> dict[str, Tensor]:
    """What the modules `names` are given when the block runs on `hidden` (B, T, H), each as (B, T, features); the
    forward ends at the last.
    """
    given = _given(block, names, hidden, call)
    return {
        name: _per_token(f"{block.name}.{name}", tensor_given(*given[name]) if name in given else None, hidden)
        for name in names
    }


def _given(block: Block, names: Sequence[str], hidden: Tensor, call: Call) -> dict[str, tuple[tuple, dict]]:
    """What the modules `names` are called with when the block runs on `hidden`; the forward ends at the last."""
    given: dict[str, tuple[tuple, dict]] = {}

    def see(name: str):
        def hook(module, args, kwargs):
            given[name] = (args, kwargs)
            if len(given) == len(wanted):
                stop()

        return hook

    wanted = set(names)
    hooks = [(block.module.get_submodule(name), see(name)) for name in wanted]
    with stoppable() as stop, hooked(hooks):
        if wanted:
            run(block.module, hidden, call)
    return given


def _per_token(name: str, tensor: Tensor | None, hidden: Tensor) -> Tensor:
    """What a module was given, one row per token of `hidden`: some families flatten windows and tokens."""
    if tensor is None or tensor.shape[:-1].numel() != hidden.shape[:-1].numel():
        description = "nothing" if tensor is None else f"a tensor {tuple(tensor.shape)}"
        raise ReplayError(
            f"{name} was given {description} in a forward of hidden states {tuple(hidden.shape)}; needed is one row"
            " per token"
        )
    return tensor if tensor.shape[:-1] == hidden.shape[:-1] else tensor.reshape(*hidden.shape[:-1], tensor.shape[-1])


@contextmanager
def _silenced(block: Block, half: str, hidden: Tensor) -> Iterator[None]:
    """While open, `half` adds nothing to the stream `hidden` (B, T, H) that the block runs on, and does no work.

    What stands before the half's first module with matrices passes its input on (left alone where the other half reads
    it too); the rest returns zeros, or `hidden` itself where its output is the stream.
    """
    children = [child for child in block.children if child.half == half]
    holders = {matrix.name for matrix in block.matrices}
    first = next(
        place
        for place, child in enumerate(children)
        if any(f"{name}.".startswith(f"{child.name}.") for name in holders)
    )
    stubs = {child.name: _stub(child, hidden) for child in children[first:]}
    stubs |= {child.name: _pass_on for child in children[:first] if not child.handed}
    with replaced((block.module.get_submodule(name), forward) for name, forward in stubs.items()):
        yield


def _stub(child: Child, hidden: Tensor) -> Callable:
    """A forward for `child` that returns zeros, or `hidden` where the child's output is the residual stream, in the
    form it really returns.
    """

    def forward(*args, **kwargs):
        tensor = tensor_given(args, kwargs)
        shape = (*tensor.shape[:-1], child.width)
        output = hidden.reshape(shape) if child.handed else tensor.new_zeros(shape)
        return (output, *[None] * (child.returns - 1)) if child.returns else output

    return forward


def _pass_on(*args, **kwargs) -> Tensor:
    """A forward that returns its input."""
    tensor = tensor_given(args, kwargs)
    assert tensor is not None  # the block's forward calls the children it silences on hidden states
    return tensor

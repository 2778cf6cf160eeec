"""Arguments of blocks, recorded: which tensors have one entry per window, which are shared, and how to hand them out
again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.errors import UnsupportedModel

_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)


class _Hidden:
    """Stands in a call where the hidden states go."""

    def __repr__(self) -> str:
        return "HIDDEN"


HIDDEN = _Hidden()


@dataclass(frozen=True, eq=False)
class Call:
    """Arguments of one block for some windows; `HIDDEN` marks the place of the hidden states."""

    args: tuple
    kwargs: dict


@dataclass(frozen=True)
class Ref:
    """Stands in a recorded call where the tensor of slot `index` goes."""

    index: int


@dataclass(frozen=True, eq=False)
class Slot:
    """One recorded tensor.

    factor 0: it does not count windows and is passed as it is. Otherwise it has `factor` entries per window along its
    dimension `axis`, and `value` is (N, factor, ...) with that dimension moved to the front, or (1, factor, ...) where
    all windows have the same. tokens: the dimensions of the tensor, as it is passed, that count tokens, where known.
    """

    factor: int
    value: Tensor
    axis: int = 0
    tokens: tuple[int, ...] = ()

    def take(self, rows: Tensor | slice, count: int, length: int | None = None) -> Tensor:
        """The tensor for the `count` windows `rows`, of their first `length` tokens (None: all): a view where all
        windows have the same.
        """
        if self.factor == 0:
            whole = self.value
        else:
            if self.value.shape[0] == 1:
                chosen = self.value.expand(count, *self.value.shape[1:])
            else:
                chosen = self.value[rows if isinstance(rows, slice) else rows.to(self.value.device)]
            whole = (chosen[:, 0] if self.factor == 1 else chosen.flatten(0, 1)).movedim(0, self.axis)
        if length is not None:
            for dimension in self.tokens:
                whole = whole.narrow(dimension, 0, length)
        return whole


class Recorder:
    """Collects the arguments of every block, batch by batch. A tensor passed to several blocks is kept once.

    names: of the blocks, for errors. one, two: the calls of every block for one window, and for that window twice.
    Their shapes tell which tensors have entries per window (a test by size alone would confuse windows with tokens or
    heads). `calls` is what the blocks are called with, a `Ref` in the place of each tensor.
    """

    def __init__(self, names: Sequence[str], one: Sequence[Call], two: Sequence[Call]):
        self.names, self.forms = names, [form(call) for call in two]
        places: dict[tuple, int] = {}
        self._refs = [[places.setdefault(_identity(tensor), len(places)) for tensor in tensors(call)] for call in two]
        self.calls = tuple(_template(call, refs) for call, refs in zip(two, self._refs, strict=True))
        self._chunks: list[list[tuple[int, Tensor]]] = [[] for _ in places]
        self._tokens: list[tuple[int, ...]] | None = None
        pairs = zip(self._per_slot(one), self._per_slot(two), strict=True)
        self._factors = [_factor(self.names[block], small, large) for (block, small), (_, large) in pairs]

    def add(self, calls: Sequence[Call], total: int, keep: int) -> None:
        """Take in the calls for one batch of `total` windows, of which the first `keep` count."""
        slots = zip(self._per_slot(calls), self._factors, self._chunks, strict=True)
        for (block, tensor), (factor, axis), chunks in slots:
            if factor:
                tensor = tensor.movedim(axis, 0)
                rows = tensor.reshape(total, factor, *tensor.shape[1:])[:keep]
                same = bool((rows == rows[:1]).all())
                chunks.append((keep, rows[:1].clone() if same else rows.cpu()))
            elif not chunks:
                chunks.append((keep, tensor))
            elif not torch.equal(chunks[0][1], tensor):
                raise UnsupportedModel(
                    f"{self.names[block]}: an argument {tuple(tensor.shape)} differs between batches although it has no"
                    " entry per window; it cannot be replayed"
                )

    def cuts(self, whole: Sequence[Call], cut: Sequence[Call], lengths: tuple[int, int]) -> bool:
        """Whether the calls for a window (`whole`, of `lengths[0]` tokens) hold those for the same window without its
        last tokens (`cut`, of `lengths[1]`) as a part; then slots know which dimensions count tokens.
        """
        try:
            pairs = [
                (one, other) for (_, one), (_, other) in zip(self._per_slot(whole), self._per_slot(cut), strict=True)
            ]
        except UnsupportedModel:  # another form, as where a mask is left out
            return False
        found = [_token_dimensions(one, other, lengths) for one, other in pairs]
        known = [dimensions for dimensions in found if dimensions is not None]
        self._tokens = known if len(known) == len(pairs) else None
        return self._tokens is not None

    def slots(self, device: torch.device) -> tuple[Slot, ...]:
        """The tensors: those with a row per window on `device`, those all windows share where the model made them."""
        slots = []
        tokens = self._tokens or [()] * len(self._chunks)
        for (factor, axis), chunks, dimensions in zip(self._factors, self._chunks, tokens, strict=True):
            value = chunks[0][1]
            if factor and not all(rows.shape[0] == 1 and torch.equal(rows, value) for _, rows in chunks):
                value = torch.cat([rows.expand(count, *rows.shape[1:]).cpu() for count, rows in chunks]).to(device)
            slots.append(Slot(factor, value, axis, dimensions))
        return tuple(slots)

    def _per_slot(self, calls: Sequence[Call]) -> list[tuple[int, Tensor]]:
        """For each slot the first block that gets its tensor, and the tensor. Raises UnsupportedModel if a call changed
        its form.
        """
        slots: dict[int, tuple[int, Tensor]] = {}
        for block, (call, recorded, refs) in enumerate(zip(calls, self.forms, self._refs, strict=True)):
            if form(call) != recorded:
                raise UnsupportedModel(
                    f"{self.names[block]}: its arguments change their form from batch to batch, {recorded} and"
                    f" {form(call)}; it cannot be replayed"
                )
            for ref, tensor in zip(refs, tensors(call), strict=True):
                first, shared = slots.setdefault(ref, (block, tensor))
                if _identity(shared) != _identity(tensor):
                    raise UnsupportedModel(
                        f"{self.names[block]}: shares an argument with {self.names[first]} in one batch and not in"
                        " another; it cannot be replayed"
                    )
        return [slots[ref] for ref in range(len(self._chunks))]


def map_leaves(function: Callable, value):
    """`value` with every leaf of its nested tuples, lists and dicts replaced; lists become tuples."""
    if isinstance(value, dict):
        return {key: map_leaves(function, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(map_leaves(function, item) for item in value)
    return function(value)


def map_call(function: Callable, call: Call) -> Call:
    """`call` with every leaf of its arguments replaced."""
    return Call(map_leaves(function, call.args), map_leaves(function, call.kwargs))


def tensors(call: Call) -> list[Tensor]:
    """Every tensor of a call, in order."""
    leaves: list = []
    map_call(leaves.append, call)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def form(call: Call) -> tuple:
    """A call without the values of its tensors: what must agree between batches. Objects that are no plain values go by
    their type.
    """

    def describe(leaf):
        if leaf is HIDDEN or isinstance(leaf, _PLAIN):
            return leaf
        return Tensor if isinstance(leaf, Tensor) else type(leaf)

    described = map_call(describe, call)
    return described.args, described.kwargs


def _factor(name: str, small: Tensor, large: Tensor) -> tuple[int, int]:
    """Entries per window and the dimension that counts them, from one tensor for one and for two windows; 0: none
    does.
    """
    if small.shape == large.shape:
        return 0, 0
    pairs = list(zip(small.shape, large.shape, strict=False))
    other = [axis for axis, (one, two) in enumerate(pairs) if one != two]
    if small.ndim == large.ndim and len(other) == 1 and pairs[other[0]][1] == 2 * pairs[other[0]][0]:
        return pairs[other[0]][0], other[0]
    raise UnsupportedModel(
        f"{name}: an argument is {tuple(small.shape)} for one window and {tuple(large.shape)} for two; one dimension"
        " alone may count windows"
    )


def _token_dimensions(whole: Tensor, cut: Tensor, lengths: tuple[int, int]) -> tuple[int, ...] | None:
    """The dimensions in which `whole`, cut from `lengths[0]` to `lengths[1]`, is `cut`; None where it is not."""
    if whole.ndim != cut.ndim:
        return None
    dimensions = tuple(axis for axis in range(whole.ndim) if whole.shape[axis] != cut.shape[axis])
    if any((whole.shape[axis], cut.shape[axis]) != lengths for axis in dimensions):
        return None
    for axis in dimensions:
        whole = whole.narrow(axis, 0, lengths[1])
    return dimensions if torch.equal(whole, cut) else None


def _template(call: Call, refs: Sequence[int]) -> Call:
    remaining = iter(refs)
    return map_call(lambda leaf: Ref(next(remaining)) if isinstance(leaf, Tensor) else leaf, call)


def _identity(tensor: Tensor) -> tuple:
    """Equal for two living tensors exactly when they are the same memory read the same way."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype

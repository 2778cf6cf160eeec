"""Whole structures of a model, and the weights that belong to each.

`Structure` is what every kind must tell of the structures in one place of a model; `Pair` is that of structures between
matrices that make features and the one that reads them, which attention heads (`heads.py`) and MLP neurons
(`neurons.py`) are. Masks of structures say which stay, (count,) bool, by the structures' name.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from analysis.errors import UsageError
from analysis.models.anatomy import Anatomy, Block, Matrix
from analysis.models.hooks import hooked
from analysis.models.widths import Widths, set_weight


class Structure(Protocol):
    """The structures of one kind in one place of a model. A mask (count,) bool, True = kept, says which stay."""

    @property
    def kind(self) -> str:
        """The word for them, a key of `find.KINDS`."""

    @property
    def block(self) -> int:
        """The block they are in."""

    @property
    def name(self) -> str:
        """The key that scores and masks go by: full name of a matrix."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def units(self) -> int:
        """How many times something can be removed: one structure, or one of every group."""

    @property
    def contents(self) -> str:
        """What there is to remove, in words with numbers."""

    def members(self, mask: Tensor) -> dict[str, Tensor]:
        """Full matrix name -> (out, in) bool: which weights stay, of every matrix that the structures own a part of."""

    def cost(self, context: int | None = None) -> int:
        """Of one structure: its parameters, or its multiply-adds per token with `context` keys."""

    def remove(self, mask: Tensor) -> None:
        """Write zeros into everything that removed structures own."""

    def cut(self, mask: Tensor, widths: Widths) -> Widths:
        """Make the matrices smaller by what removed structures own. Gives what the block has left of `widths`."""


@dataclass(frozen=True, eq=False)
class Producer:
    """A matrix that makes a pair's features. `name` is its full name; rows (count, rows per structure): the rows of W
    that structure i owns.
    """

    name: str
    matrix: Matrix
    rows: Tensor


@dataclass(frozen=True, eq=False)
class Pair:
    """The structures of one half of a block: rows of the matrices that produce its features, columns of the one that
    consumes them. A structure is gone once the consumer no longer reads its columns.

    name       the consumer's full name ("model.layers.0.mlp.down_proj"), the key that scores, masks and repairs go by
    columns    (count, columns per structure): the columns of the consumer that structure i owns
    producers  what makes those columns; under grouped queries, keys and values belong to the group, so a lone query
               head owns no rows of them
    groups     (count,) the group of each structure; groups must lose equally many. All zero where there is no such tie
    """

    kind: ClassVar[str]
    half: ClassVar[str]

    block: int
    name: str
    consumer: Matrix
    columns: Tensor
    producers: tuple[Producer, ...]
    groups: Tensor

    @classmethod
    def layouts(cls, block: Block, config: Any, heads: str) -> list[Self]:
        """The structures of a block's half, once for every layout that its fused matrices could have.

        heads  what a head is under grouped queries (`find.HEADS`)
        Raises UnsupportedModel for halves of another build.
        """
        raise NotImplementedError

    @property
    def count(self) -> int:
        """Number of structures."""
        return len(self.columns)

    @property
    def units(self) -> int:
        """How many times something can be removed: one structure, or one of every group."""
        return self.count // (int(self.groups.max()) + 1)

    @property
    def contents(self) -> str:
        """What there is to remove."""
        return f"{self.count} {self.kind}"

    def parameters(self) -> int:
        """Parameters of one structure: its rows with their biases, and its columns."""
        made = sum(p.rows.shape[1] * (p.matrix.columns + (p.matrix.module.bias is not None)) for p in self.producers)
        return made + self.columns.shape[1] * self.consumer.rows

    def multiply_adds(self, context: int) -> int:
        """Multiply-adds of one structure per token, with `context` keys."""
        return (
            sum(p.rows.shape[1] * p.matrix.columns for p in self.producers) + self.columns.shape[1] * self.consumer.rows
        )

    def cost(self, context: int | None = None) -> int:
        """Parameters of one structure, or its multiply-adds per token with `context` keys."""
        return self.parameters() if context is None else self.multiply_adds(context)

    def members(self, mask: Tensor) -> dict[str, Tensor]:
        """Full matrix name -> (out, in) bool, True = kept, of producers and consumer."""
        weights = {p.name: row_mask(p, mask)[:, None].expand(-1, p.matrix.columns).clone() for p in self.producers}
        return weights | {self.name: column_mask(self, mask).expand(self.consumer.rows, -1).clone()}

    @torch.no_grad()
    def remove(self, mask: Tensor) -> None:
        """Write zeros into rows, their biases and columns of removed structures. Shapes stay."""
        for producer in self.producers:
            gone = ~row_mask(producer, mask).to(producer.matrix.weight().device)
            producer.matrix.weight()[gone] = 0
            if isinstance(producer.matrix.module.bias, Tensor):
                producer.matrix.module.bias[gone] = 0
        weight = self.consumer.weight()
        weight[:, ~column_mask(self, mask).to(weight.device)] = 0

    @torch.no_grad()
    def cut(self, mask: Tensor, widths: Widths) -> Widths:
        """Cut rows and columns of removed structures out. Gives what the block has left of `widths`."""
        for producer in self.producers:
            _resize(producer.matrix, rows=row_mask(producer, mask))
        _resize(self.consumer, columns=column_mask(self, mask))
        return self.reduced(mask, widths)

    def reduced(self, mask: Tensor, widths: Widths) -> Widths:
        """The widths of a block of `widths` that only keeps what the mask keeps."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Structures:
    """The pairs of a model in the order they run. `parts`: the anatomy they belong to."""

    parts: Anatomy
    pairs: tuple[Pair, ...]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def of(self, kind: str) -> tuple[Pair, ...]:
        """The pairs of one kind."""
        return tuple(pair for pair in self.pairs if pair.kind == kind)


def structures_of_copy(original: Structures, parts: Anatomy) -> Structures:
    """The structures of a deep copy of the model, given the copy's anatomy (`anatomy_of_copy`)."""
    matrices = dict(parts.matrices())

    def copied(pair: Pair) -> Pair:
        producers = tuple(replace(producer, matrix=matrices[producer.name]) for producer in pair.producers)
        return replace(pair, consumer=matrices[pair.name], producers=producers)

    return Structures(parts, tuple(copied(pair) for pair in original))


# --- masks -----------------------------------------------------------------------------------------------------------


def check_masks(pairs: Sequence[Pair], masks: Mapping[str, Tensor]) -> None:
    """Raise UsageError unless every mask is a bool (count,) of one of the pairs, keeps a structure, and takes equally
    from every group.
    """
    by_name = {pair.name: pair for pair in pairs}
    for name, mask in masks.items():
        if name not in by_name:
            raise UsageError(
                f"structures: {name!r} is the consumer of no pair; there are {', '.join(list(by_name)[:3])}, ..."
            )
        pair = by_name[name]
        if mask.dtype != torch.bool or mask.shape != (pair.count,):
            raise UsageError(
                f"structures: the mask of {name} is {mask.dtype} {tuple(mask.shape)}; expected bool ({pair.count},),"
                " True = kept"
            )
        kept = torch.bincount(pair.groups, weights=mask.cpu().double())
        if not bool(mask.any()):
            raise UsageError(
                f"structures: the mask of {name} removes all {pair.count} {pair.kind}; at least one must stay"
            )
        if len(kept.unique()) > 1:
            raise UsageError(
                f"structures: the mask of {name} keeps {kept.int().tolist()} query heads of its {len(kept)} KV groups;"
                " every group must keep as many"
            )


def column_mask(pair: Pair, mask: Tensor) -> Tensor:
    """(in,) bool, True where the consumer's column belongs to a kept structure; mask (count,)."""
    kept = torch.zeros(pair.consumer.columns, dtype=torch.bool)
    kept[pair.columns[mask.cpu()].flatten()] = True
    return kept


def row_mask(producer: Producer, mask: Tensor) -> Tensor:
    """(out,) bool, False where the producer's row belongs to a removed structure; mask (count,)."""
    kept = torch.ones(producer.matrix.rows, dtype=torch.bool)
    kept[producer.rows[~mask.cpu()].flatten()] = False
    return kept


def structure_of_column(pair: Pair) -> Tensor:
    """(in,) the structure that each column of the consumer belongs to."""
    owner = torch.empty(pair.consumer.columns, dtype=torch.long)
    owner[pair.columns] = torch.arange(pair.count)[:, None]
    return owner


def element_masks(structures: Iterable[Structure], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Full matrix name -> (out, in) bool, True = kept: structure masks (count,) as the masks of single weights that the
    rest of the project speaks.
    """
    elements: dict[str, Tensor] = {}
    for structure in structures:
        if structure.name in masks:
            elements |= structure.members(masks[structure.name])
    return elements


def remove(structures: Iterable[Structure], masks: Mapping[str, Tensor]) -> None:
    """Write zeros into everything that removed structures own. Shapes stay; `shrink` makes them smaller."""
    for structure in structures:
        if structure.name in masks:
            structure.remove(masks[structure.name])


@contextmanager
def masked(pairs: Iterable[Pair], masks: Mapping[str, Tensor]) -> Iterator[None]:
    """While open the consumers read the columns of removed structures as zero: the masked model, without a weight
    touched.
    """

    def hook(kept: Tensor):
        return lambda module, args, kwargs: ((args[0] * kept.to(args[0]), *args[1:]), kwargs)

    masked_pairs = (pair for pair in pairs if pair.name in masks)
    with hooked((pair.consumer.module, hook(column_mask(pair, masks[pair.name]))) for pair in masked_pairs):
        yield


def _resize(matrix: Matrix, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    module, weight = matrix.module, matrix.weight()
    weight = weight[rows.to(weight.device)] if rows is not None else weight
    weight = weight[:, columns.to(weight.device)] if columns is not None else weight
    set_weight(module, weight.T.contiguous() if matrix.transposed else weight.contiguous())
    if rows is not None and isinstance(module.bias, nn.Parameter):
        kept = module.bias.data[rows.to(weight.device)].clone()
        module.bias = nn.Parameter(kept, requires_grad=module.bias.requires_grad)

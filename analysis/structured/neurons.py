"""MLP neurons: a row of every matrix that makes them, a column of the one that reads them."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from analysis.errors import UnsupportedModel
from analysis.models.anatomy import Block, Matrix
from analysis.models.widths import Widths, mlp_matrices
from analysis.structured.pairs import Pair, Producer


@dataclass(frozen=True, eq=False)
class Neurons(Pair):
    """The neurons of a block's MLP."""

    kind: ClassVar[str] = "neurons"
    half: ClassVar[str] = "mlp"

    @classmethod
    def layouts(cls, block: Block, config: Any, heads: str) -> list[Self]:
        """As of `Pair`; a gate and an up matrix fused to one stand one after the other, or row by row."""
        consumer, producers = mlp_matrices(block)
        count = consumer.columns
        columns, tied = torch.arange(count).view(count, -1), torch.zeros(count, dtype=torch.long)
        names = [f"{block.name}.{matrix.name}" for matrix in (consumer, *producers)]
        return [
            cls(
                block.index,
                names[0],
                consumer,
                columns,
                tuple(
                    Producer(name, matrix, owned.reshape(count, -1))
                    for name, matrix, owned in zip(names[1:], producers, rows, strict=True)
                ),
                tied,
            )
            for rows in _rows(block, consumer, producers)
        ]

    def reduced(self, mask: Tensor, widths: Widths) -> Widths:
        """Fewer neurons."""
        return replace(widths, neurons=int(mask.sum()))


def _rows(block: Block, consumer: Matrix, producers: list[Matrix]) -> list[list[Tensor]]:
    """For every possible layout, each producer's rows ordered by neuron."""
    count = consumer.columns
    if all(matrix.rows == count for matrix in producers):
        return [[torch.arange(count) for _ in producers]]
    if len(producers) == 1 and producers[0].rows == 2 * count:
        return [[torch.arange(2 * count).view(2, count).T], [torch.arange(2 * count).view(count, 2)]]
    made = ", ".join(f"{matrix.name} makes {matrix.rows}" for matrix in producers)
    raise UnsupportedModel(
        f"{block.name}: {made} features, {consumer.name} reads {count}; neurons cannot be told apart"
    )

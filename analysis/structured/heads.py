"""Attention heads: KV groups with their query heads, or single query heads, every group losing equally many."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from analysis.models.anatomy import Block, Matrix
from analysis.models.widths import Widths, attention_matrices, head_shape
from analysis.structured.pairs import Pair, Producer


@dataclass(frozen=True, eq=False)
class Heads(Pair):
    """The heads of a block's attention.

    heads  query heads of the block, their KV heads and the width of a head
    """

    kind: ClassVar[str] = "heads"
    half: ClassVar[str] = "attention"

    heads: tuple[int, int, int]

    @classmethod
    def layouts(cls, block: Block, config: Any, heads: str) -> list[Self]:
        """As of `Pair`: heads "groups" or "queries"."""
        consumer, producers = attention_matrices(block)
        shape = query, groups, _ = head_shape(block, config)
        alone = heads == "queries" and groups < query
        count = query if alone else groups
        tied = torch.arange(query) // (query // groups) if alone else torch.zeros(count, dtype=torch.long)
        columns = torch.arange(consumer.columns).view(count, -1)
        name = f"{block.name}.{consumer.name}"

        def made(rows: Sequence[Tensor | None]) -> tuple[Producer, ...]:
            return tuple(
                Producer(f"{block.name}.{matrix.name}", matrix, owned.reshape(count, -1))
                for matrix, owned in zip(producers, rows, strict=True)
                if owned is not None
            )

        layouts = _rows(shape, producers, alone)
        return [cls(block.index, name, consumer, columns, made(rows), tied, shape) for rows in layouts]

    @property
    def contents(self) -> str:
        """Heads, KV groups of query heads, or query heads in KV groups."""
        query, groups, _ = self.heads
        if self.units < self.count:
            return f"{self.units} query heads in each of its {self.count // self.units} KV groups"
        if self.count == groups < query:
            return f"{groups} KV groups of {query // groups} query heads"
        return f"{self.count} {self.kind}"

    def multiply_adds(self, context: int) -> int:
        """Those of its weights, and of its queries with `context` keys and of as many values."""
        return super().multiply_adds(context) + 2 * context * self.columns.shape[1]

    def reduced(self, mask: Tensor, widths: Widths) -> Widths:
        """Fewer query heads, and fewer KV heads where these go with them."""
        query, groups, size = self.heads
        kept = int(mask.sum())
        whole_groups = self.count == groups
        heads = kept * self.columns.shape[1] // size
        return replace(widths, heads=heads, key_value_heads=kept if whole_groups else groups)


def _rows(shape: tuple[int, int, int], producers: list[Matrix], alone: bool) -> list[list[Tensor | None]]:
    """For every possible layout, each producer's rows ordered by structure; None where it gives none away.

    alone  whether a query head goes without its KV group
    """
    query, groups, size = shape
    if len(producers) == 3:
        return [[None if alone and m.rows < query * size else torch.arange(m.rows) for m in producers]]
    rows, per = producers[0].rows, query // groups
    parts = torch.arange(rows).split([query * size, groups * size, groups * size])
    apart = torch.cat([part.view(groups, -1) for part in parts], dim=1)  # all queries, then all keys, then all values
    together = torch.arange(rows).view(groups, -1)  # the queries, the key and the value of one group after another
    return [[layout[:, : per * size] if alone else layout] for layout in (apart, together)]

"""The pairs of a kept and a removed weight that may be swapped, and the cheapest of every row: tables that live as long
as the rows' swaps do.

Swapping weights p and u of a row changes its loss by their prices, what removing or reviving each alone would change,
and -2 w_p w_u G_pu. Both tables hold this last part for all pairs of every group and have the same methods; `order` is
how a row's columns are to lie for them.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

CACHE = 2**19  # bytes of pair costs passed over at once on a CPU
LANES = 32  # the minimum over a row of costs whose length these divide takes half the time


class SmallGroups:
    """The costs -2 w_p w_u G_pu of all pairs of weights of a group. Columns by slot: column slot * groups + group."""

    @staticmethod
    def order(width: int, size: int) -> Tensor:
        """Columns (width,) as they are to lie: all first slots, then all second ones."""
        return torch.arange(width).view(-1, size).T.flatten()

    @staticmethod
    def held(mask: Tensor, size: int) -> int:
        """Numbers that a row's tables hold."""
        return 3 * mask.shape[1] * (size - 1) // 2

    def __init__(self, weight: Tensor, status: Tensor, coarse: Tensor, size: int) -> None:
        columns = torch.arange(weight.shape[1], device=weight.device).view(size, -1)
        first = torch.cat(
            [columns[:-step] for step in range(1, size)]
        )  # (pairs, groups), pairs of slots `step` apart together
        second = torch.cat([columns[step:] for step in range(1, size)])
        self.ends = torch.stack([first[:, 0], second[:, 0]], 1)  # (pairs, 2), of group 0
        self.pairs = coarse[first, second] * -2 * weight[:, first] * weight[:, second]  # (rows, pairs, groups)
        self.size, self.costs, self.same, self.sign = (
            size,
            torch.empty_like(self.pairs),
            torch.empty_like(self.pairs),
            torch.empty_like(weight),
        )

    def best(self, price: Tensor, status: Tensor) -> Tensor:
        """The columns (rows, 2) of every row's cheapest pair of a kept and a removed weight, which is which left open.

        price (rows, columns): what removing, or reviving, a weight alone would change; infinite where there is none.
        """
        costs, same, sign = (memory[: len(price)] for memory in (self.costs, self.same, self.sign))
        price, sign = (part.view(len(price), self.size, -1) for part in (price, torch.mul(status, torch.inf, out=sign)))
        start = 0
        for step in range(1, self.size):
            span = slice(start, start + self.size - step)
            torch.add(price[:, :-step], price[:, step:], out=costs[:, span])
            torch.mul(
                sign[:, :-step], sign[:, step:], out=same[:, span]
            )  # infinite for two kept or two removed weights
            start = span.stop
        torch.maximum(costs.add_(self.pairs), same, out=costs)
        group = costs.amin(1).argmin(1, keepdim=True)
        pair = costs.gather(2, group[:, None].expand(-1, costs.shape[1], 1)).argmin(1)
        return self.ends[pair[:, 0]].add_(group)

    def take(self, rows: Tensor) -> None:
        """Only these rows, from the last `best` on."""
        self.pairs = self.pairs[rows]

    def update(self, both: Tensor, going: Tensor) -> None:
        """After swaps of the last pairs of the rows where `going` (rows,): nothing to do here, `status` says it all."""


class LargeGroups:
    """The costs -2 w_p w_u G_pu of the pairs of a kept and a removed weight of a group, as a table with a slot for
    each.

    Column `in`, the last, fills up groups with fewer; it holds no weight. `leaves`, `enters` and `group` are the last
    pair's kept and removed slot and its group, counted through all rows.
    """

    @staticmethod
    def order(width: int, size: int) -> Tensor:
        """Columns as they are, and the one that holds no weight."""
        return torch.arange(width + 1)

    @staticmethod
    def held(mask: Tensor, size: int) -> int:
        """Numbers that a row's table holds where the fullest row has it."""
        most = -(-mask.shape[1] // size)
        for which in (mask, ~mask):
            most *= max(int(part.sum(1).max()) for part in which.split(size, 1))
        return most

    def __init__(self, weight: Tensor, status: Tensor, coarse: Tensor, size: int) -> None:
        self.weight, self.coarse = weight, coarse
        self.kept = _positions(status[:, :-1] > 0, size)  # (rows, groups, kept slots)
        self.removed = _positions(status[:, :-1] < 0, size, LANES if size >= 2 * LANES else 1)
        self.pairs = coarse[
            self.kept[..., None], self.removed[..., None, :]
        ]  # (rows, groups, kept slots, removed slots)
        self.pairs *= -2 * weight.gather(1, self.kept.flatten(1)).view_as(self.kept)[..., None]
        self.pairs *= weight.gather(1, self.removed.flatten(1)).view_as(self.removed)[..., None, :]
        step = (
            len(weight) if weight.is_cuda else max(CACHE * len(weight) // (self.pairs.numel() * self.pairs.itemsize), 1)
        )
        self.costs = torch.empty_like(self.pairs[:step])

    def best(self, price: Tensor, status: Tensor) -> Tensor:
        """As of small groups; the kept one first."""
        groups, kept, removed = self.pairs.shape[1:]
        revive = price.gather(1, self.removed.flatten(1)).view(-1, removed)
        least = self._cheapest_partner(revive).add_(price.gather(1, self.kept.flatten(1)))
        self.leaves = least.argmin(1) + torch.arange(0, self.kept.numel(), groups * kept, device=price.device)
        self.group = self.leaves // kept
        costs = self.pairs.view(-1, removed).index_select(0, self.leaves).add_(revive.index_select(0, self.group))
        self.enters = costs.argmin(1).add_(self.group, alpha=removed)
        return torch.stack([self.kept.take(self.leaves), self.removed.take(self.enters)], 1)

    def _cheapest_partner(self, revive: Tensor) -> Tensor:
        """For every kept slot (rows, groups * kept slots) the least cost of a pair and its revived weight, a cache full
        of rows at a time.
        """
        rows, groups, _, removed = self.pairs.shape
        least, revive, step = (
            torch.empty_like(self.pairs[..., 0]),
            revive.view(rows, groups, 1, removed),
            len(self.costs),
        )
        for start in range(0, rows, step):
            lane = slice(start, min(start + step, rows))
            torch.amin(
                torch.add(self.pairs[lane], revive[lane], out=self.costs[: lane.stop - start]), 3, out=least[lane]
            )
        return least.flatten(1)

    def take(self, rows: Tensor) -> None:
        """As of small groups."""
        fewer = torch.arange(len(rows), device=rows.device) - rows  # how far a row moves
        self.leaves = self.leaves[rows].add_(fewer, alpha=self.kept[0].numel())
        self.group = self.group[rows].add_(fewer, alpha=self.kept.shape[1])
        self.enters = self.enters[rows].add_(fewer, alpha=self.removed[0].numel())
        self.weight, self.pairs, self.kept, self.removed = (
            self.weight[rows],
            self.pairs[rows],
            self.kept[rows],
            self.removed[rows],
        )

    def update(self, both: Tensor, going: Tensor) -> None:
        """Put the swapped weights of the rows where `going` into each other's slots, with the costs of their new
        pairs.
        """
        kept, removed = self.pairs.shape[2:]
        stays, goes = torch.where(going[:, None], both.flip(1), both).unbind(1)
        self.kept.view(-1).index_copy_(0, self.leaves, stays)
        self.removed.view(-1).index_copy_(0, self.enters, goes)
        costs = self._costs(stays, self.removed.view(-1, removed).index_select(0, self.group))
        self.pairs.view(-1, removed).index_copy_(0, self.leaves, costs)
        costs = self._costs(goes, self.kept.view(-1, kept).index_select(0, self.group))
        self.pairs.view(-1, kept, removed)[self.group, :, self.enters % removed] = costs

    def _costs(self, column: Tensor, others: Tensor) -> Tensor:
        """(rows, n) of a weight's column (rows,) and others (rows, n)."""
        return (
            self.coarse.index_select(0, column)
            .mul_(self.weight)
            .gather(1, others)
            .mul_(-2 * self.weight.gather(1, column[:, None]))
        )


def _positions(which: Tensor, size: int, lanes: int = 1) -> Tensor:
    """Columns (rows, groups, slots) where `which` (rows, in) is True in each `size` columns, in order; `in` fills up
    shorter groups.

    As many slots as the fullest group needs, rounded up to a multiple of `lanes`; at least one.
    """
    rows, width = which.shape
    groups = -(-width // size)
    which = pad(which, (0, groups * size - width)).view(rows, groups, size)
    slot = which.cumsum(2)
    slots = max(-(-int(slot[..., -1].max()) // lanes), 1) * lanes
    positions = torch.full((rows, groups, slots + 1), width, device=which.device)
    column = torch.arange(groups * size, device=which.device).view(1, groups, size).expand_as(which)
    return positions.scatter_(2, torch.where(which, slot - 1, slots), column)[..., :slots].contiguous()

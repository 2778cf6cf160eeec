"""MaskLoRA: a masked low-rank change of every matrix, merged at every moment (PERP, 2312.15230).

The effective weight is W + (alpha / rank) (B A) * M. It stands in the model's own parameter, so the forward is the
model's and there is nothing to merge; the chain rule through the product takes two small matrix products per step,
without autograd.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.errors import UsageError
from analysis.models.anatomy import Matrix
from analysis.models.hooks import hooked


@dataclass(frozen=True, eq=False)
class MaskLoRA:
    """The masked low-rank change of one matrix (out, in), which is pruned already.

    start  (out, in), the weight before the change
    kept   (out, in), 1 where the mask keeps a weight, 0 where not
    up     B (out, rank), zero at first, so that training starts at the pruned model
    down   A (rank, in), uniform within 1 / sqrt(in) at first (LoRA's initialisation)
    """

    matrix: Matrix
    start: Tensor
    kept: Tensor
    up: Tensor
    down: Tensor
    scale: float

    @property
    def parameters(self) -> tuple[Tensor, Tensor]:
        """What the optimiser moves."""
        return self.up, self.down

    @torch.no_grad()
    def put(self) -> None:
        """Make the model's weight start + scale (B A) * kept; removed weights keep their exact zero."""
        torch.addcmul(self.start, self.up @ self.down, self.kept, value=self.scale, out=self.matrix.weight())

    @torch.no_grad()
    def take(self, stored: Tensor) -> None:
        """Turn the gradient of the parameter that holds the model's weight into the gradients of A and B."""
        gradient = self.matrix.part(stored).mul_(self.kept)
        self.up.grad = (gradient @ self.down.T).mul_(self.scale)
        self.down.grad = (self.up.T @ gradient).mul_(self.scale)


def mask_lora(
    matrices: Mapping[str, Matrix],
    masks: Mapping[nn.Parameter, Tensor],
    rank: int,
    alpha: float,
    generator: torch.Generator,
) -> list[MaskLoRA]:
    """One adapter per matrix, changing nothing yet. masks: parameter -> bool in its own layout; a matrix without one is
    kept whole.

    generator: a CPU generator, for A. Raises UsageError naming the first matrix that `rank` is too large for.
    """
    adapters = []
    for name, matrix in matrices.items():
        start = matrix.weight().clone()
        rows, columns = start.shape
        if rank > min(rows, columns):
            side = min(rows, columns)
            raise UsageError(
                f"masklora: rank {rank} is above {side}, the smaller side of {name} ({rows} x {columns}); choose a"
                " smaller rank"
            )
        mask = masks.get(matrix.parameter)
        kept = torch.ones_like(start) if mask is None else matrix.part(mask).to(start)
        down = torch.empty(rank, columns).uniform_(-(columns**-0.5), columns**-0.5, generator=generator).to(start)
        adapters.append(MaskLoRA(matrix, start, kept, start.new_zeros(rows, rank), down, alpha / rank))
    return adapters


@contextmanager
def adapting(adapters: Sequence[MaskLoRA]) -> Iterator[None]:
    """While open, every backward pass leaves gradients on A and B; each weight's own is dropped as soon as it is
    used.
    """
    weights: dict[nn.Parameter, list[MaskLoRA]] = {}
    for adapter in adapters:
        weights.setdefault(adapter.matrix.parameter, []).append(adapter)

    def take(weight: nn.Parameter) -> None:
        gradient, weight.grad = weight.grad, None
        if gradient is not None:
            for adapter in weights[weight]:
                adapter.take(gradient)

    try:
        for weight in weights:
            weight.requires_grad_(True)
        with hooked(gradients=[(weight, take) for weight in weights]):
            yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)

"""A toy attention half, for what looks at the inputs of matrices."""

import torch
from torch import Tensor, nn

from analysis.models.anatomy import Matrix


class Attention(nn.Module):
    """Three maps fed one tensor and one fed another, like an attention half."""

    def __init__(self, width: int = 12):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name in ("query", "key", "value", "out"):
            setattr(self, name, nn.Linear(width, width, bias=False))
            getattr(self, name).weight.data = torch.randn(width, width, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.query(x) + self.key(x) * self.value(x)))

    def matrices(self) -> list[Matrix]:
        return [Matrix(name, module, False, "attention") for name, module in self.named_children()]

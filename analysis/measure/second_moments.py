"""Second moments of hidden states: how much of what a model does on one text it also does on another.

The second moment of a text at a block is S = mean of h h^T over the real tokens, h the dense model's hidden state (H
entries) at the block's output. Two texts are as far apart there as ||S - S'||_F / ||S'||_F, S' being that of the text
measured against.

    near, far = second_moment(model, calibration), second_moment(model, held_out)     # one (H, H) per block
    [distance(a, b) for a, b in zip(near, far)]
"""

from dataclasses import dataclass

from torch import Tensor

from analysis.errors import NumericalError
from analysis.models.anatomy import anatomy, evaluating, run_body
from analysis.text.windows import Windows

BATCH = 8  # windows per forward


@dataclass(eq=False)
class MomentSum:
    """Sum of h h^T over real tokens, in float64 where the device has it: a product in float32 for each batch, added up
    exactly enough.
    """

    total: Tensor | None = None  # (H, H)
    tokens: int = 0

    def add(self, hidden: Tensor, mask: Tensor) -> None:
        """Count hidden (B, T, H) where mask (B, T) is True."""
        rows = (hidden.flatten(0, 1) if bool(mask.all()) else hidden[mask.to(hidden.device)]).float()
        product = rows.T @ rows
        product = product if product.device.type == "mps" else product.double()
        self.total = product if self.total is None else self.total.add_(product)
        self.tokens += len(rows)

    def mean(self) -> Tensor:
        """S (H, H), float64, on the CPU."""
        return self.total.cpu().double() / self.tokens


def distance(moment: Tensor, reference: Tensor) -> float:
    """||S - S'||_F / ||S'||_F of two second moments (H, H): 0 for equal ones, no unit; not symmetric. Raises
    NumericalError if it is not finite.
    """
    value = float((moment - reference).norm() / reference.norm())
    if not value < float("inf"):
        raise NumericalError(f"distance of second moments: {value}; hidden states are not finite, or zero throughout")
    return value


def second_moment(model, windows: Windows) -> list[Tensor]:
    """S (H, H), float64 on the CPU, of every block's output in the model's own forward over the real tokens of windows
    (N, T).

    model: a causal language model, or a loaded model. Raises UnsupportedModel where its blocks cannot be found.
    """
    model = getattr(model, "model", model) if hasattr(model, "fingerprint") else model
    blocks = anatomy(model).blocks
    sums = [MomentSum() for _ in blocks]
    rows = slice(0)

    def count(total: MomentSum):
        return lambda module, args, output: total.add(
            output[0] if isinstance(output, (tuple, list)) else output, windows.mask[rows]
        )

    handles = [block.module.register_forward_hook(count(total)) for block, total in zip(blocks, sums, strict=True)]
    try:
        with evaluating(model):
            for start in range(0, len(windows), BATCH):
                rows = slice(start, start + BATCH)
                run_body(
                    model, windows.ids[rows], windows.mask[rows], None if windows.types is None else windows.types[rows]
                )
    finally:
        for handle in handles:
            handle.remove()
    return [total.mean() for total in sums]

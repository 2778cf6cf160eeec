"""In which precision the products of gradient units are computed: the solver's option `compute`.

Weights, gradients, Adam's moments and losses stay float32, whatever is chosen, and so do statistics and closed forms.

    float32  the products in float32
    tf32     float32 tensors, products with 10 bits of mantissa, on CUDA alone
    medium   float32 tensors, products in bfloat16 where the device has them (CPUs with AMX), torch's own word
    bf16     autocast: matrix products and attention in bfloat16, their results too; of a whole model all but its head
    auto     bf16 on a CUDA device that computes in it, float32 elsewhere
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from analysis.models.replay import Recording
from analysis.reconstruction.units import Piece

FLAGS = {"float32": "highest", "tf32": "high", "medium": "medium", "bf16": "highest"}


def chosen(compute: str | None, device: torch.device) -> str:
    """The word of `FLAGS` that `compute` stands for on a device; None: what torch is set to."""
    if compute is None:
        return next(word for word, flag in FLAGS.items() if flag == torch.get_float32_matmul_precision())
    if compute != "auto":
        return compute
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


@contextmanager
def products(compute: str | None, device: torch.device) -> Iterator[None]:
    """While open, float32 products are computed as `compute` says; then as before, after an error too."""
    before = torch.get_float32_matmul_precision()
    if compute is not None:
        torch.set_float32_matmul_precision(FLAGS[chosen(compute, device)])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocasting(piece: Piece, compute: str | None, device: torch.device) -> Piece:
    """The piece, its run under autocast to bfloat16 where `compute` means that, what it returns in float32."""
    if chosen(compute, device) != "bf16":
        return piece

    def run(recording: Recording, x: Tensor, rows) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return piece.run(recording, x, rows).float()

    return replace(piece, run=run)

"""Second moments of hidden states: how much of what a model does on one text it also does on another.

The second moment of a text at a block is S = mean of h h^T over the real tokens, h the dense model's hidden state (H
entries) at the block's output. Two texts are as far apart there as ||S - S'||_F / ||S'||_F, S' being that of the text
measured against.

    near, far = second_moment(model, calibration), second_moment(model, held_out)     # one (H, H) per block
    [distance(a, b) for a, b in zip(near, far)]
"""

from torch import Tensor, nn

from analysis.models.anatomy import anatomy, evaluating, run_body
from analysis.models.load import LoadedModel, unwrapped
from analysis.streams.moments import MomentSum
from analysis.windows import Windows

BATCH = 8  # windows per forward


def second_moment(model: LoadedModel | nn.Module, windows: Windows) -> list[Tensor]:
    """S (H, H), float64 on the CPU, of every block's output in the model's own forward over the real tokens of windows
    (N, T).

    model: a causal language model, or a loaded model. Raises UnsupportedModel where its blocks cannot be found.
    """
    model = unwrapped(model)
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

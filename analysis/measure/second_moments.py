"""Second moments of hidden states: how much of what a model does on one text it also does on another.

The second moment of a text at a block is S = mean of h h^T over the real tokens, h the dense model's hidden state (H
entries) at the block's output. Two texts are as far apart there as ||S - S'||_F / ||S'||_F, S' being that of the text
measured against.

    near, far = second_moment(model, calibration), second_moment(model, held_out)     # one (H, H) per block
    [distance(a, b) for a, b in zip(near, far)]
"""

from torch import Tensor, nn

from analysis.models.anatomy import anatomy, evaluating, run_body
from analysis.models.hooks import hooked
from analysis.models.load import LoadedModel, unwrapped
from analysis.streams.moments import Accumulator, hidden_accumulator, mean_square, real_rows
from analysis.windows import Windows

WINDOWS_PER_FORWARD = 8  # windows per forward


def second_moment(model: LoadedModel | nn.Module, windows: Windows) -> list[Tensor]:
    """S (H, H), float64 on the CPU, of every block's output in the model's own forward over the real tokens of windows
    (N, T).

    model: a causal language model, or a loaded model. Raises UnsupportedModel where its blocks cannot be found.
    """
    model = unwrapped(model)
    blocks = anatomy(model).blocks
    sums: list[Accumulator] = []
    rows = slice(0)

    def count(index: int):
        def hook(module, args, output) -> None:
            hidden = output[0] if isinstance(output, tuple | list) else output
            if len(sums) == index:
                sums.append(hidden_accumulator(hidden.shape[-1], hidden.device))
            sums[index].add(real_rows(hidden, windows.mask[rows]))

        return hook

    with hooked(after=[(block.module, count(index)) for index, block in enumerate(blocks)]), evaluating(model):
        for start in range(0, len(windows), WINDOWS_PER_FORWARD):
            rows = slice(start, start + WINDOWS_PER_FORWARD)
            run_body(model, windows.arguments(rows))
    return [mean_square(total, block.name) for total, block in zip(sums, blocks, strict=True)]

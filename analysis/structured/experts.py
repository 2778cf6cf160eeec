"""Which experts of a mixture stay, and what the last projections of those that stay become.

Scores are those of a block's experts among one another, on the dense model's stream and over real tokens alone; an
expert counts the tokens that go to it, n of them, with gate weights g and outputs f:

    frequency   n
    activation  mean of |f|
    reap        mean of g |f| (2510.13999)
    random      random numbers: the baseline

An expert that no token goes to scores 0. Where a router parts experts into groups, every group loses equally many.

What stays is repaired on the sum of all experts. Write z for the activations that the last projections of all kept
experts read, each times its gate weight and 0 where a token does not go there: together they compute W z, W their
weights side by side. What they should give is y = t - r, t the output of the dense block, r that of the pruned block
without its experts. `liar` is the ridge regression of y on z towards W (`repair.py`; `routed.py` where z is long);
`compensate` adds the mean of y - W z to every expert's bias, which is right where gate weights sum to one, and needs
biases.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.errors import NumericalError, UnsupportedModel
from analysis.models.anatomy import Block
from analysis.models.block_arguments import Call
from analysis.models.experts import LAST, Routed, expert_count
from analysis.models.fewer_experts import inner_width
from analysis.models.hooks import hooked
from analysis.models.replay import Recording, run
from analysis.streams.moments import Accumulator, Sums
from analysis.streams.streams import Streams, advance, call_of, chunks, unit_output

LARGEST = 16_384  # activations of all kept experts up to which their Gram matrix is made; more: `routed.py`
ADDED = 1e-3  # relative: how far a block's output may be from what it is without its experts + their sum


# --- scores ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Seen:
    """What one block's experts did on the real tokens, each (experts,), float64.

    tokens that went there; norms: sum of |f| over these; weighted: sum of g |f|.
    """

    tokens: Tensor
    norms: Tensor
    weighted: Tensor

    def mean(self, total: Tensor) -> Tensor:
        """Per token that went there; 0 where none did."""
        return total / self.tokens.clamp(min=1)


@torch.inference_mode()
def seen(block: Block, module: nn.Module, streams: Streams, hidden: Tensor) -> Seen:
    """What a block's experts do where the block reads `hidden` (N, T, H), the first N windows of the streams."""
    count, device = expert_count(module), next(block.module.parameters()).device
    totals = torch.zeros(3, count, dtype=torch.float64)
    for rows in chunks(hidden.shape[0], hidden.shape[1], device):
        x = hidden[rows].to(device)
        call, _ = _call(block, module, x, call_of(streams.recording, block.index, x, rows))
        real = streams.counts[rows].flatten().to(device)
        for expert in range(count):
            mine = (real & call.tokens(expert)).nonzero()[:, 0]
            norms = call.output(expert, mine).double().norm(dim=1)
            gate = call.gate(expert)[mine].double()
            totals[:, expert] += torch.stack([torch.ones_like(norms).sum(), norms.sum(), (gate * norms).sum()]).cpu()
    return Seen(*totals)


EXPERT_SCORES: dict[str, Callable[[Seen, torch.Generator], Tensor]] = {
    "random": lambda seen, generator: torch.rand(len(seen.tokens), generator=generator, dtype=torch.float64),
    "frequency": lambda seen, generator: seen.tokens,
    "activation": lambda seen, generator: seen.mean(seen.norms),
    "reap": lambda seen, generator: seen.mean(seen.weighted),
}
"""The scores of every criterion of experts, by its word (`EXPERT_WORDS`); larger = keep."""


def best(scores: Tensor, kept: int, groups: int, name: str) -> Tensor:
    """(experts,) bool: the `kept` experts of the highest scores, equally many of each group; equal scores keep the
    earlier one. Raises NumericalError naming the block for scores that are no numbers.
    """
    if not bool(scores.isfinite().all()):
        raise NumericalError(f"{name}: scores of its experts are not finite; load the model in float32 or bfloat16")
    order = scores.reshape(groups, -1).sort(dim=1, descending=True, stable=True).indices
    mask = torch.zeros(groups, len(scores) // groups, dtype=torch.bool)
    return mask.scatter(1, order[:, : kept // groups], True).flatten()


# --- repair ----------------------------------------------------------------------------------------------------------


def check_repair(how: str, name: str, module: nn.Module) -> None:
    """Raise UnsupportedModel where a block's experts cannot be repaired so."""
    if how == "compensate" and not module.has_bias:
        raise UnsupportedModel(
            f"{name}: its experts have no biases that could make up for the mean of those that are gone; take LIAR, LR"
            " or BR+GP"
        )


@torch.inference_mode()
def expert_sums(
    pruned: Block, module: nn.Module, dense: Block, recording: Recording, hidden: Tensor, source: Tensor
) -> tuple[Sums, float]:
    """Sums, float64, of z and of y - b, b the kept experts' biases times their gate weights; and the largest difference
    of a token's gate weights' sum from one.

    hidden (N, T, H) at the pruned block's input; source (N, T, H) at that of the dense block, which gives t.
    Raises UnsupportedModel where the sum of the experts is not added to the residual stream as it is.
    """
    device = next(pruned.module.parameters()).device
    count, width = expert_count(module), inner_width(module)
    sums = Accumulator(Sums.PARTS, count * width, hidden.shape[-1], precision=torch.float64, device=device)
    away = 0.0
    for call, real, target in visited(pruned, module, dense, recording, hidden, source):
        inputs, fixed = _side_by_side(call, count, width)
        away = max(away, float((call.weights.sum(1)[real] - 1).abs().max()))
        sums.add(inputs[real], (target - fixed)[real])
    return Sums.of(sums, f"{pruned.name}'s experts"), away


def visited(
    pruned: Block, module: nn.Module, dense: Block, recording: Recording, hidden: Tensor, source: Tensor
) -> Iterator[tuple[Routed, Tensor, Tensor]]:
    """For each chunk of a text's tokens: what the experts are called with, which tokens count (n,), and y (n, H) in
    float64, of them all. Arguments and errors as those of `expert_sums`.
    """
    device = next(pruned.module.parameters()).device
    for rows in chunks(len(recording), recording.mask.shape[1], device):
        x, real = hidden[rows].to(device), recording.counts[rows].flatten().to(device)
        arguments = call_of(recording, pruned.index, x, rows)
        call, rest = _call(pruned, module, x, arguments)
        target = unit_output([dense.module], dense.index, recording, source[rows].to(device), rows)
        if rows.start == 0:
            whole = run(pruned.module, x, arguments)
            made = rest.double() + _made(call, module).view(rest.shape)
            if not (error := float((made - whole).norm() / whole.norm())) <= ADDED:
                raise UnsupportedModel(
                    f"{pruned.name}: what its experts make is not added to the residual stream as it is (relative"
                    f" difference {error:.2g}), so it cannot be repaired; take LR or BR+GP"
                )
        yield call, real, (target.double() - rest.double()).flatten(0, 1)


def weights_side_by_side(module: nn.Module) -> Tensor:
    """(H, experts x activations): the last projections of all experts."""
    down = module.get_parameter(LAST).data
    down = down.transpose(1, 2) if module.is_transposed else down
    return down.permute(1, 0, 2).flatten(1)


@torch.no_grad()
def assign_side_by_side(module: nn.Module, weight: Tensor) -> None:
    """Write what `weights_side_by_side` gives into the module."""
    down = module.get_parameter(LAST).data
    parted = weight.view(len(weight), len(down), -1).permute(1, 0, 2)
    down.copy_(parted.transpose(1, 2) if module.is_transposed else parted)


def _side_by_side(call: Routed, count: int, width: int) -> tuple[Tensor, Tensor]:
    """(N, experts x activations) z, and (N, H) the biases times the gate weights, 0 without any; float64."""
    inputs = torch.zeros(len(call.hidden), count * width, dtype=torch.float64, device=call.hidden.device)
    fixed = torch.zeros_like(call.hidden, dtype=torch.float64)
    for expert in range(count):
        rows, z, own = gated_inputs(call, expert)
        inputs[rows, expert * width : (expert + 1) * width] = z
        fixed[rows] += own
    return inputs, fixed


def gated_inputs(call: Routed, expert: int, among: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The rows (n,) of the tokens that go to an expert (`among` these, (N,) bool), its z (n, activations), and its bias
    times the gate weights (n, H), 0 without any; float64.
    """
    mine = call.tokens(expert) if among is None else call.tokens(expert) & among
    rows = mine.nonzero()[:, 0]
    gate = call.gate(expert)[rows, None].double()
    z = gate * call.read(LAST, expert, rows).double()
    bias = getattr(call.module, f"{LAST}_bias", None)
    return rows, z, gate * (call.hidden.new_zeros(1) if bias is None else bias[expert]).double()


def _made(call: Routed, module: nn.Module) -> Tensor:
    """(N, H) what all experts make together, float64."""
    made, weight = torch.zeros_like(call.hidden, dtype=torch.float64), weights_side_by_side(module)
    for expert, own in enumerate(weight.split(inner_width(module), dim=1)):
        rows, z, fixed = gated_inputs(call, expert)
        made[rows] += z @ own.double().T + fixed
    return made


def _call(block: Block, module: nn.Module, hidden: Tensor, arguments: Call) -> tuple[Routed, Tensor]:
    """What the experts of a block are called with, and the block's output (B, T, H) without what they make."""
    given: list[Routed] = []
    before = [(module, lambda module, args, kwargs: given.append(Routed.of(module, args, kwargs)))]
    after = [(module, lambda module, args, output: torch.zeros_like(output))]
    with hooked(before, after):
        output = run(block.module, hidden, arguments)
    (call,) = given
    return call, output


def walk(blocks: tuple[Block, ...], streams: Streams, shown: int) -> Iterator[tuple[Block, Tensor]]:
    """Every block with the hidden states (N, T, H) at its input, in the dense model."""
    hidden, passed = streams.of("dense")[:shown], None
    for block in blocks:
        yield block, hidden
        if block.index < len(blocks) - 1:
            hidden = passed = advance([block.module], block.index, streams.recording, hidden, out=passed)

"""What it costs to take blocks, or halves of blocks, out of a model, by each criterion, and the cheapest choice.

A criterion is a cost of any set of blocks (`DEPTH_COSTS`). A run of blocks (contiguous=true, and angular always) is the
one that costs least of all runs; any other choice is greedy: one after the other, the one with which the set costs
least. Where the cost of a set is the sum of its members', that is the cheapest set. Of equal costs the deepest goes.

Everything is measured on the dense model and calibration text; padding never counts.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from analysis.errors import NumericalError
from analysis.models.anatomy import Anatomy, Block, evaluating
from analysis.models.block_arguments import Call
from analysis.models.hooks import hooked
from analysis.models.passing import without_blocks
from analysis.models.replay import run
from analysis.models.sub_blocks import half_output
from analysis.models.task_heads import check_answers
from analysis.models.widths import consumer_of
from analysis.recipe.depth import removable, removed_count, runs
from analysis.recipe.parts import Criterion, Pattern
from analysis.reconstruction.losses import counted
from analysis.streams.streams import Streams, advance, call_of, chunks
from analysis.structured.criteria import own_loss, text_tokens, token_batches
from analysis.windows import Windows

WINDOWS_PER_LOSS = 8
NOISE = 0.01  # of the gain: length of the error, as a share of the hidden state's

Cost = Callable[[Sequence[int]], float]
"""Of taking out the blocks of these numbers, or a half of each; lower = goes first."""


@dataclass(eq=False)
class Look:
    """What criteria look at.

    streams    of the calibration text, both at the first block; `shown` its first windows, which are looked at
    kind       "blocks", "attention" or "mlp"
    generator  a source of random numbers for each block's name
    passes     how often the windows have gone through the model so far
    """

    model: nn.Module
    parts: Anatomy
    streams: Streams
    shown: int
    kind: str
    generator: Callable[[str], torch.Generator]
    passes: int = 0

    @property
    def windows(self) -> Windows:
        return self.streams.recording.windows.subset(self.shown)

    def walk(self) -> Iterator[tuple[Block, Tensor]]:
        """Every block with the hidden states (N, T, H) at its input, in the dense model."""
        hidden, passed = self.streams.of("dense")[: self.shown], None
        for block in self.parts.blocks:
            yield block, hidden
            if block.index < len(self.parts.blocks) - 1:
                hidden = passed = advance([block.module], block.index, self.streams.recording, hidden, out=passed)
        self.passes += 1

    def batches(self, block: Block, hidden: Tensor) -> Iterator[tuple[Tensor, Call, Tensor]]:
        """Chunk by chunk hidden states (B, T, H), the block's arguments and the mask (B, T) of tokens that count."""
        device = next(block.module.parameters()).device
        for rows in chunks(hidden.shape[0], hidden.shape[1], device):
            x = hidden[rows].to(device)
            yield x, call_of(self.streams.recording, block.index, x, rows), self.streams.counts[rows].to(device)


def choose_blocks(criterion: Criterion, pattern: Pattern, look: Look) -> list[int]:
    """The numbers of the blocks that go, or lose a half, in order.

    Raises UsageError as `removed_count`, NumericalError for a cost that is no number, DataError for a criterion of the
    loss where the text does not go with the model's head.
    """
    blocks = len(look.parts.blocks)
    count, free = removed_count(pattern, blocks), removable(pattern, blocks)
    if not count:
        return []
    cost = DEPTH_COSTS[criterion.name](look)

    def checked(numbers: Sequence[int]) -> float:
        value = cost(numbers)
        if math.isnan(value):
            raise NumericalError(
                f"criterion {criterion.name}: the cost of taking out {look.kind} {', '.join(map(str, numbers))} is no"
                " number; look at the model and the calibration text"
            )
        return value

    if pattern.contiguous or criterion.name == "angular":
        cheapest: range = min(runs(free, count), key=lambda run: (checked(run), -run[0]))
        return list(cheapest)
    gone: list[int] = []
    for _ in range(count):
        left = (number for number in free if number not in gone)
        gone.append(min(left, key=lambda number: (checked([*gone, number]), -number)))
    return sorted(gone)


# --- states ----------------------------------------------------------------------------------------------------------


def part_input(block: Block, kind: str, hidden: Tensor, call: Call) -> Tensor:
    """What a block, or one half of it, reads of the residual stream, where the block reads `hidden` (B, T, H)."""
    return half_output(block, "attention", hidden, call) if kind == "mlp" and not block.parallel else hidden


def part_output(block: Block, kind: str, before: Tensor, call: Call) -> Tensor:
    """The residual stream (B, T, H) behind a block, or behind one half of it, which reads `before`."""
    return run(block.module, before, call) if kind == "blocks" else half_output(block, kind, before, call)


@torch.inference_mode()
def influences(look: Look) -> list[float]:
    """Block Influence (Men et al. 2024, arXiv 2403.03853): 1 - cosine of the hidden state before and behind each block
    or half, mean over real tokens."""
    found = []
    for block, hidden in look.walk():
        total, tokens = 0.0, 0
        for x, call, real in look.batches(block, hidden):
            before = part_input(block, look.kind, x, call)
            after = part_output(block, look.kind, before, call)
            turned = 1 - cosine_similarity(before[real].double(), after[real].double(), dim=-1)
            total, tokens = total + float(turned.sum()), tokens + len(turned)
        found.append(total / tokens)
    return found


@torch.inference_mode()
def gains(look: Look) -> list[float]:
    """|gain - 1| of each block or half: gain is the root mean square, over real tokens, of what an error at its input
    has become at its output, over that of the error. The error is Gaussian, `NOISE` times as long as each token's
    hidden state (in our own formulation, after the abstract of arXiv 2603.20991: depth-wise errors are products of such
    gains)."""
    found = []
    for block, hidden in look.walk():
        source, put, left = look.generator(block.name), 0.0, 0.0
        for x, call, real in look.batches(block, hidden):
            before = part_input(block, look.kind, x, call)
            noise = torch.randn(before.shape, generator=source, dtype=torch.float64).to(before) * real[..., None]
            error = noise * (NOISE * before.norm(dim=-1, keepdim=True) / before.shape[-1] ** 0.5)
            clean, noisy = (part_output(block, look.kind, state, call) for state in (before, before + error))
            put += float(error[real].double().square().sum())
            left += float((noisy - clean)[real].double().square().sum())
        found.append(abs((left / put) ** 0.5 - 1) if put else 0.0)
    return found


@torch.inference_mode()
def last_states(look: Look) -> Tensor:
    """(blocks + 1, N, H) float64 on the CPU: the last token that counts of each window that has one, at every block's
    input, and behind the last block."""
    counts = look.streams.counts[: look.shown].cpu()
    rows, last = counts.any(1).nonzero()[:, 0], (counts * torch.arange(1, counts.shape[1] + 1)).argmax(1)
    pick = lambda hidden: hidden.cpu()[rows, last[rows]].double()
    states, last_block = [], look.parts.blocks[-1]
    for block, hidden in look.walk():
        states.append(pick(hidden))
        if block is last_block:
            behind = advance([block.module], block.index, look.streams.recording, hidden)
    return torch.stack([*states, pick(behind)])


# --- costs -----------------------------------------------------------------------------------------------------------


def summed(values: Sequence[float]) -> Cost:
    """The sum of the members' own costs."""
    return lambda numbers: sum(values[number] for number in numbers)


def random_cost(look: Look) -> Cost:
    """Uniform in [0, 1) for every block."""
    draw = lambda name: float(torch.rand((), generator=look.generator(name), dtype=torch.float64))
    return summed([draw(block.name) for block in look.parts.blocks])


def deepest_cost(look: Look) -> Cost:
    """The deeper, the cheaper."""
    return summed([-float(block.index) for block in look.parts.blocks])


def angular_cost(look: Look) -> Cost:
    """Of a run: arccos of the cosine of the hidden states before and behind it, over pi, at the last token of each
    window, mean over windows (Gromov et al. 2024, arXiv 2403.17887, section 3)."""
    states = last_states(look)

    def cost(numbers: Sequence[int]) -> float:
        cosines = cosine_similarity(states[min(numbers)], states[max(numbers) + 1], dim=-1)
        return float((cosines.clamp(-1, 1).arccos() / math.pi).mean())

    return cost


def loss_cost(look: Look) -> Cost:
    """The model's own loss on the windows without these blocks or halves, mean over what is predicted."""
    windows = look.windows
    check_answers(look.model, windows, "criterion perplexity: it follows the loss")

    def cost(numbers: Sequence[int]) -> float:
        look.passes += 1
        total = count = 0.0
        device = next(look.model.parameters()).device
        with evaluating(look.model), without_parts(look.model, look.parts, look.kind, numbers):
            for batch in token_batches(windows, WINDOWS_PER_LOSS):
                weight = len(batch["input_ids"])
                if windows.labelled is None:
                    weight = counted("ce", text_tokens(batch))
                loss = own_loss(look.model, {name: value.to(device) for name, value in batch.items()})
                total, count = total + float(loss) * weight, count + weight
        return total / count

    return cost


@contextmanager
def without_parts(model: nn.Module, parts: Anatomy, kind: str, numbers: Sequence[int]) -> Iterator[None]:
    """While open the blocks of these numbers hand their input on, or a half of each adds nothing."""
    if kind == "blocks":
        with without_blocks(model, parts, numbers):
            yield
        return
    silence = lambda module, args, output: torch.zeros_like(output)
    silenced = [module for number in numbers for module in _last_modules(parts.blocks[number], kind)]
    with hooked(after=[(module, silence) for module in silenced]):
        yield


def _last_modules(block: Block, kind: str) -> list[nn.Module]:
    """What a half's output comes from: its last matrix, or all experts, those of a shared MLP beside them included."""
    own = [matrix for matrix in block.matrices if matrix.half == kind]
    experts = [matrix.module for matrix in own if matrix.expert is not None]
    if not experts:
        return [consumer_of(block, kind).module]
    beside = [matrix for matrix in own if matrix.expert is None]
    return [*dict.fromkeys(experts), *(matrix.module for matrix in beside)]


DEPTH_COSTS: dict[str, Callable[[Look], Cost]] = {
    "random": random_cost,
    "influence": lambda look: summed(influences(look)),
    "angular": angular_cost,
    "perplexity": loss_cost,
    "gain": lambda look: summed(gains(look)),
    "deepest": deepest_cost,
}
"""The cost of every criterion of blocks, by its word (`DEPTH_WORDS`)."""

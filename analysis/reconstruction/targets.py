"""What a solver is given of one piece: student inputs and targets on each set of windows, or only their second moments.

Student and target read the stream that the recipe names (`student`, `target`). On the sparse stream a piece's inputs
have passed the pruned block as it stands, its earlier pieces solved; on the dense stream they have passed the dense
block.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis import distributed
from analysis.models.logits import SplitModel
from analysis.models.replay import Recording
from analysis.recipe.parts import Solver
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.units import Piece
from analysis.streams.moments import Accumulator, Moments
from analysis.streams.starved import fed, is_starved
from analysis.streams.streams import Streams, chunks, stream_through

Targets = Tensor | Callable[[object], Tensor]


@dataclass(eq=False)
class Problem:
    """What a piece is given and what it should answer, on one set of windows.

    inputs   (N, T, H) student inputs, or token ids (N, T) where the piece is the whole model
    targets  (N, T, H') outputs to follow, token ids (N, T) for "ce", or a function rows -> targets of those windows,
             called without gradients (what the dense model's head reads, or its logits)
    head     of targets that the dense model's head reads: its halves
    counts   (N, T) bool: the tokens that count; None: those that the recording counts
    mix      of objective=hidden: the share of the states' error in the loss
    """

    label: str
    inputs: Tensor
    targets: Targets
    recording: Recording
    head: SplitModel | None = None
    counts: Tensor | None = None
    mix: float = 1.0

    @property
    def mask(self) -> Tensor:
        """(N, T) bool: the tokens that count."""
        return self.recording.counts if self.counts is None else self.counts

    def __len__(self) -> int:
        return self.inputs.shape[0]


def problem(dense: Piece, pruned: Piece, streams: Streams, recipe: Recipe) -> Problem:
    """Inputs (N, T, in) of the pruned piece and outputs (N, T, out) of the dense one, kept for every step. Of an
    expert's matrix, only those windows with tokens that the student sends there, and of them only those tokens count.
    """
    student = _inputs(dense, pruned, streams, recipe.student)
    target = student if recipe.target == recipe.student else _inputs(dense, pruned, streams, recipe.target)
    targets = stream_through(dense.run, streams.recording, target, _device(dense))
    source = pruned if recipe.student == "sparse" else dense
    if source.tokens is None:
        return Problem(streams.label, student, targets, streams.recording)
    routed = stream_through(source.tokens, streams.recording, streams.of(recipe.student), _device(dense))
    counts = streams.counts & routed.to(streams.mask.device)
    some = counts.any(1)
    return Problem(streams.label, student[some], targets[some], streams.recording, counts=counts[some])


def retraining(dense: Piece, streams: Streams, solver: Solver) -> Problem:
    """Token ids in; targets are the ids, or what the dense model's head reads, computed anew for every batch."""
    recording, device = streams.recording, _device(dense)

    @torch.no_grad()  # not inference mode: the loss saves these for its backward pass
    def dense_outputs(rows) -> Tensor:
        return dense.run(recording, recording.ids[rows].to(device), rows)

    counts = recording.windows.text  # what stands for a picture is not predicted
    if solver.objective == "ce":
        return Problem(streams.label, recording.ids, recording.ids, recording, counts=counts)
    if solver.objective == "hidden":
        return Problem(streams.label, recording.ids, dense_outputs, recording, counts=counts, mix=solver.states)
    return Problem(streams.label, recording.ids, dense_outputs, recording, dense.head, counts)


@torch.inference_mode()
def moments(
    dense: Piece, pruned: Piece, streams: Streams, recipe: Recipe, precision: torch.dtype
) -> tuple[Moments | None, int]:
    """Second moments of a matrix's student and target inputs over the real tokens, chunk by chunk; and how many tokens
    were seen.

    Of an expert's matrix: over the tokens that the student sends there, and by the rule `recipe.starved` where these
    are few: None where it then has none.
    """
    device = _device(dense)
    ((name, matrix),) = pruned.matrices.items()
    apart = recipe.student != recipe.target
    parts = Moments.PARTS["two streams" if apart else "one stream"]
    sources = {"sparse": pruned, "dense": dense}

    def summed(everyone: bool = False) -> Accumulator:
        sums = Accumulator(parts, matrix.columns, precision=precision, device=device)
        tokens = None if everyone else sources[recipe.student].tokens
        for rows in distributed.own(chunks(len(streams.mask), streams.mask.shape[1], device)):
            real = streams.counts[rows].to(device)
            if tokens is not None:
                real = real & tokens(streams.recording, streams.of(recipe.student)[rows].to(device), rows)
            inputs = {
                stream: source.piece_inputs(streams.recording, streams.of(stream)[rows].to(device), rows)[real]
                for stream, source in sources.items()
                if stream in (recipe.student, recipe.target)
            }
            sums.add(inputs[recipe.student], inputs[recipe.target] if apart else None)
        distributed.reduce(sums, device)
        return sums

    own = summed()
    seen = own.tokens
    if not is_starved(matrix, seen):
        return Moments.of(own, name), seen
    if recipe.starved == "magnitude":
        return None, seen
    every = lambda few: {matrix.name: summed(everyone=True)}
    where = name.removesuffix(f".{matrix.name}")
    return Moments.of(fed({matrix.name: own}, [matrix], recipe.starved, every, where)[matrix.name], name), seen


def _inputs(dense: Piece, pruned: Piece, streams: Streams, stream: str) -> Tensor:
    source, hidden = (pruned if stream == "sparse" else dense), streams.of(stream)
    return hidden if source.inputs is None else stream_through(source.inputs, streams.recording, hidden, _device(dense))


def _device(piece: Piece) -> torch.device:
    return piece.parameters()[0].device

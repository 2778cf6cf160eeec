"""Block 0 of a small Llama, pruned at random, and what its dense self asks of it: where gradient tests start."""

import torch

from analysis.models.anatomy import anatomy
from analysis.models.replay import record
from analysis.recipe.parts import Unit
from analysis.reconstruction.gradient import reconstruct
from analysis.reconstruction.targets import Problem
from analysis.reconstruction.units import Piece, pieces
from analysis.streams.streams import advance
from tests.helpers.small import small_llama, windows


def block_piece(model) -> Piece:
    """Block 0 of a model."""
    return pieces(anatomy(model).blocks[:1], Unit("block", 1, 0))[0]


def block_problem(model, label="calibration", seed=0, count=10, padded=False) -> Problem:
    """Block 0 of the dense model on random windows."""
    parts = anatomy(model)
    recording = record(model, parts, windows(count, seed=seed, padded=padded))
    return Problem(
        label, recording.hidden, advance([parts.blocks[0].module], 0, recording, recording.hidden), recording
    )


def pruned(piece: Piece, seed: int = 3) -> dict:
    """Zeroes half of each matrix at random; returns the masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = {
        matrix.module.weight: torch.rand(matrix.module.weight.shape, generator=generator) > 0.5
        for matrix in piece.matrices.values()
    }
    for weight, mask in masks.items():
        weight.data *= mask
    return masks


def case(dtype=torch.float32, **problem):
    """A pruned block with its masks, and the problem its dense self poses."""
    piece = block_piece(small_llama(dtype=dtype))
    return piece, pruned(piece), block_problem(small_llama(dtype=dtype), **problem)


def solve(piece, masks, problem, solver, *held_out, seed=0, **options):
    return reconstruct(piece, masks, problem, held_out, solver, torch.Generator().manual_seed(seed), **options).steps


def weights(piece: Piece) -> dict:
    return {name: parameter.detach().clone() for host in piece.hosts for name, parameter in host.named_parameters()}

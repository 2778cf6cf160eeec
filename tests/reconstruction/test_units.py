"""Pieces of every size: what they hold, what may be trained in them, and that together they are the block."""

import pytest
import torch

from analysis.models.anatomy import anatomy
from analysis.models.replay import record, run
from analysis.recipe.parts import Solver, Unit
from analysis.reconstruction.units import pieces, trained_parameters, whole_model
from tests.helpers.small import small_llama, windows


def of(unit, blocks=slice(0, 1), model=None):
    return pieces(anatomy(model or small_llama()).blocks[blocks], unit)


def test_matrices_and_halves_share_out_the_block():
    model = small_llama()
    everything = {id(p) for p in model.model.layers[0].parameters()}
    halves = of(Unit("sub-block"), model=model)
    owned = [id(p) for piece in halves for p in piece.parameters()]
    assert (
        [piece.part for piece in halves] == ["attention", "mlp"]
        and len(owned) == len(set(owned))
        and set(owned) == everything
    )
    matrices = of(Unit("matrix"), model=model)
    assert [piece.part.split(".")[-1] for piece in matrices] == [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ]
    assert all(len(piece.parameters()) == 1 for piece in matrices), "norms belong to no matrix"
    (two,) = of(Unit(width=2), slice(0, 2), model)
    assert two.name == "blocks 0-1" and len(two.matrices) == 14 and len(two.parameters()) == 18


def test_a_piece_run_on_its_own_inputs_gives_what_the_block_computes():
    model, w = small_llama(), windows(4, padded=True)
    block, rows = anatomy(model).blocks[0], slice(0, 4)
    recording = record(model, anatomy(model), w)
    hidden, seen = recording.hidden, {}
    for name, matrix in ((m.name, m.module) for m in block.matrices):
        matrix.register_forward_hook(lambda module, args, out, name=name: seen.__setitem__(name, (args[0], out)))
    with torch.no_grad():
        true = run(block.module, hidden, recording.call(0, rows))
        expected = dict(seen)
        for piece in pieces([block], Unit("matrix")):
            inputs = piece.inputs(recording, hidden, rows)
            assert torch.equal(inputs, expected[piece.part][0]) and torch.equal(
                piece.run(recording, inputs, rows), expected[piece.part][1]
            )
        attention, mlp = pieces([block], Unit("sub-block"))
        assert attention.inputs is None
        middle = attention.run(recording, hidden, rows)
        assert torch.equal(mlp.inputs(recording, hidden, rows), middle) and torch.allclose(
            mlp.run(recording, middle, rows), true, atol=1e-6
        )


@pytest.mark.parametrize(
    "train, rank, expected",
    [
        ("all", None, lambda p: p.numel()),
        ("norms-biases", None, lambda p: p.numel() * (p.ndim == 1)),
        ("masklora", 4, lambda p: 4 * sum(p.shape) if p.ndim == 2 else p.numel()),
    ],
)
def test_trained_parameters_are_counted(train, rank, expected):
    (piece,) = of(Unit())
    solver = Solver("gradient", train=train) if rank is None else Solver("gradient", train=train, rank=rank)
    assert trained_parameters(piece, solver) == sum(expected(p) for p in piece.parameters())


def test_the_whole_model_is_its_own_forward():
    model, w = small_llama(), windows(4, padded=True)
    parts = anatomy(model)
    piece = whole_model(model, dict(parts.matrices()))
    recording = record(model, parts, w)
    with torch.no_grad():
        ours, true = (
            piece.head.logits(piece.run(recording, w.ids, slice(0, 4))),
            model(input_ids=w.ids, attention_mask=w.mask.long()).logits,
        )
    assert torch.equal(ours[w.mask], true[w.mask])
    assert len(piece.parameters()) == len(list(model.parameters())) and len(piece.matrices) == 21

"""Pieces: the stretches of a model that are solved at once, whatever their size, behind one face.

A piece knows what it holds, where its inputs come from and how it runs on the windows of a recording; solvers know
nothing else of the model. The same piece of the dense and of the pruned model make one problem.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from analysis.models.anatomy import Block, Matrix
from analysis.models.experts import expert_map, router_parameters
from analysis.models.logits import SplitModel, split_model
from analysis.models.passing import Passing
from analysis.models.replay import Recording
from analysis.models.sub_blocks import expert_tokens, half_output, matrix_inputs
from analysis.models.wrapped import is_wrapped, language_part, projector
from analysis.recipe.parts import Solver, Unit
from analysis.streams.streams import call_of, unit_output

Forward = Callable[[Recording, Tensor, object], Tensor]  # (recording, x (B, T, in), rows) -> (B, T, out)
BLOCK_HALVES = ("attention", "mlp")


@dataclass(frozen=True, eq=False)
class Piece:
    """One stretch of one model.

    name      for messages: "blocks 2-3", "block 2, attention half"
    part      what of its blocks: "" all of them, "attention", "mlp", or a matrix's name
    matrices  full name -> matrix, what masks act on
    modules   hold exactly the parameters the piece owns
    hosts     modules that must share its precision for it to run (the blocks it is in)
    inputs    from the hidden states at the first block's input to the piece's own input; None where they are that input
    run       from the piece's input to its output; differentiable
    head      of the whole model: its halves, `run` ending where its head begins; None: `run` gives logits, or hidden
              states
    language  of a model that reads pictures: its language part, and projector: what stands between that and its vision
              tower; both empty elsewhere
    tokens    of an expert's matrix: from the hidden states at the first block's input to the tokens (B, T) that go to
              its expert, which alone count; None: all count
    """

    name: str
    part: str
    matrices: dict[str, Matrix]
    modules: tuple[nn.Module, ...]
    hosts: tuple[nn.Module, ...]
    inputs: Forward | None
    run: Forward
    head: SplitModel | None = None
    tokens: Forward | None = None
    language: tuple[nn.Module, ...] = ()
    projector: tuple[nn.Module, ...] = ()

    def piece_inputs(self, recording: Recording, hidden: Tensor, rows: slice) -> Tensor:
        """The piece's own input (B, T, in) where the first block's is `hidden` (B, T, H)."""
        return hidden if self.inputs is None else self.inputs(recording, hidden, rows)

    def parameters(self) -> list[nn.Parameter]:
        """Every floating parameter the piece owns, once each."""
        return _floating(self.modules)

    def trainable(self, train: str) -> list[nn.Parameter]:
        """What a solver may change under its option `train`: "all"; "norms-biases": all but the weights of linear maps
        and embeddings;
        "masklora": the same set, the matrices being changed through their adapters. Of a model that reads pictures
        these two are of its language part, "language" is all of it, and "projector" the projector. What routes tokens
        to experts is never trained."""
        fixed = {key for host in self.hosts for key in router_parameters(host)}
        if train == "projector":
            return _floating(self.projector)
        if train != "all" and self.language:
            inside = {id(p) for p in _floating(self.language)}
            fixed |= {id(p) for p in self.parameters() if id(p) not in inside}
        if train in ("all", "language"):
            return [p for p in self.parameters() if id(p) not in fixed]
        biases = {id(matrix.biases) for matrix in self.matrices.values() if matrix.expert is not None}
        return [p for p in self.parameters() if (p.ndim == 1 or id(p) in biases) and id(p) not in fixed]


def _floating(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Every floating parameter of some modules, once each."""
    unique = {id(p): p for module in modules for p in module.parameters() if p.is_floating_point()}
    return list(unique.values())


def pieces(blocks: Sequence[Block], unit: Unit) -> list[Piece]:
    """The consecutive `blocks` of one visit as pieces, in the order they are solved."""
    if runs_halves(unit):
        return [_half(block, half) for block in blocks for half in BLOCK_HALVES]
    if unit.name == "matrix":
        return [_matrix(block, matrix) for block in blocks for matrix in block.matrices]
    return [_blocks(blocks)]


def runs_halves(unit: Unit) -> bool:
    """Whether the pieces of a unit are halves of blocks, run apart."""
    return unit.name == "sub-block"


def whole_model(model: nn.Module, matrices: dict[str, Matrix]) -> Piece:
    """The model from token ids (B, T) to what its head reads (B, T, H), everything in it trainable; to logits
    (B, T, vocabulary) where its head cannot be told apart.
    """
    split = split_model(model)

    def run(recording: Recording, ids: Tensor, rows) -> Tensor:
        mask = recording.mask[rows]
        real = None if bool(mask.all()) else mask.long().to(ids.device)
        pictures = recording.windows.seen(rows, ids.device)
        if split is not None:
            return split.hidden(ids, real, pictures)
        return model(input_ids=ids, attention_mask=real, **pictures, use_cache=False).logits

    wrapped = is_wrapped(model)
    return Piece(
        "whole model",
        "",
        matrices,
        (model,),
        (model,),
        None,
        run,
        split,
        language=tuple(language_part(model)) if wrapped else (),
        projector=tuple(projector(model)),
    )


def trained_parameters(piece: Piece, solver: Solver) -> int:
    """How many numbers a gradient solver trains in a piece, removed weights included."""
    adapters = (
        sum(solver.rank * (matrix.rows + matrix.columns) for matrix in piece.matrices.values())
        if solver.train == "masklora"
        else 0
    )
    return adapters + sum(parameter.numel() for parameter in piece.trainable(solver.train))


def _blocks(blocks: Sequence[Block]) -> Piece:
    modules, first, last = tuple(block.module for block in blocks), blocks[0].index, blocks[-1].index
    name = f"block {first}" if first == last else f"blocks {first}-{last}"
    there = [block for block in blocks if not isinstance(block.module, Passing)]
    matrices = {f"{block.name}.{matrix.name}": matrix for block in there for matrix in block.matrices}

    def run(recording: Recording, hidden: Tensor, rows) -> Tensor:
        return unit_output(modules, first, recording, hidden, rows)

    return Piece(name, "", matrices, modules, modules, None, run)


def _half(block: Block, half: str) -> Piece:
    sub = getattr(block, half)
    modules = tuple(block.module.get_submodule(name) for name in (*sub.modules, *sub.norms))
    matrices = {f"{block.name}.{matrix.name}": matrix for matrix in block.matrices if matrix.half == half}

    def run(recording: Recording, hidden: Tensor, rows) -> Tensor:
        return half_output(block, half, hidden, call_of(recording, block.index, hidden, rows))

    def after_attention(recording: Recording, hidden: Tensor, rows) -> Tensor:
        return half_output(block, "attention", hidden, call_of(recording, block.index, hidden, rows))

    first = half == "attention" or block.parallel
    return Piece(
        f"block {block.index}, {half} half",
        half,
        matrices,
        modules,
        (block.module,),
        None if first else after_attention,
        run,
    )


def _matrix(block: Block, matrix: Matrix) -> Piece:
    def inputs(recording: Recording, hidden: Tensor, rows) -> Tensor:
        return matrix_inputs(block, [matrix.name], hidden, call_of(recording, block.index, hidden, rows))[matrix.name]

    def run(recording: Recording, x: Tensor, rows) -> Tensor:
        return matrix.module(x) if matrix.expert is None else expert_map(matrix.module, matrix.key, matrix.expert, x)

    def tokens(recording: Recording, hidden: Tensor, rows) -> Tensor:
        return expert_tokens(block, matrix, hidden, call_of(recording, block.index, hidden, rows))

    name = f"block {block.index}, {matrix.name}"
    return Piece(
        name,
        matrix.name,
        {f"{block.name}.{matrix.name}": matrix},
        (matrix.module,),
        (block.module,),
        inputs,
        run,
        tokens=None if matrix.expert is None else tokens,
    )

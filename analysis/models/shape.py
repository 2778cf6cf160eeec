"""The shape of a model from its config alone: blocks, matrices, sizes. No weights are read or made.

shape = model_shape("meta-llama/Llama-2-7b-hf")     # fetches config.json, nothing else
shape.parameters, len(shape.blocks), shape.blocks[0].matrices
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import ModelError
from analysis.models.dtypes import choose_dtype, stored_parameters
from analysis.models.hub import config_folder, read_config

if TYPE_CHECKING:
    from torch import nn

    from analysis.models.anatomy import Matrix

ITEMS = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by dtype."""
_STORED = {"float32": "F32", "float64": "F64", "bfloat16": "BF16", "float16": "F16"}  # config's word: safetensors'


@dataclass(frozen=True)
class MatrixShape:
    """One linear map. `reads`: the first matrix of its block that reads the same tensor; `half`: "attention", "mlp";
    `share`: of a block's tokens that it reads, of an expert on average; `expert`: "first" or "last" of an
    expert's matrices, "" where it is none.
    """

    name: str
    half: str
    rows: int
    columns: int
    reads: str
    share: float = 1.0
    expert: str = ""

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return self.rows * self.columns


@dataclass(frozen=True)
class BlockShape:
    """One block: its matrices in the order they are defined, and all its parameters, norms and biases included."""

    matrices: tuple[MatrixShape, ...]
    parameters: int

    @property
    def weights(self) -> int:
        """How many weights its matrices have."""
        return sum(matrix.weights for matrix in self.matrices)

    def half(self, name: str) -> tuple[MatrixShape, ...]:
        """The matrices of one half."""
        return tuple(matrix for matrix in self.matrices if matrix.half == name)

    def consumer(self, half: str) -> MatrixShape:
        """The matrix of a half that reads what the others make."""
        return self.half(half)[-1]

    @property
    def experts(self) -> tuple[MatrixShape, ...]:
        """Those of experts."""
        return tuple(matrix for matrix in self.matrices if matrix.expert)

    @property
    def last(self) -> tuple[MatrixShape, ...]:
        """The last projection of every expert."""
        return tuple(matrix for matrix in self.experts if matrix.expert == "last")

    @property
    def readers(self) -> list[MatrixShape]:
        """The first matrix to read each of the distinct tensors that its matrices read."""
        return [matrix for matrix in self.matrices if matrix.reads == matrix.name]


@dataclass(frozen=True)
class ModelShape:
    """A model's sizes.

    kind: its model_type; head: what it answers (`task_heads.ANSWERS`); hidden: width of hidden states; vocabulary: how
    many ids it embeds; context: most tokens at once, None where nothing says; parameters: tied ones once; stored:
    parameters by the dtype they are stored in (safetensors' word), from the weight files' headers where there are such
    files; has: `parts_of` it.
    """

    name: str
    kind: str
    head: str
    hidden: int
    vocabulary: int
    context: int | None
    parameters: int
    blocks: tuple[BlockShape, ...]
    stored: Mapping[str, int]
    has: frozenset[str] = frozenset()

    @property
    def weights(self) -> int:
        """How many weights the matrices of all blocks have: what can be pruned."""
        return sum(block.weights for block in self.blocks)

    def dtype(self, asked: str | None) -> str:
        """What it is computed in, as `load_model` would choose (`dtypes.choose_dtype`)."""
        return choose_dtype(self.stored, asked)


def model_shape(name: str) -> ModelShape:
    """The shape of a lab model, a folder (which needs no weights) or a hub model, whose config.json alone is fetched.

    Raises ModelError where there is no config or transformers cannot build what it describes, UnsupportedModel for what
    cannot be pruned block by block.
    """
    from analysis.models.load import described_model

    folder = config_folder(name)
    shape = shape_of(described_model(folder, name), name)
    return replace(shape, stored=_stored(folder, name, shape.parameters))


def shape_of(model: "nn.Module", name: str) -> ModelShape:
    """The shape of a transformers model, with or without weights, taken to be stored in float32; nothing is run.

    The matrices of a half are taken to read one tensor, but for the last, which reads what they make, and for those of
    experts, each of which reads its own tokens, on average an equal part. Raises UnsupportedModel.
    """
    from analysis.models.anatomy import structure
    from analysis.models.context import usable_context
    from analysis.models.experts import LAST, experts_per_token
    from analysis.models.task_heads import head

    network: Any = model
    blocks = []
    for module, matrices in structure(model):
        shapes, experts = [], len({matrix.expert for matrix in matrices} - {None})
        share = experts_per_token(network.config.get_text_config()) / experts if experts else 1.0
        for matrix in matrices:
            together = [other.name for other in matrices if other.half == matrix.half]
            alone = matrix.name == together[-1] or matrix.expert is not None
            reads = matrix.name if alone else together[0]
            part = 1.0 if matrix.expert is None else min(1.0, share)
            own = "" if matrix.expert is None else "last" if matrix.name.endswith(LAST) else "first"
            shapes.append(MatrixShape(matrix.name, matrix.half, matrix.rows, matrix.columns, reads, part, own))
        blocks.append(BlockShape(tuple(shapes), sum(value.numel() for value in module.parameters())))
    parameters = sum(value.numel() for value in network.parameters())
    return ModelShape(
        name,
        network.config.model_type,
        head(model),
        network.config.get_text_config().hidden_size,
        network.get_input_embeddings().weight.shape[0],
        usable_context(model),
        parameters,
        tuple(blocks),
        {"F32": parameters},
        parts_of(model, (matrix for _, matrices in structure(model) for matrix in matrices)),
    )


def parts_of(model: "nn.Module", matrices: "Iterable[Matrix]") -> frozenset[str]:
    """Which of "experts", "pictures" (more than a language part) and "projector" a model with these matrices has."""
    from analysis.models.wrapped import is_wrapped, projector

    found = {
        "experts": any(matrix.expert is not None for matrix in matrices),
        "pictures": is_wrapped(model),
        "projector": bool(is_wrapped(model) and projector(model)),
    }
    return frozenset(part for part, there in found.items() if there)


def _stored(folder: Path, name: str, parameters: int) -> dict[str, int]:
    """Parameters by stored dtype: of the weight files where they are there, else as config.json says."""
    try:
        return stored_parameters(folder, name)
    except ModelError:
        config = read_config(folder, name)
        text = config.get("text_config") or config
        said = next((one.get(key) for one in (config, text) for key in ("dtype", "torch_dtype") if one.get(key)), None)
        return {_STORED.get(str(said), "F32"): parameters}

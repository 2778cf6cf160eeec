"""What a run holds at once: bytes on the device and on the host in each of its stages, and on disk; counted, never
measured."""

from collections.abc import Iterable
from dataclasses import dataclass

from analysis.models.logits import LOGITS
from analysis.models.shape import BlockShape
from analysis.reconstruction.schedule import Visit
from analysis.structured.experts import LARGEST
from analysis.study.sizes import Sizes

INTERPRETER = 600 * 2**20
"""Bytes that a process takes before it has a model, where no machine says how many."""
CONTEXT = 600 * 2**20
"""Bytes of a CUDA device that its driver and libraries take, besides what torch allocates; not measured yet."""
SPILLS = 0.1  # a stream goes where it takes at most this share of what is free (`streams.allocate`)
KEEPS = 32 * 2**20  # bytes up to which glibc may keep a tensor that is freed
SINGLE, DOUBLE = 4, 8


@dataclass(frozen=True)
class Held:
    """Bytes on the device (0 where that is the CPU) and on the host."""

    device: int = 0
    host: int = 0

    def __add__(self, other: "Held") -> "Held":
        return Held(self.device + other.device, self.host + other.host)


def stages(sizes: Sizes, base: int, room: Held | None, saves: bool) -> dict[str, Held]:
    """The most that each stage of `forecast.Forecast` holds at once.

    base: of the process without a model. room: what is free, which decides where streams go.
    """
    alone = Held(CONTEXT * (sizes.kind == "cuda"), base + _merging(sizes))
    weights = _weights(sizes)
    masks = Held(host=sizes.shape.weights)
    streams = _streams(sizes, room, 2 * _hidden(sizes))
    running = alone + weights + masks + streams
    on = lambda count: _on(sizes, count)
    units = [_unit(sizes, visit) for visit in sizes.visits] if sizes.trains else [0]
    targets = _streams(sizes, room, _targets(sizes))
    before = _streams(sizes, room, _hidden(sizes) * (sizes.recipe.unit.name == "sub-block"))  # the half's before, still
    grams = [_grams(sizes, block) for block in sizes.shape.blocks]
    forward = max(_forward(sizes, block) for block in sizes.shape.blocks)
    entry = (
        _streams(sizes, room, [_hidden(sizes)[0]]) if any(len(visit.blocks) > 1 for visit in sizes.visits) else Held()
    )
    resident, stored = sizes.job.placement == "resident", _stored(sizes)
    whole = sizes.shape.parameters * sizes.item
    written = stored * (resident and (whole != stored or sizes.kind != "cpu"))  # converted, or brought to the host
    refitted = max(map(_refitting(sizes), sizes.shape.blocks)) + forward
    found = {
        "load": alone + (Held(on(whole).device, whole) if resident else weights),
        "record": alone + weights + streams + on(forward),
        "statistics": running + entry + on(forward + 2 * max(grams)),
        "mask": running + on(max(grams) + max(_masking(sizes, one) for one in sizes.shape.blocks)),
        "repair": running
        + entry
        + _streams(sizes, room, [max(map(_activations(sizes), sizes.shape.blocks))])
        + on(forward + max(_repairing(sizes, one) for one in sizes.shape.blocks)),
        "target": running + targets + before + on(forward),
        "solve": running + targets + on(max(units) if sizes.trains else refitted),
        "advance": running + on(2 * forward + len(sizes.texts) * sizes.shape.hidden**2 * DOUBLE),
        "measure": running + on(_logits(sizes, min(8, max(sizes.texts.values())) * sizes.job.length)),
        "tasks": running + on(_logits(sizes, 16 * 64)),
        "shrink": alone + weights + masks + on(whole),
        "save": alone + weights + masks + Held(host=written),
    }
    asked = {"repair": sizes.recipe.repair.name != "none", "tasks": sizes.job.tasks, "shrink": sizes.job.shrink}
    return {name: held for name, held in found.items() if (asked | {"save": saves}).get(name, True)}


def peak(held: Iterable[Held]) -> Held:
    """The most on either side."""
    each = list(held)
    return Held(max(one.device for one in each), max(one.host for one in each))


def disk(sizes: Sizes) -> int:
    """Bytes of the folder that `analysis prune` writes, at its fullest: checkpoints of all visits, and the model."""
    if sizes.recipe.solver.name == "retrain":
        kept = sizes.shape.parameters * sizes.item + sizes.shape.weights
    else:
        visited = [block for visit in sizes.visits for block in sizes.blocks(visit)]
        kept = sum(block.parameters * sizes.item + block.weights for block in visited)
    return kept + _stored(sizes) * (1 + sizes.job.shrink)


def spilled(sizes: Sizes, room: Held | None) -> int:
    """Bytes of temporary files that hold streams, where memory has no room for them."""
    activations = max(map(_activations(sizes), sizes.shape.blocks))
    tensors = (*2 * _hidden(sizes), *_targets(sizes), activations)
    return sum(count for count in tensors if _where(sizes, room, count) == "disk")


# --- what stays -------------------------------------------------------------------------------------------------------


def _on(sizes: Sizes, count: int) -> Held:
    """Bytes on the device."""
    return Held(host=count) if sizes.kind == "cpu" else Held(device=count)


def _stored(sizes: Sizes) -> int:
    """Bytes of the model's weight files."""
    items = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
    return sum(count * items.get(word, 4) for word, count in sizes.shape.stored.items())


def _weights(sizes: Sizes) -> Held:
    """Both models; where they are streamed, of each the largest unit and what is outside the blocks, and one block more
    that is fetched ahead, on the host too."""
    if sizes.job.placement == "resident":
        return _on(sizes, 2 * sizes.shape.parameters * sizes.item)
    units = [sum(block.parameters for block in sizes.blocks(visit)) for visit in sizes.visits]
    ahead = max(block.parameters for block in sizes.shape.blocks) * sizes.item
    return _on(sizes, (2 * max(units) + sizes.rest) * sizes.item + ahead) + Held(host=ahead * (sizes.kind != "cpu"))


def _merging(sizes: Sizes) -> int:
    """Bytes on the host of the single experts' matrices that a model's tensors were made of, where they are so small
    that the process keeps their room."""
    small = [m.weights for block in sizes.shape.blocks for m in block.experts if m.weights * sizes.item < KEEPS]
    return sum(small) * sizes.item * (sizes.job.placement == "resident")


def _hidden(sizes: Sizes) -> list[int]:
    """Bytes of the hidden states of each text."""
    return [sizes.tokens(label) * sizes.shape.hidden * sizes.item for label in sizes.texts]


def _streams(sizes: Sizes, room: Held | None, tensors: list[int]) -> Held:
    """Tensors of streams where `streams.allocate` puts them; those on disk are no memory."""
    places = [(_where(sizes, room, count), count) for count in tensors]
    return Held(*(sum(count for place, count in places if place == side) for side in ("device", "host")))


def _where(sizes: Sizes, room: Held | None, count: int) -> str:
    if room is None:
        return "host" if sizes.kind == "cpu" else "device"
    if sizes.kind != "cpu" and count <= SPILLS * max(0, room.device - _weights(sizes).device):
        return "device"
    return "host" if count <= SPILLS * max(0, room.host - _weights(sizes).host) else "disk"


def _targets(sizes: Sizes) -> list[int]:
    """Bytes of what a gradient unit follows, and of its inputs where they are not the stream itself."""
    unit, hidden = sizes.recipe.unit.name, _hidden(sizes)
    if sizes.recipe.solver.name != "gradient":
        return []
    if unit == "sub-block":
        return hidden * 2
    if unit == "matrix":
        widest = max(m.rows + m.columns for block in sizes.shape.blocks for m in block.matrices)
        return [count * widest // sizes.shape.hidden for count in hidden]
    return hidden


# --- what comes and goes ----------------------------------------------------------------------------------------------


def _forward(sizes: Sizes, block: BlockShape) -> int:
    """Bytes of a chunk of tokens on their way through a block."""
    tokens = min(sizes.chunk, max(sizes.texts.values())) * sizes.job.length
    heads, neurons = block.consumer("attention").columns, block.consumer("mlp").columns
    return tokens * sizes.item * (8 * sizes.shape.hidden + 4 * heads + 4 * neurons)


def _grams(sizes: Sizes, block: BlockShape) -> int:
    """Bytes of the sums that masks of a block are chosen on."""
    recipe = sizes.recipe
    gram = recipe.refinement.name != "none" or getattr(recipe.criterion_word, "evidence", None) == "gram"
    return sum(SINGLE * (width * width if gram else 3 * width) for width in _widths(block))


def _widths(block: BlockShape) -> list[int]:
    """Of the distinct tensors that its matrices read."""
    return [matrix.columns for matrix in block.readers]


def _masking(sizes: Sizes, block: BlockShape) -> int:
    """Bytes that the choice of one matrix's mask takes."""
    recipe, most = sizes.recipe, 0
    for matrix in block.matrices:
        square, weights = matrix.columns**2, matrix.weights
        count = 5 * SINGLE * weights
        if recipe.criterion.name == "sparsegpt":
            count += 5 * SINGLE * square
        if recipe.refinement.name == "swaps":
            count += 24 * square + 6 * DOUBLE * weights
        elif recipe.refinement.name == "fw":
            count += 28 * weights
        most = max(most, count)
    return most


def _repairing(sizes: Sizes, block: BlockShape) -> int:
    """Bytes of the sums and the solution of a repair, in float64; of wide experts without their activations."""
    if sizes.recipe.repair.name in ("none", "compensate"):
        return 0
    if sizes.recipe.pattern.experts:
        width, _ = sizes.kept_experts(block)
        like_weights = 6 * DOUBLE * width * sizes.shape.hidden
        if width <= LARGEST:
            return 6 * DOUBLE * width**2 + like_weights
        return like_weights + 3 * DOUBLE * width * max(matrix.columns for matrix in block.last)
    return max(
        6 * DOUBLE * matrix.columns**2 + 4 * DOUBLE * matrix.weights
        for matrix in (block.consumer("attention"), block.consumer("mlp"))
    )


def _activations(sizes: Sizes):
    """Bytes of the activations that a repair of wide experts goes through again and again, by block."""

    def count(block: BlockShape) -> int:
        width, share = sizes.kept_experts(block)
        kept = sizes.recipe.pattern.experts and sizes.recipe.repair.name == "liar" and width > LARGEST
        return round(SINGLE * sizes.tokens() * share * width) * kept

    return count


def _refitting(sizes: Sizes):
    """Bytes of the moments of a block's matrices and of one ridge solution, by block."""
    recipe = sizes.recipe
    if recipe.solver.name != "ridge":
        return lambda block: 0
    sums = 1 if recipe.student == recipe.target else 3

    def count(block: BlockShape) -> int:
        moments = sum(SINGLE * sums * width**2 for width in _widths(block))
        return moments + max(7 * DOUBLE * matrix.weights + 32 * matrix.columns**2 for matrix in block.matrices)

    return count


def held_in_training(sizes: Sizes, visit: Visit) -> int:
    """What `gradient.held_bytes` counts of the most demanding piece of a visit, but for whole texts: parameters,
    gradients, moments, and what autograd saves of one batch."""
    return max(_piece(sizes, parts) for parts in _pieces(sizes, visit))


def _unit(sizes: Sizes, visit: Visit) -> int:
    """Bytes that training a visit adds to what stays: float32 copies of its blocks, gradients and moments, kept
    weights, and a batch with its gradients."""
    blocks, solver = sizes.blocks(visit), sizes.recipe.solver
    hosts = sizes.shape.parameters if solver.name == "retrain" else sum(block.parameters for block in blocks)
    own = sum(sizes.trained(block) for block in blocks) + sizes.rest * (solver.name == "retrain")
    kept = SINGLE * own * (solver.select != "last")
    masks = sum(block.weights for block in blocks) * (sizes.kind != "cpu")
    adapters = 2 * SINGLE * sum(block.weights for block in blocks) * (solver.train == "masklora")
    backward = sizes.batch * SINGLE * (4 * sizes.shape.hidden + 2 * max(b.consumer("mlp").columns for b in blocks))
    activations = max(sum(_saved(sizes, block, half) for block, half in parts) for parts in _pieces(sizes, visit))
    logits = _logits(sizes, sizes.batch) if solver.name == "retrain" else 0
    comes = 3 * SINGLE * own + kept + masks + adapters + backward + activations + logits
    return (SINGLE - sizes.item) * hosts + comes


def _pieces(sizes: Sizes, visit: Visit) -> list[list[tuple[BlockShape, str]]]:
    """What is trained at once in a visit: (block, half or matrix), "" for a whole block."""
    blocks = sizes.blocks(visit)
    if sizes.recipe.unit.name == "sub-block":
        return [[(block, half)] for block in blocks for half in ("attention", "mlp")]
    if sizes.recipe.unit.name == "matrix":
        return [[(block, matrix.name)] for block in blocks for matrix in block.matrices]
    return [[(block, "") for block in blocks]]


def _piece(sizes: Sizes, parts: list[tuple[BlockShape, str]]) -> int:
    parameters = sum(_owned(block, part) for block, part in parts)
    return 4 * SINGLE * parameters + sum(_saved(sizes, block, part) for block, part in parts)


def _owned(block: BlockShape, part: str) -> int:
    """Parameters of a block, a half of it (half of what is no matrix with it) or a matrix."""
    if not part:
        return block.parameters
    chosen = [matrix.weights for matrix in block.matrices if part in (matrix.half, matrix.name)]
    halves = part in ("attention", "mlp")
    return sum(chosen) + (block.parameters - block.weights) // 2 * halves


def _saved(sizes: Sizes, block: BlockShape, part: str) -> int:
    """Bytes that autograd saves of one batch: around every half the stream, its norm twice and the error of the output;
    queries, keys, values, mixtures twice; of every neuron what its function and the next matrix read."""
    hidden, heads, neurons = sizes.shape.hidden, block.consumer("attention").columns, block.consumer("mlp").columns
    gated = len(block.half("mlp")) > 2
    halves = {"attention": 3 * hidden + 5 * heads, "mlp": 3 * hidden + (4 if gated else 3) * neurons}
    if not part:
        numbers = sum(halves.values())
    else:
        matrix = next((m for m in block.matrices if m.name == part), None)
        numbers = halves[part] + hidden if matrix is None else matrix.columns + matrix.rows
    return sizes.batch * SINGLE * numbers


def _logits(sizes: Sizes, tokens: int) -> int:
    """Bytes of logits and what is made of them, as many as are held at once."""
    if sizes.shape.head != "next token":
        return 0
    rows = min(tokens, max(1, LOGITS // sizes.shape.vocabulary))
    return rows * sizes.shape.vocabulary * (sizes.item + 2 * SINGLE)

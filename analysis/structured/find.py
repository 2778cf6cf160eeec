"""Whole structures of a model: attention heads and MLP neurons, and the weights that belong to each.

Both halves of a block are a producer/consumer pair: matrices that make features (query, key, value; gate, up) and the
one that reads them (the output projection). A structure owns rows of the producers and columns of the consumer, so it
is gone once the consumer no longer reads its columns. Nothing here knows families: in each half the matrix that runs
last consumes, the others, which read one tensor, produce. How fused producers are laid out is tried, and a layout is
believed only where it is proven on the model: with the consumers' columns of random structures read as zero, noise in
those structures' rows must change nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import BoolTensor, LongTensor, Tensor, nn

from analysis.errors import UnsupportedModel, UsageError
from analysis.models.anatomy import Anatomy, Block, Matrix, anatomy, evaluating
from analysis.models.hooks import hooked
from analysis.models.replay import last_hidden, tolerance_for
from analysis.models.widths import _split, head_shape

KINDS = ("heads", "neurons")
HEADS = ("groups", "queries")
PROOF = (2, 8)  # windows and tokens of a proof's forward


@dataclass(frozen=True, eq=False)
class Producer:
    """A matrix that makes a pair's features. `name` is its full name; rows (count, rows per structure): the rows of W
    that structure i owns.
    """

    name: str
    matrix: Matrix
    rows: LongTensor


@dataclass(frozen=True, eq=False)
class Pair:
    """The structures of one half of a block.

    kind       "heads" or "neurons"
    name       the consumer's full name ("model.layers.0.mlp.down_proj"), the key that scores, masks and repairs go by
    columns    (count, columns per structure): the columns of the consumer that structure i owns
    producers  what makes those columns; under grouped queries, keys and values belong to the group, so a lone query
               head owns no rows of them
    groups     (count,) the group of each structure; groups must lose equally many. All zero where there is no such tie
    heads      query heads of the half, their KV heads and the width of a head; (0, 0, 1) for neurons
    """

    block: int
    kind: str
    name: str
    consumer: Matrix
    columns: LongTensor
    producers: tuple[Producer, ...]
    groups: LongTensor
    heads: tuple[int, int, int]

    @property
    def count(self) -> int:
        """Number of structures."""
        return len(self.columns)

    @property
    def units(self) -> int:
        """How many times something can be removed: one structure, or one of every group."""
        return self.count // (int(self.groups.max()) + 1)

    def parameters(self) -> int:
        """Parameters of one structure: its rows with their biases, and its columns."""
        made = sum(p.rows.shape[1] * (p.matrix.columns + (p.matrix.module.bias is not None)) for p in self.producers)
        return made + self.columns.shape[1] * self.consumer.rows

    def multiply_adds(self, context: int) -> int:
        """Multiply-adds of one structure per token; for heads also those of queries with `context` keys and of as many
        values.
        """
        width = self.columns.shape[1]
        made = sum(p.rows.shape[1] * p.matrix.columns for p in self.producers)
        return made + width * self.consumer.rows + (2 * context * width if self.kind == "heads" else 0)


@dataclass(frozen=True, eq=False)
class Structures:
    """The pairs of a model in the order they run. `parts`: the anatomy they belong to."""

    parts: Anatomy
    pairs: tuple[Pair, ...]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def of(self, kind: str) -> tuple[Pair, ...]:
        """The pairs of one kind."""
        return tuple(pair for pair in self.pairs if pair.kind == kind)


def structures(
    model: nn.Module, parts: Anatomy | None = None, *, kinds: Sequence[str] = KINDS, heads: str = "groups"
) -> Structures:
    """The heads and neurons of a decoder or a BERT-type encoder, proven on the model. No weight is touched.

    parts  the model's anatomy, where it is at hand
    heads  "groups": under grouped queries a KV head goes with all its query heads. "queries": single query heads, every
           group losing equally many

    Raises UsageError for an unknown kind, UnsupportedModel for halves of another build, and where removing a structure
    would change the others (a norm across heads): the message names the block or the kind, and what the other kind can
    still do.
    """
    if not kinds or not set(kinds) <= set(KINDS):
        raise UsageError(f"structures: kinds={tuple(kinds)!r}; they are {' and '.join(KINDS)}, one or both")
    if heads not in HEADS:
        raise UsageError(f"structures: heads={heads!r} is unknown; it is {' or '.join(HEADS)}")
    parts = anatomy(model) if parts is None else parts
    found = [pair for kind in KINDS if kind in kinds for pair in _proven(model, parts, kind, heads)]
    return Structures(parts, tuple(sorted(found, key=lambda pair: (pair.block, KINDS.index(pair.kind)))))


def structures_of_copy(original: Structures, parts: Anatomy) -> Structures:
    """The structures of a deep copy of the model, given the copy's anatomy (`anatomy_of_copy`)."""
    matrices = dict(parts.matrices())

    def copied(pair: Pair) -> Pair:
        producers = tuple(replace(producer, matrix=matrices[producer.name]) for producer in pair.producers)
        return replace(pair, consumer=matrices[pair.name], producers=producers)

    return Structures(parts, tuple(copied(pair) for pair in original))


# --- masks -----------------------------------------------------------------------------------------------------------


def check_masks(pairs: Sequence[Pair], masks: Mapping[str, Tensor]) -> None:
    """Raise UsageError unless every mask is a bool (count,) of one of the pairs, keeps a structure, and takes equally
    from every group.
    """
    known = {pair.name: pair for pair in pairs}
    for name, mask in masks.items():
        if name not in known:
            raise UsageError(
                f"structures: {name!r} is the consumer of no pair; there are {', '.join(list(known)[:3])}, ..."
            )
        pair = known[name]
        if mask.dtype != torch.bool or mask.shape != (pair.count,):
            raise UsageError(
                f"structures: the mask of {name} is {mask.dtype} {tuple(mask.shape)}; expected bool ({pair.count},),"
                " True = kept"
            )
        kept = torch.bincount(pair.groups, weights=mask.cpu().double())
        if not bool(mask.any()):
            raise UsageError(
                f"structures: the mask of {name} removes all {pair.count} {pair.kind}; at least one must stay"
            )
        if len(kept.unique()) > 1:
            raise UsageError(
                f"structures: the mask of {name} keeps {kept.int().tolist()} query heads of its {len(kept)} KV groups;"
                " every group must keep as many"
            )


def column_mask(pair: Pair, mask: Tensor) -> BoolTensor:
    """(in,) bool, True where the consumer's column belongs to a kept structure; mask (count,)."""
    kept = torch.zeros(pair.consumer.columns, dtype=torch.bool)
    kept[pair.columns[mask.cpu()].flatten()] = True
    return kept


def row_mask(producer: Producer, mask: Tensor) -> BoolTensor:
    """(out,) bool, False where the producer's row belongs to a removed structure; mask (count,)."""
    kept = torch.ones(producer.matrix.rows, dtype=torch.bool)
    kept[producer.rows[~mask.cpu()].flatten()] = False
    return kept


def structure_of_column(pair: Pair) -> LongTensor:
    """(in,) the structure that each column of the consumer belongs to."""
    owner = torch.empty(pair.consumer.columns, dtype=torch.long)
    owner[pair.columns] = torch.arange(pair.count)[:, None]
    return owner


def element_masks(pairs: Sequence[Pair] | Structures, masks: Mapping[str, Tensor]) -> dict[str, BoolTensor]:
    """Full matrix name -> (out, in) bool, True = kept: structure masks (count,) as the masks of single weights that the
    rest of the project speaks.
    """
    result = {}
    for pair in pairs:
        if pair.name in masks:
            for producer in pair.producers:
                result[producer.name] = (
                    row_mask(producer, masks[pair.name])[:, None].expand(-1, producer.matrix.columns).clone()
                )
            result[pair.name] = column_mask(pair, masks[pair.name]).expand(pair.consumer.rows, -1).clone()
    return result


@torch.no_grad()
def remove(pairs: Sequence[Pair] | Structures, masks: Mapping[str, Tensor]) -> None:
    """Write zeros into everything that removed structures own: rows, their biases, columns. Shapes stay; `shrink` makes
    them smaller.
    """
    for pair in pairs:
        if pair.name in masks:
            for producer in pair.producers:
                gone = ~row_mask(producer, masks[pair.name]).to(producer.matrix.weight().device)
                producer.matrix.weight()[gone] = 0
                if producer.matrix.module.bias is not None:
                    producer.matrix.module.bias[gone] = 0
            weight = pair.consumer.weight()
            weight[:, ~column_mask(pair, masks[pair.name]).to(weight.device)] = 0


@contextmanager
def masked(pairs: Sequence[Pair] | Structures, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """While open the consumers read the columns of removed structures as zero: the masked model, without a weight
    touched.
    """

    def hook(kept: Tensor):
        return lambda module, args, kwargs: ((args[0] * kept.to(args[0]), *args[1:]), kwargs)

    masked_pairs = (pair for pair in pairs if pair.name in masks)
    with hooked((pair.consumer.module, hook(column_mask(pair, masks[pair.name]))) for pair in masked_pairs):
        yield


# --- finding ---------------------------------------------------------------------------------------------------------


def _candidates(block: Block, kind: str, heads: str, config) -> list[Pair]:
    """The half's structures, once for every layout its fused matrices could have."""
    consumer, producers = _split(block, kind)
    shape = head_shape(block, config) if kind == "heads" else (0, 0, 1)
    layouts = _head_rows(shape, producers, heads) if kind == "heads" else _neuron_rows(block, consumer, producers)
    query, groups, size = shape
    alone = kind == "heads" and heads == "queries" and groups < query
    count = consumer.columns if kind == "neurons" else query if alone else groups
    columns = torch.arange(consumer.columns).view(count, -1)
    tied = torch.arange(query) // (query // groups) if alone else torch.zeros(count, dtype=torch.long)

    def made(rows: Sequence[Tensor]) -> tuple[Producer, ...]:
        named = (
            Producer(f"{block.name}.{m.name}", m, r.reshape(count, -1))
            for m, r in zip(producers, rows, strict=True)
            if r is not None
        )
        return tuple(named)

    return [
        Pair(block.index, kind, f"{block.name}.{consumer.name}", consumer, columns, made(rows), tied, shape)
        for rows in layouts
    ]


def _head_rows(shape: tuple[int, int, int], producers: list[Matrix], heads: str) -> list[list[Tensor | None]]:
    """For every possible layout, each producer's rows ordered by structure; None where it gives none away."""
    query, groups, size = shape
    alone = heads == "queries" and groups < query
    if len(producers) == 3:
        return [[None if alone and m.rows < query * size else torch.arange(m.rows) for m in producers]]
    rows, per = producers[0].rows, query // groups
    parts = torch.arange(rows).split([query * size, groups * size, groups * size])
    apart = torch.cat([part.view(groups, -1) for part in parts], dim=1)  # all queries, then all keys, then all values
    together = torch.arange(rows).view(groups, -1)  # the queries, the key and the value of one group after another
    return [[layout[:, : per * size] if alone else layout] for layout in (apart, together)]


def _neuron_rows(block: Block, consumer: Matrix, producers: list[Matrix]) -> list[list[Tensor]]:
    count = consumer.columns
    if all(matrix.rows == count for matrix in producers):
        return [[torch.arange(count) for _ in producers]]
    if len(producers) == 1 and producers[0].rows == 2 * count:
        return [[torch.arange(2 * count).view(2, count).T], [torch.arange(2 * count).view(count, 2)]]
    made = ", ".join(f"{matrix.name} makes {matrix.rows}" for matrix in producers)
    raise UnsupportedModel(
        f"{block.name}: {made} features, {consumer.name} reads {count}; neurons cannot be told apart"
    )


# --- proof -----------------------------------------------------------------------------------------------------------


def _proven(model: nn.Module, parts: Anatomy, kind: str, heads: str) -> list[Pair]:
    """The pairs of one kind in the layout that the model itself confirms."""
    layouts = list(zip(*(_candidates(block, kind, heads, model.config) for block in parts.blocks), strict=True))
    allowed = tolerance_for(next(model.parameters()).dtype)
    errors = []
    for layout in layouts:
        errors.append(removal_error(model, layout))
        if errors[-1] <= allowed:
            return list(layout)
    other = "neurons" if kind == "heads" else "heads"
    raise UnsupportedModel(
        f"{parts.model_type}: removing {kind} changes what the others compute, by {min(errors):.3g} of the output"
        f" (allowed {allowed:.1g}), as a norm across all of them would; its {kind} cannot be removed. Try {other} alone"
    )


def removal_error(model: nn.Module, pairs: Sequence[Pair], seed: int = 0) -> float:
    """How much still reaches the output from structures whose columns are read as zero; 0 up to rounding where the
    pairs are right.

    For random halves of the structures and what they leave: relative change (2-norm) of the last hidden states of
    random tokens when noise as large as the producers' own outputs is added to the removed structures' rows.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.get_input_embeddings().weight.shape[0], PROOF, generator=generator)
    halves = []
    for _ in range(2):
        half = {
            pair.name: torch.rand(pair.count, generator=generator).argsort() < (pair.count + 1) // 2 for pair in pairs
        }
        halves += [half, {name: ~mask for name, mask in half.items()}]
    worst = 0.0
    with evaluating(model):
        for half in halves:
            with masked(pairs, half):
                quiet = last_hidden(model, ids)
                with _noise(pairs, half, seed):
                    noisy = last_hidden(model, ids)
            worst = max(worst, float((noisy - quiet).norm() / quiet.norm()))
    return worst


@contextmanager
def _noise(pairs: Sequence[Pair], masks: Mapping[str, Tensor], seed: int) -> Iterator[None]:
    def hook(gone: Tensor):
        def add(module, args, output):
            noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
            return output + noise * gone.to(output) * output.std()

        return add

    producers = ((producer, masks[pair.name]) for pair in pairs for producer in pair.producers)
    with hooked(after=[(producer.matrix.module, hook(~row_mask(producer, mask))) for producer, mask in producers]):
        yield

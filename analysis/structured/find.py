"""The whole structures of a model, found by structure and proven on it.

Both halves of a block are a producer/consumer pair: matrices that make features (query, key, value; gate, up) and the
one that reads them (the output projection). A structure owns rows of the producers and columns of the consumer, so it
is gone once the consumer no longer reads its columns. Nothing here knows families: in each half the matrix that runs
last consumes, the others, which read one tensor, produce. How fused producers are laid out is tried, and a layout is
believed only where it is proven on the model: with the consumers' columns of random structures read as zero, noise in
those structures' rows must change nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from analysis.errors import UnsupportedModel, UsageError
from analysis.models.anatomy import Anatomy, anatomy, evaluating
from analysis.models.hooks import hooked
from analysis.models.replay import last_hidden, tolerance_for
from analysis.models.widths import vocabulary_size
from analysis.structured.heads import Heads
from analysis.structured.neurons import Neurons
from analysis.structured.pairs import Pair, Structures, masked, row_mask

KINDS: dict[str, type[Pair]] = {kind.kind: kind for kind in (Heads, Neurons)}  # in the order they run within a block
HEADS = ("groups", "queries")
PROOF = (2, 8)  # windows and tokens of a proof's forward


def structures(
    model: nn.Module, parts: Anatomy | None = None, *, kinds: Sequence[str] = tuple(KINDS), heads: str = "groups"
) -> Structures:
    """The heads and neurons of a decoder or a BERT-type encoder, proven on the model. No weight is touched.

    parts  the model's anatomy, where it is at hand
    kinds  of `KINDS`
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
    order = list(KINDS)
    pairs = [pair for kind in order if kind in kinds for pair in _proven(model, parts, kind, heads)]
    return Structures(parts, tuple(sorted(pairs, key=lambda pair: (pair.block, order.index(pair.kind)))))


# --- proof -----------------------------------------------------------------------------------------------------------


def _proven(model: nn.Module, parts: Anatomy, kind: str, heads: str) -> list[Pair]:
    """The pairs of one kind in the layout that the model itself confirms."""
    layouts = list(zip(*(KINDS[kind].layouts(block, model.config, heads) for block in parts.blocks), strict=True))
    allowed = tolerance_for(next(model.parameters()).dtype)
    errors = []
    for layout in layouts:
        errors.append(removal_error(model, layout))
        if errors[-1] <= allowed:
            return list(layout)
    others = " or ".join(other for other in KINDS if other != kind)
    raise UnsupportedModel(
        f"{parts.model_type}: removing {kind} changes what the others compute, by {min(errors):.3g} of the output"
        f" (allowed {allowed:.1g}), as a norm across all of them would; its {kind} cannot be removed. Try {others}"
        " alone"
    )


def removal_error(model: nn.Module, pairs: Sequence[Pair], seed: int = 0) -> float:
    """How much still reaches the output from structures whose columns are read as zero; 0 up to rounding where the
    pairs are right.

    For random halves of the structures and what they leave: relative change (2-norm) of the last hidden states of
    random tokens when noise as large as the producers' own outputs is added to the removed structures' rows.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary_size(model), PROOF, generator=generator)
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

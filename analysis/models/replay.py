"""Run any block exactly as the model runs it: its own arguments, for any windows, in any order.

Blocks of one model can be called with different arguments (sliding and full attention masks, local and global rotary
embeddings), and arguments can differ from window to window (padding). Reusing the first block's is wrong in silence. So
a `Recording` keeps what the model itself passed to every block, and `verify` proves on the dense model that running the
blocks with it gives the model's own hidden states.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from analysis.errors import AnalysisError, NumericalError, ReplayError, UnsupportedModel, UsageError, first_line
from analysis.models.anatomy import Anatomy, Block, evaluating, require_each_once, run_body
from analysis.models.block_arguments import HIDDEN, Call, Recorder, Ref, Slot, form, map_call, tensors
from analysis.models.context import usable_context
from analysis.models.dtypes import dtype_word
from analysis.models.hooks import hooked, replaced
from analysis.models.load import embedding_rows, unwrapped
from analysis.models.wrapped import image_tokens
from analysis.windows import Windows

Allocator = Callable[[tuple[int, ...], torch.dtype, torch.device], Tensor]
LONGEST_RANDOM = 1024  # tokens of a window of `random_windows`
_CACHES = {"past_key_values", "past_key_value", "layer_past", "use_cache"}


@dataclass(eq=False)
class Recording:
    """What the dense model passes to each of its blocks, for N windows of T tokens.

    windows: the windows. hidden: (N, T, H), inputs of block 0. tokens: those that statistics and losses count, a word
    of `windows.TOKENS`. lengths: (N,) tokens of each window up to its last real one, where padding behind it can be
    left out of what blocks are run on; None where it cannot, or there is none.
    """

    windows: Windows
    hidden: Tensor
    calls: tuple[Call, ...] = field(repr=False)
    slots: tuple[Slot, ...] = field(repr=False)
    tokens: str = "all"
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def ids(self) -> Tensor:
        """(N, T) token ids."""
        return self.windows.ids

    @property
    def mask(self) -> Tensor:
        """(N, T) bool, True = real token."""
        return self.windows.mask

    @property
    def counts(self) -> Tensor:
        """(N, T) bool, True = token that statistics and losses count."""
        return self.windows.which(self.tokens)

    def longest(self, rows: Tensor | slice) -> int:
        """How many tokens of the windows `rows` a block must be run on: all, or up to the last real one of any."""
        if self.lengths is None:
            return self.mask.shape[1]
        return int(self.lengths[rows if isinstance(rows, slice) else rows.cpu()].max())

    def call(
        self, block: int, rows: Tensor | slice, device: torch.device | str | None = None, *, length: int | None = None
    ) -> Call:
        """Arguments of block `block` for the windows `rows` (any subset, any order, repeats allowed), moved to `device`
        if one is given; for their first `length` tokens, at least `longest(rows)`.
        """
        count = len(range(*rows.indices(len(self)))) if isinstance(rows, slice) else len(rows)

        def fill(leaf):
            if not isinstance(leaf, Ref):
                return leaf
            value = self.slots[leaf.index].take(rows, count, None if self.lengths is None else length)
            return value if device is None else value.to(device)

        return map_call(fill, self.calls[block])


def run(block: nn.Module, hidden: Tensor, call: Call) -> Tensor:
    """Output (B, T, H) of one block on `hidden` (B, T, H). Differentiable. The only place that calls a block.

    Raises UsageError if the block is in training mode (dropout would change its output) and ReplayError if the output
    has another shape than the input.
    """
    if block.training:
        raise UsageError(
            f"run: {type(block).__name__} is in training mode, so dropout may be active; call .eval() on it first"
        )
    args = tuple(hidden if value is HIDDEN else value for value in call.args)
    output = _tensor(
        block(*args, **{name: hidden if value is HIDDEN else value for name, value in call.kwargs.items()})
    )
    if output.shape != hidden.shape:
        raise ReplayError(
            f"run: {type(block).__name__} turned hidden states {tuple(hidden.shape)} into {tuple(output.shape)}; a"
            " block must keep their shape"
        )
    return output


def filled_up(hidden: Tensor, length: int) -> Tensor:
    """Hidden states (B, T, H) with zeros for what padding behind them would have, (B, length, H)."""
    return hidden if hidden.shape[1] == length else pad(hidden, (0, 0, 0, length - hidden.shape[1]))


def record(
    model: nn.Module, anatomy: Anatomy, windows: Windows, *, batch: int = 8, store: Allocator | None = None
) -> Recording:
    """Record the arguments of every block for `windows`, `batch` windows at a time.

    Forwards of one and of two windows tell which arguments have entries per window, and stubbed ones that none depends
    on what the blocks compute: the rest is recorded with the blocks handing their input on, at next to no cost. A set
    with padding is recorded with a padded window in every batch: transformers leaves masks out of batches without
    padding. Padding behind the text can be left out later (`lengths`) where the shortest window is passed the same
    without it, cut. store(shape, dtype, device) makes the tensor for the hidden states (default: main memory); masks
    per window are kept where it is. Raises UsageError for an empty set, UnsupportedModel if an argument cannot be
    recorded, or comes from blocks before.
    """
    if len(windows) == 0:
        raise UsageError("record: 0 windows given; at least one is needed")
    padded = ~windows.mask.all(dim=1)
    witness = padded.int().argmax()[None]
    hidden: Tensor | None = None
    with evaluating(model):
        recorder, forms = _probe(model, anatomy, windows, witness)
        for start in range(0, len(windows), batch):
            rows = torch.arange(start, min(start + batch, len(windows)))
            chunk = torch.cat([rows, witness]) if padded.any() and not padded[rows].any() else rows
            with _stubbed(anatomy, forms):
                seen = _listen(model, anatomy, windows.arguments(chunk))
            recorder.add([one.call for one in seen], len(chunk), len(rows))
            first = seen[0].hidden[: len(rows)]
            if hidden is None:
                shape = (len(windows), *first.shape[1:])
                hidden = store(shape, first.dtype, first.device) if store else torch.empty(shape, dtype=first.dtype)
            hidden[start : start + len(rows)] = first.to(hidden.device)
        lengths = _lengths(model, anatomy, windows, recorder, forms)
    assert hidden is not None  # there is at least one batch
    return Recording(windows, hidden, recorder.calls, recorder.slots(hidden.device), lengths=lengths)


def _lengths(
    model: nn.Module, anatomy: Anatomy, windows: Windows, recorder: Recorder, forms: list[int]
) -> Tensor | None:
    """See `Recording.lengths`. The shortest window keeps one token of padding, and so its mask."""
    whole, lengths = windows.length, windows.mask.sum(dim=1).cpu()
    shortest = int(lengths.argmin())
    cut = int(lengths[shortest]) + 1
    behind = torch.arange(whole) < lengths[:, None]
    if cut >= whole or windows.pictures is not None or not torch.equal(windows.mask.cpu(), behind):
        return None
    one = windows.take(torch.tensor([shortest]))
    with _stubbed(anatomy, forms):
        with_it, without = (
            [seen.call for seen in _listen(model, anatomy, part.arguments(slice(None)))]
            for part in (one, one.trimmed(cut))
        )
    return lengths if recorder.cuts(with_it, without, (whole, cut)) else None


@dataclass(eq=False)
class _Seen:
    """One block as the model ran it: its call without caches, its hidden states in and out (B, T, H), and the form of
    what it returned (length of a tuple, 0 for a tensor)."""

    call: Call
    hidden: Tensor
    output: Tensor = field(default_factory=lambda: torch.empty(0))  # until the block has run
    form: int = 0


def _listen(
    model: nn.Module,
    anatomy: Anatomy,
    arguments: Mapping[str, Tensor],
    judge: Callable[[Block, _Seen], None] = lambda block, seen: None,
) -> list[_Seen]:
    """What every block was given and returned in one forward of the model. judge: is given each as soon as it is known,
    may run the block, and may let go of tensors nobody else needs.
    """
    seen: list[_Seen] = []
    ran: list[int] = []
    judged: list[Block] = []  # the block that is being judged

    def enter(block: Block):
        def hook(module, args, kwargs):
            if not judged:
                ran.append(block.index)
                seen.append(_without_caches(block.name, args, kwargs))

        return hook

    def leave(block: Block):
        def hook(module, args, output):
            if judged:
                return
            seen[-1].output = _tensor(output)
            seen[-1].form = len(output) if isinstance(output, tuple | list) else 0
            judged.append(block)
            judge(block, seen[-1])
            judged.clear()

        return hook

    before = [(block.module, enter(block)) for block in anatomy.blocks]
    with hooked(before, after=[(block.module, leave(block)) for block in anatomy.blocks]):
        run_body(model, arguments)
    require_each_once(anatomy.model_type, anatomy.path, ran, len(anatomy.blocks))
    return seen


def _tensor(output: Tensor | tuple | list) -> Tensor:
    """A block's hidden states out of whatever it returned: indexing a tensor would take its first window."""
    return output[0] if isinstance(output, tuple | list) else output


def _without_caches(name: str, args: tuple, kwargs: dict) -> _Seen:
    """The call with `HIDDEN` in the place of the hidden states and without key-value caches."""
    kwargs = {key: value for key, value in kwargs.items() if key not in _CACHES}
    if args and isinstance(args[0], Tensor):
        hidden, args = args[0], (HIDDEN, *args[1:])
    elif isinstance(kwargs.get("hidden_states"), Tensor):
        hidden = kwargs["hidden_states"]
        kwargs["hidden_states"] = HIDDEN
    else:
        raise UnsupportedModel(
            f"{name}: takes its hidden states neither first nor as `hidden_states`; this family cannot be replayed"
        )
    without = map_call(lambda leaf: None if hasattr(leaf, "get_seq_length") else leaf, Call(args, kwargs))
    return _Seen(without, hidden)


def _probe(model: nn.Module, anatomy: Anatomy, windows: Windows, witness: Tensor) -> tuple[Recorder, list[int]]:
    """A recorder that knows the form of every call, and the forms of the blocks' outputs.

    witness: (1,) the window that is looked at. Raises UnsupportedModel where a block is passed what blocks before it
    compute, or something is added to the hidden states between two blocks.
    """
    arguments, twice = windows.arguments(witness), windows.arguments(witness.repeat(2))
    true = _listen(model, anatomy, arguments, _HandsOn(anatomy) if windows.pictures else _let_go)
    forms = [seen.form for seen in true]
    try:
        with _stubbed(anatomy, forms):
            one, two = _listen(model, anatomy, arguments), _listen(model, anatomy, twice)
    except (AnalysisError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the family's forward makes of blocks that hand their input on
        raise UnsupportedModel(
            f"{anatomy.model_type}: its blocks hand on something else than hidden states"
            f" ({type(error).__name__}: {first_line(error)}); this family cannot be replayed"
        ) from error
    for block, stubbed, seen in zip(anatomy.blocks, one, true, strict=True):
        if dependent := _differing(stubbed.call, seen.call):
            raise UnsupportedModel(
                f"{block.name} ({type(block.module).__name__}): is passed what blocks before it compute"
                f" ({', '.join(dependent)}), which would no longer be so once they are pruned; such models cannot be"
                " pruned block by block"
            )
    recorder = Recorder(
        [block.name for block in anatomy.blocks], [seen.call for seen in one], [seen.call for seen in two]
    )
    return recorder, forms


def _differing(one: Call, two: Call) -> list[str]:
    """The arguments that two calls of a block do not share, by name or place."""
    sides = [{str(place): value for place, value in enumerate(call.args)} | call.kwargs for call in (one, two)]

    def same(name: str) -> bool:
        if not all(name in side for side in sides):
            return False
        left, right = (Call((side[name],), {}) for side in sides)
        pairs = zip(tensors(left), tensors(right), strict=True)
        return form(left) == form(right) and all(torch.equal(a, b) for a, b in pairs)

    return [name for name in dict.fromkeys([*sides[0], *sides[1]]) if not same(name)]


@contextmanager
def _stubbed(anatomy: Anatomy, forms: list[int]) -> Iterator[None]:
    """While open, blocks hand their hidden states on untouched, in outputs of the given forms."""

    def stub(length: int):
        def forward(*args, **kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            return (hidden, *[None] * (length - 1)) if length else hidden

        return forward

    stubs = zip(anatomy.blocks, forms, strict=True)
    with replaced((block.module, stub(length)) for block, length in stubs):
        yield


def replay_error(
    model: nn.Module, anatomy: Anatomy, source: Windows | Recording, *, batch: int = 8, rows: Tensor | None = None
) -> pd.DataFrame:
    """How far replayed hidden states are from the model's own, block by block.

    source: windows, or a Recording of them; rows: which of them to replay (default all). Blocks are run one after
    another, each on the replayed output of the one before.
    Columns: block, name, relative_error = |replayed - true| / |true| (2-norms over the real tokens of a window), of the
    worst window. Raises NumericalError where the model's own hidden states are not finite.
    """
    recording = source if isinstance(source, Recording) else record(model, anatomy, source, batch=batch)
    worst = torch.zeros(len(anatomy.blocks), dtype=torch.float64)
    with evaluating(model):
        for part in (torch.arange(len(recording)) if rows is None else rows).split(batch):
            _listen(model, anatomy, recording.windows.arguments(part), _Replay(recording, part, worst))
    return pd.DataFrame(
        {"block": range(len(worst)), "name": [block.name for block in anatomy.blocks], "relative_error": worst.tolist()}
    )


@dataclass(eq=False)
class _Replay:
    """Runs each block on the replayed output of the one before, as soon as the model has run it: no more than one
    block's tensors are kept.

    rows: the windows of the recording that the model runs on. worst: by block, the largest relative error so far.
    """

    recording: Recording
    rows: Tensor
    worst: Tensor
    hidden: Tensor | None = None

    def __call__(self, block: Block, seen: _Seen) -> None:
        recording, rows = self.recording, self.rows
        hidden = recording.hidden[rows].to(seen.output.device) if self.hidden is None else self.hidden
        _check_finite(block.name, seen.output, recording.mask[rows])
        length = recording.longest(rows)
        call = recording.call(block.index, rows, hidden.device, length=length)
        self.hidden = filled_up(run(block.module, hidden[:, :length], call), hidden.shape[1])
        errors = _window_errors(self.hidden, seen.output, recording.mask[rows])
        self.worst[block.index] = torch.maximum(self.worst[block.index], errors.max())
        _let_go(block, seen)


@dataclass(eq=False)
class _HandsOn:
    """Raises UnsupportedModel where a block is not given what the one before returned."""

    anatomy: Anatomy
    last: Tensor | None = None

    def __call__(self, block: Block, seen: _Seen) -> None:
        if self.last is not None and not torch.equal(self.last, seen.hidden):
            raise UnsupportedModel(
                f"{self.anatomy.model_type}: adds what it sees to the hidden states between blocks {block.index - 1}"
                f" and {block.index}, so that its blocks cannot be run one after another on text with pictures; give"
                " text alone"
            )
        self.last = seen.output
        _let_go(block, seen)


def _let_go(block: Block, seen: _Seen) -> None:
    seen.hidden = seen.output = torch.empty(0)


def _check_finite(name: str, output: Tensor, mask: Tensor) -> None:
    if bool(output[mask.to(output.device)].isfinite().all()):
        return
    dtype = dtype_word(output.dtype)
    remedy = "the weights or the text are broken"
    if output.dtype == torch.float16:
        remedy = "they overflow above 65,504 there; take bfloat16 or float32 (`--dtype`)"
    raise NumericalError(f"{name}: the model's own hidden states are not finite in {dtype}; {remedy}")


def _window_errors(replayed: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    """(B,) relative 2-norm errors over real tokens, float64; nan where either is not finite there."""
    keep, replayed, true = mask.cpu()[..., None], replayed.cpu().double(), true.cpu().double()
    difference = torch.where(keep, replayed - true, 0.0).flatten(1).norm(dim=1)
    scale = torch.where(keep, true, 0.0).flatten(1).norm(dim=1)
    return torch.where(difference == 0, difference, difference / scale)


def tolerance_for(dtype: torch.dtype, tolerance: float = 1e-5) -> float:
    """The tolerance on a replay in `dtype`: 1e-5 in float32, eight rounding steps where those are coarser."""
    return max(tolerance, 8 * torch.finfo(dtype).eps)


def verify(
    model: nn.Module,
    anatomy: Anatomy,
    windows: Windows | Recording,
    tolerance: float = 1e-5,
    *,
    batch: int = 8,
    rows: Tensor | None = None,
) -> pd.DataFrame:
    """The table of `replay_error`, or ReplayError naming the worst block where one exceeds `tolerance` (coarser in half
    precision).

    windows: token windows, or a Recording of them; rows: which of them to replay (default all).
    """
    table = replay_error(model, anatomy, windows, batch=batch, rows=rows)
    allowed = tolerance_for(next(model.parameters()).dtype, tolerance)
    bad = table[~(table.relative_error <= allowed)]  # nan is bad
    if len(bad):
        worst = bad.loc[bad.relative_error.idxmax() if bad.relative_error.notna().any() else bad.index[0]]
        raise ReplayError(
            f"replay of {anatomy.model_type}: {len(bad)} of {len(table)} blocks differ from the model's own hidden"
            f" states, the first is {bad.iloc[0]['name']}, the worst {worst['name']} with relative error"
            f" {worst.relative_error:.3g} (allowed {allowed:.1g}); this model cannot be pruned block by block"
        )
    return table


def random_windows(model: nn.Module, *, count: int = 4, seed: int = 0) -> Windows:
    """Uniform random token ids (count, T) for a model to be checked on: whole, padded on the right, on the left and
    whole again.

    T is 64, or longer than the model's sliding window where that fits its context and 1024 tokens: below it a sliding
    window changes nothing.
    """
    network = unwrapped(model)
    config = network.config.get_text_config()
    length = max(64, min(_sliding_window(config), LONGEST_RANDOM - 16) + 16)
    length = min(length, usable_context(network) or length)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(embedding_rows(network), (count, length), generator=generator)
    for token in image_tokens(network):  # text alone
        ids[ids == token] = 0
    mask = torch.ones(count, length, dtype=torch.bool)
    mask[1::4, length - length // 3 :] = False
    mask[2::4, : length // 4] = False
    provenance = {"source": "uniform random tokens", "seed": seed, "length": length, "samples": count}
    return Windows(ids, mask, "random tokens", provenance)


def _sliding_window(config: Any) -> int:
    """Tokens of a model's sliding window, the first that its config names where layers differ; 0: none."""
    try:
        return getattr(config, "sliding_window", None) or 0
    except RuntimeError:  # transformers' "may vary across layers"
        return vars(config).get("sliding_window") or 0


def last_hidden(model: nn.Module, ids: Tensor) -> Tensor:
    """Last hidden states (B, T, H), float64, of the model without its head."""
    device = next(model.parameters()).device
    ids = ids.to(device)
    body = unwrapped(model).base_model
    return body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)[0].double()

"""How heads and neurons are scored (higher = keep). Masks that meet a budget are made of the scores in
`structured/budget.py`.

Every criterion is a function of one pair and the evidence about it, and gives (count,) float64 scores on the CPU.
Evidence is what the consumer's input looks like on calibration tokens (`consumer_statistics`), or the gradient of the
model's loss with respect to a factor on every structure (`mask_gradients`); padded tokens enter neither. x is the
consumer's input, W (out, in) its weight, both by column.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from analysis.errors import DataError, NumericalError, UsageError
from analysis.models.anatomy import evaluating
from analysis.models.embeddings import pair_loss
from analysis.models.hooks import hooked
from analysis.models.logits import portion, split_model, vocabulary
from analysis.models.task_heads import head, inputs
from analysis.recipe.words import STRUCTURED_WORDS
from analysis.reconstruction.losses import over_vocabulary
from analysis.streams.collect import collect
from analysis.streams.moments import Statistics
from analysis.structured.pairs import Pair, Structures, structure_of_column
from analysis.windows import Windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = Mapping[str, Tensor]
_ANSWERS = ("labels", "start_positions", "end_positions", "pairs")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of one pair. statistics: of the consumer's input. gradients (batches, count): of the loss of each
    batch, with respect to a factor on each structure.
    """

    statistics: Statistics | None = None
    gradients: Tensor | None = None


# --- criteria --------------------------------------------------------------------------------------------------------


def random_scores(pair: Pair, evidence: Evidence, generator: torch.Generator) -> Tensor:
    """Uniform in [0, 1)."""
    return torch.rand(pair.count, generator=generator, device=generator.device, dtype=torch.float64)


def magnitude_scores(pair: Pair, evidence: Evidence, generator: torch.Generator) -> Tensor:
    """2-norm of every weight of the structure, rows and columns together (structured magnitude; biases do not
    count).
    """
    squares = _per_structure(pair, pair.consumer.weight().double().square().sum(0))
    for producer in pair.producers:
        squares = squares + producer.matrix.weight().double().square().sum(1).cpu()[producer.rows].sum(1)
    return squares.sqrt()


def activation_scores(pair: Pair, evidence: Evidence, generator: torch.Generator) -> Tensor:
    """Activation norm: root of the summed mean x_j^2 over the structure's columns."""
    return _per_structure(pair, _mean_squares(evidence)).sqrt()


def wanda_sp_scores(pair: Pair, evidence: Evidence, generator: torch.Generator) -> Tensor:
    """Wanda-sp (An et al., AAAI 2024, arXiv 2312.11983, its code): sum over columns of mean over rows of |W_ij| times
    the root mean square of x_j.
    """
    columns = pair.consumer.weight().double().abs().mean(0).cpu() * _mean_squares(evidence).sqrt()
    return _per_structure(pair, columns)


def flap_scores(pair: Pair, evidence: Evidence, generator: torch.Generator) -> Tensor:
    """FLAP's fluctuation (An et al., AAAI 2024, arXiv 2312.11983, WIFV): variance of x_j times the sum over rows of
    W_ij^2.

    As in its code: squared for attention, standardised over the pair's columns (z-scores, so that layers and kinds
    compare), then the mean over a structure's columns. What bias compensation cannot restore is the fluctuation. All 0
    where every column has the same score. May be negative.
    """
    mean = _statistics(evidence).mean.double().cpu()
    variance = (_mean_squares(evidence) - mean.square()).clamp(min=0)
    columns = variance * pair.consumer.weight().double().square().sum(0).cpu()
    if pair.half == "attention":
        columns = columns.square()
    spread = columns.std() if len(columns) > 1 else columns.new_zeros(())
    standard = (columns - columns.mean()) / spread if spread > 0 else torch.zeros_like(columns)
    return _per_structure(pair, standard) / pair.columns.shape[1]


def snip_scores(pair: Pair, evidence: Evidence, generator: torch.Generator) -> Tensor:
    """SNIP (Lee et al., ICLR 2019) on structures, first-order Taylor: |dL/dc| of a factor c = 1 on the structure, L the
    mean loss over the batches.

    It equals |sum of w dL/dw| over the structure's columns of W: what the loss loses to first order when they go.
    """
    return _gradients(evidence).double().mean(0).abs().cpu()


def fisher_scores(pair: Pair, evidence: Evidence, generator: torch.Generator) -> Tensor:
    """Diagonal Fisher information of the factors (Kwon et al. 2022, arXiv 2204.09656): squared gradients, summed over
    batches as in its code.
    """
    return _gradients(evidence).double().square().sum(0).cpu()


STRUCTURE_SCORES: dict[str, Callable[..., Tensor]] = {
    "random": random_scores,
    "magnitude": magnitude_scores,
    "activation": activation_scores,
    "wanda-sp": wanda_sp_scores,
    "flap": flap_scores,
    "snip": snip_scores,
    "fisher": fisher_scores,
}
"""The scores of every criterion of whole structures, by its word: functions of one pair, its evidence, a generator and,
by name, the options of the word."""


def structure_scores(
    criterion: str, pair: Pair, evidence: Evidence | None, generator: torch.Generator, **options: Any
) -> Tensor:
    """Scores (count,) float64 of one pair by a criterion of `STRUCTURED_WORDS`, with its options.

    Raises UsageError for an unknown criterion or missing evidence, NumericalError naming the consumer for scores that
    are not finite.
    """
    if criterion not in STRUCTURED_WORDS:
        raise UsageError(f"criterion {criterion!r}: unknown for structures; possible are {', '.join(STRUCTURED_WORDS)}")
    wanted, evidence = STRUCTURED_WORDS[criterion].evidence, evidence or Evidence()
    if wanted is not None and getattr(evidence, wanted) is None:
        source = {"statistics": "consumer_statistics", "gradients": "mask_gradients"}[wanted]
        raise UsageError(f"{criterion}: needs {wanted} of {pair.name}; take them with {source}")
    scores = STRUCTURE_SCORES[criterion](pair, evidence, generator, **options).double().cpu()
    if not bool(scores.isfinite().all()):
        bad = int((~scores.isfinite()).sum())
        raise NumericalError(
            f"{criterion}: {bad} of {pair.count} scores of {pair.name} are not finite; look at the model and the"
            " calibration text"
        )
    return scores


def ranking(criterion: str) -> str:
    """The rule that the criterion's global ranking goes by (`select`)."""
    return STRUCTURED_WORDS[criterion].implies.get("rule", "sum")


def _per_structure(pair: Pair, columns: Tensor) -> Tensor:
    """Sum of a value per column (in,) over the columns of each structure: (count,) on the CPU."""
    return columns.cpu()[pair.columns].sum(1)


def _mean_squares(evidence: Evidence) -> Tensor:
    statistics = _statistics(evidence)
    return statistics.diagonal.double().cpu() / statistics.tokens


def _statistics(evidence: Evidence) -> Statistics:
    assert evidence.statistics is not None  # `structure_scores` has refused what is missing
    return evidence.statistics


def _gradients(evidence: Evidence) -> Tensor:
    assert evidence.gradients is not None  # `structure_scores` has refused what is missing
    return evidence.gradients


# --- evidence --------------------------------------------------------------------------------------------------------


def token_batches(windows: Windows, size: int) -> Iterator[dict[str, Tensor]]:
    """Windows as batches a model takes, with what its loss compares with (`heads.inputs`)."""
    for start in range(0, len(windows), size):
        yield inputs(windows, slice(start, start + size), "cpu", labels=True)


def consumer_statistics(
    model: nn.Module,
    structures: Structures,
    batches: Iterable[Batch],
    *,
    want: str = "diagonal",
    precision: torch.dtype = torch.float64,
) -> dict[str, Statistics]:
    """Statistics of the input of every consumer, from one pass of the model as it stands; tokens with attention_mask 0
    do not count.

    batches  keyword arguments of the model; what its loss is compared with is left out
    want     "diagonal" is enough for every criterion, "gram" for repairs
    Raises DataError without a batch; else as `collect`.
    """
    device = next(model.parameters()).device
    seen = False
    with ExitStack() as stack:
        collectors = {
            pair.name: stack.enter_context(
                collect([pair.consumer], want, precision, block=structures.parts.blocks[pair.block].name)
            )
            for pair in structures
        }
        stack.enter_context(evaluating(model))
        for batch in batches:
            seen = True
            mask = (
                batch["attention_mask"].bool()
                if "attention_mask" in batch
                else torch.ones_like(batch["input_ids"], dtype=torch.bool)
            )
            for collector in collectors.values():
                collector.mask = mask
            tensors = {name: value.to(device) for name, value in batch.items() if name not in _ANSWERS}
            model.base_model(**tensors, use_cache=False)  # type: ignore[operator]  # attributes of modules: Tensor | Module
    if not seen:
        raise DataError("consumer_statistics: no batch was given; there is nothing to look at")
    return {pair.name: collectors[pair.name].result()[pair.consumer.name] for pair in structures}


def mask_gradients(
    model: nn.Module,
    structures: Structures,
    batches: Iterable[Batch],
    loss: Callable[[nn.Module, Batch], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Consumer's name -> (batches, count) float64: gradient of each batch's loss with respect to a factor, at 1, on
    every structure.

    loss  (model, batch) -> scalar; by default the model's own for the labels in the batch. No weight and no weight's
          gradient is touched.
    Raises DataError without a batch or without labels, NumericalError naming the consumer whose gradient is not finite.
    """
    device = next(model.parameters()).device
    rows: dict[str, list[Tensor]] = {pair.name: [] for pair in structures}
    with _factors(structures, device) as factors, evaluating(model), torch.enable_grad():
        for batch in batches:
            batch = {name: value.to(device) for name, value in batch.items()}
            value = (own_loss if loss is None else loss)(model, batch)
            for name, gradient in zip(factors, torch.autograd.grad(value, list(factors.values())), strict=True):
                if not bool(gradient.isfinite().all()):
                    raise NumericalError(
                        f"mask_gradients: the loss has no finite gradient at {name}; load the model in float32 or look"
                        " at the calibration text"
                    )
                rows[name].append(gradient.double().cpu())
    if not all(rows.values()):
        raise DataError("mask_gradients: no batch was given; there is no loss to follow")
    return {name: torch.stack(gradients) for name, gradients in rows.items()}


def text_tokens(batch: Batch) -> Tensor:
    """(B, T) bool: the tokens of a text's loss, those with a label and the first behind padding, which only predicts
    (`task_heads.inputs`).
    """
    real = batch["labels"] != -100
    if (mask := batch.get("attention_mask")) is not None:
        real[:, 1:] |= mask[:, 1:].bool() & ~mask[:, :-1].bool()
    return real


def own_loss(model: nn.Module, batch: Batch) -> Tensor:
    if "labels" in batch and head(model) == "next token" and batch["input_ids"].numel() > portion(vocabulary(model)):
        split, real = split_model(model), text_tokens(batch)
        if split is not None:
            own = ("input_ids", "attention_mask", "labels")
            more = {name: value for name, value in batch.items() if name not in own}
            hidden = split.hidden(batch["input_ids"], batch.get("attention_mask"), more)
            return over_vocabulary("ce", hidden, batch["labels"].clamp(min=0), real, split)
    if "pairs" in batch:
        return pair_loss(cast("PreTrainedModel", model), dict(batch))
    value = getattr(model(**batch), "loss", None)
    if value is None:
        raise DataError(
            f"mask_gradients: {type(model).__name__} gave no loss for a batch of {', '.join(batch)}; add its labels, or"
            " give a loss"
        )
    return value


@contextmanager
def _factors(structures: Structures, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """While open every structure's columns are multiplied by its factor, which is 1 and wants a gradient."""

    def multiply(factor: Tensor, owner: Tensor):
        return lambda module, args, kwargs: ((args[0] * factor[owner], *args[1:]), kwargs)

    hooks, factors = [], {}
    for pair in structures:
        weight = pair.consumer.weight()
        factors[pair.name] = factor = torch.ones(
            pair.count, device=weight.device, dtype=weight.dtype, requires_grad=True
        )
        owner = structure_of_column(pair).to(weight.device)
        hooks.append((pair.consumer.module, multiply(factor, owner)))
    with hooked(hooks):
        yield factors

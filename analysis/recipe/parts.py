"""The parts of a recipe, one small frozen dataclass each, and the words they know. `recipe.py` puts them together. No
torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, replace
from typing import Any, ClassVar

from analysis.recipe import notation
from analysis.recipe.fields import Part, amount, choice, count, positive, rule, share

CRITERIA = {  # name: default grouping of an unstructured pattern, each paper's own
    "random": "matrix",
    "magnitude": "matrix",
    "wanda": "row",
    "sparsegpt": "block",
    "ria": "matrix",
}
STRUCTURED = ("random", "magnitude", "activation", "wanda-sp", "flap", "snip", "fisher")  # criteria of whole structures
BLIND = ("random", "magnitude")  # criteria that look at no inputs
GRADIENTS = ("snip", "fisher")  # criteria that follow the dense model's loss
REFINEMENTS = {
    "none": "the criterion's mask as it is",
    "swaps": "SparseSwaps: the best exchange of a kept and a removed weight, row by row, until none helps (2512.10922)",
    "fw": "SparseFW: Frank-Wolfe on the relaxed mask (2510.13713)",
}
UNITS = {
    "matrix": "each linear map on its own",
    "sub-block": "attention half and MLP half, each with its norms and residual addition",
    "block": "`width` consecutive blocks, `overlap` of them shared with the unit before",
    "model": "the whole stack of blocks",
}
KINDS = {
    "weights": "single weights",
    "heads": (
        "whole attention heads; under grouped queries a KV group with all its query heads, or single query heads"
        " (heads=queries)"
    ),
    "neurons": "whole MLP neurons",
    "structures": "heads and neurons",
}
WHOLE = tuple(kind for kind in KINDS if kind != "weights")
HEADS = ("groups", "queries")
SCOPES = ("uniform", "global")
REPAIRS = ("none", "compensate", "scale", "liar")
SOLVERS = ("none", "ridge", "gradient", "retrain")
TRAINED = ("gradient", "retrain")
GROUPS = ("default", "matrix", "row", "block")
STREAMS = ("sparse", "dense")
ADDED = ("solver", "all")
SETTINGS: dict[
    str, dict[str, dict[str, Any]]
] = {  # of the optimiser: name: solver: options that differ from the defaults
    "paper1": {"gradient": {}, "retrain": {}},
    "paper2": {
        "gradient": {"epochs": 1, "batch": 2, "lr": 1e-5, "warmup": 0.1, "shuffle": False, "beta2": 0.999},
        "retrain": {"epochs": 1, "batch": 2, "lr": 1e-5, "warmup": 0.1, "shuffle": False, "clip": 1.0, "beta2": 0.999},
    },
}


@dataclass(frozen=True)
class Criterion(Part):
    """How weights are scored; higher score = keep.

    SparseGPT's options (2301.00774): damping: share of the Gram matrix's mean diagonal added to its diagonal. columns:
    of a block; masks are chosen and updates applied block by block. update: OBS update of the kept weights; False keeps
    its mask alone. RIA's: exponent: power of the input's norm in its score (alpha in its code).
    """

    name: str = choice(MISSING, dict.fromkeys((*CRITERIA, *STRUCTURED)))
    damping: float = positive(0.01, only=("sparsegpt",))
    columns: int = count(128, 1, only=("sparsegpt",))
    update: bool = rule(True, bool, "true or false", only=("sparsegpt",))
    exponent: float = amount(0.5, only=("ria",))


@dataclass(frozen=True)
class Refinement(Part):
    """Improving the chosen mask with the Gram matrix; kept weights stay as they were.

    rounds: most swaps in a row. iterations: of Frank-Wolfe. protect: share of the kept weights, those of the highest
    scores, that Frank-Wolfe may not remove (2510.13713 section 2.3).
    """

    SPOKEN: ClassVar[Mapping[str, str]] = {"none": "a mask without refinement (wanda+swaps-50%, wanda+fw-50%)"}

    name: str = choice("none", REFINEMENTS)
    rounds: int = count(100, 1, only=("swaps",))
    iterations: int = count(2000, 1, only=("fw",))
    protect: float = share(0.9, only=("fw",))


@dataclass(frozen=True)
class Pattern(Part):
    """What a mask may look like: `sparsity`, the share removed, of single weights or of whole structures (`kind`), or
    N:M of weights, `keep` of every `of` consecutive inputs.

    group: where scores of weights compete for a sparsity: the matrix, each output row, or each block of SparseGPT's
    columns. Of whole structures: heads: what is removed under grouped queries, KV groups or query heads, every group
    losing equally many. scope: the share is that of every layer's structures ("uniform"), or of what all structures
    cost together ("global"), chosen on the dense model. flops: count that cost in multiply-adds per token with so many
    keys (default: in parameters).
    """

    sparsity: float | None = rule(None, float, "a number (0.5 means 50%)")
    keep: int | None = rule(None, int, "a whole number")
    of: int | None = rule(None, int, "a whole number")
    kind: str = choice("weights", KINDS)
    group: str = choice("default", GROUPS, when=("kind", ("weights",)))
    heads: str = choice("groups", HEADS, when=("kind", ("heads", "structures")))
    scope: str = choice("uniform", SCOPES, when=("kind", WHOLE))
    flops: int | None = count(None, 1, when=("scope", ("global",)))

    @property
    def whole(self) -> bool:
        """Whether whole structures are removed rather than single weights."""
        return self.kind != "weights"

    def _check_together(self) -> Iterator[str]:
        kinds = [value is not None for value in (self.sparsity, self.keep, self.of)]
        if kinds not in ([True, False, False], [False, True, True]):
            yield "a pattern is a sparsity (50%, sparsity = 0.5) or N:M (2:4, keep = 2 and of = 4): exactly one of them"
        elif isinstance(self.sparsity, float) and not 0 <= self.sparsity < 1:
            yield f"sparsity {notation.percent(self.sparsity)} is outside 0% to below 100% (the fraction 0.5 means 50%)"
        elif type(self.keep) is type(self.of) is int and not 1 <= self.keep < self.of:
            yield f"{self.keep}:{self.of} would keep {self.keep} of every {self.of}; N:M needs 1 <= N < M, as in 2:4"
        if self.of is not None and self.group != "default":
            yield f"group={self.group} does not go with N:M, which chooses within each M consecutive inputs"
        if self.of is not None and self.kind in WHOLE:
            yield f"N:M is a pattern of single weights; {self.kind} take a share, as in {self.kind}-50%"

    def resolve(self, criterion: str) -> "Pattern":
        """The same with group "default" made explicit: each criterion's paper decides. N:M and whole structures have no
        group and stay.
        """
        return (
            self
            if self.group != "default" or self.of is not None or self.whole
            else replace(self, group=CRITERIA[criterion])
        )

    def __str__(self) -> str:
        share = f"{self.keep}:{self.of}" if self.of is not None else notation.percent(self.sparsity)
        return f"{self.kind}-{share}" if self.whole else share


@dataclass(frozen=True)
class Unit(Part):
    """What is reconstructed at once. Of blocks: `width` of them, `overlap` shared with the unit before (CR: 2 and
    1).
    """

    name: str = choice("block", UNITS)
    width: int = count(1, 1, only=("block",))
    overlap: int = count(0, 0, only=("block",))

    def _check_together(self) -> Iterator[str]:
        if type(self.width) is type(self.overlap) is int and self.overlap >= self.width >= 1:
            yield f"overlap must be below width, got overlap {self.overlap} and width {self.width}"

    def __str__(self) -> str:
        if self.name != "block":
            return self.name
        return f"{self.width} block{'s' * (self.width > 1)}" + f", overlap {self.overlap}" * (self.overlap > 0)


@dataclass(frozen=True)
class Repair(Part):
    """What the consumers of removed structures (attention output, MLP output) become, in closed form, before any
    gradient step (`structured/repair.py`).

    "compensate": the bias that makes up for the mean of what is gone (FLAP, 2312.11983). "scale": one scale per kept
    structure (mask tuning, 2204.09656). "liar": kept weights and bias by ridge regression (after 2407.13331). penalty:
    as a share of the mean diagonal of the matrix solved, or "held-out": of several the one with the smallest held-out
    error. bias: whether the consumer's bias may move, and be made where there is none; False: the weights alone,
    through the origin.
    """

    SPOKEN: ClassVar[Mapping[str, str]] = {"none": "a method without repair (LIAR, or BR+GP[repair=liar])"}

    name: str = choice("none", REPAIRS)
    penalty: float | str = amount(0.01, words=("held-out",), only=("scale", "liar"))
    bias: bool = rule(True, bool, "true or false", only=("liar",))


@dataclass(frozen=True)
class Solver(Part):
    """How kept weights change.

    "none": not at all. "ridge": row-wise least squares on the support in closed form; penalty: on the change of the
    weights, as a share of the Gram matrix's mean diagonal. "gradient": Adam on the error of the unit's output.
    "retrain": Adam on the model's own loss.

    train: "all" parameters of the unit, its "norms-biases" alone, or "masklora": a masked low-rank change of `rank`
    scaled by alpha / rank for every matrix, with norms and biases (2312.15230). loss: mean squared error, the same
    relative to each token's target, or one minus the cosine. objective: "ce" (next token) or "distill" (the dense
    model's distribution).

    Adam without weight decay; the learning rate rises linearly to `lr` over the `warmup` share of all steps and falls
    linearly to 0; `batch` windows a step, reshuffled every epoch if `shuffle`; gradients longer than `clip` are
    shortened (0: never). The defaults are 2406.15524 appendix A ("paper1" of `SETTINGS`; "paper2" is the code of
    2510.14444).
    select: keep the weights of the last epoch, or of the one with the lowest calibration or held-out error; patience:
    epochs without a new lowest held-out error after which training stops (0: never).
    """

    SPOKEN: ClassVar[Mapping[str, str]] = {"none": "LR (solver none)"}

    name: str = choice(MISSING, SOLVERS)
    penalty: float = amount(0.01, only=("ridge",))
    loss: str = choice("mse", ("mse", "relative", "cosine"), only=("gradient",))
    objective: str = choice("ce", ("ce", "distill"), only=("retrain",))
    train: str = choice("all", ("all", "norms-biases", "masklora"), only=TRAINED)
    rank: int = count(16, 1, only=TRAINED, when=("train", ("masklora",)))
    alpha: float = positive(32.0, only=TRAINED, when=("train", ("masklora",)))
    epochs: int = count(10, 1, only=TRAINED)
    batch: int = count(8, 1, only=TRAINED)
    lr: float = positive(2e-4, only=TRAINED)
    warmup: float = share(0.0, only=TRAINED)
    shuffle: bool = rule(True, bool, "true or false", only=TRAINED)
    clip: float = amount(0.0, only=TRAINED)
    beta1: float = share(0.9, only=TRAINED)
    beta2: float = share(0.95, only=TRAINED)
    eps: float = positive(1e-8, only=TRAINED)
    select: str = choice("last", ("last", "calibration", "held-out"), only=TRAINED)
    patience: int = count(0, 0, only=TRAINED, when=("select", ("held-out",)))

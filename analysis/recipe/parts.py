"""The parts of a recipe, one small frozen dataclass each; `recipe.py` puts them together. The words they know, with the
options of each, are those of `words.py`. No torch.
"""

from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, replace
from typing import Any, ClassVar

from analysis.errors import quoted
from analysis.recipe import notation
from analysis.recipe.fields import Part, choice, count, flag, option, positive, rule, share
from analysis.recipe.shares import OWL, SHARES_SAYS, SKIP_SAYS, parse_shares, read_shares, read_skip, skipped
from analysis.recipe.words import (
    CRITERION_WORDS,
    DEPTH_WORDS,
    EXPERT_WORDS,
    KIND_WORDS,
    REFINEMENT_WORDS,
    REPAIR_WORDS,
    SOLVER_WORDS,
    STRUCTURED_WORDS,
    UNIT_WORDS,
    WEIGHT_KINDS,
    Word,
)

WHOLE = tuple(name for name, word in KIND_WORDS.items() if word.group == "structures")
"""Kinds of patterns that remove whole structures."""
DEPTH = tuple(name for name, word in KIND_WORDS.items() if word.group == "depth")
"""Kinds of patterns that remove whole blocks, or halves of blocks."""
EXPERTS = tuple(name for name, word in KIND_WORDS.items() if word.group == "experts")
"""Kinds of patterns that remove experts."""
TRAINED = tuple(name for name, word in SOLVER_WORDS.items() if word.evidence == "gradients")
"""Solvers that take gradient steps."""
STREAMS = ("sparse", "dense")
TOKENS = ("all", "text", "image")
STARVED = ("shrink", "all-tokens", "magnitude", "refuse")
CRITERIA_OF_BOTH: Collection[str] = ChainMap(
    DEPTH_WORDS, EXPERT_WORDS, STRUCTURED_WORDS, CRITERION_WORDS
)  # weights' first; live
MOST_OF = 1_000_000  # largest M of N:M
ROUNDED = 1e-3  # how far the mean of given shares may be from the sparsity
MORE: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Criterion(Part):
    """How weights are scored; higher score = keep."""

    WORDS: ClassVar = (CRITERION_WORDS, STRUCTURED_WORDS, DEPTH_WORDS, EXPERT_WORDS)

    name: str = choice(MISSING, CRITERIA_OF_BOTH)
    """A word of `CRITERION_WORDS` (single weights), `STRUCTURED_WORDS` (whole structures), `DEPTH_WORDS` (blocks) or
    `EXPERT_WORDS` (experts)."""
    damping: float = option("damping", CRITERION_WORDS)
    """SparseGPT: share of the Gram matrix's mean diagonal added to its diagonal."""
    columns: int = option("columns", CRITERION_WORDS)
    """SparseGPT: columns of a block; masks are chosen and updates applied block by block."""
    update: bool = option("update", CRITERION_WORDS)
    """SparseGPT: whether kept weights are updated; False keeps its mask alone."""
    exponent: float = option("exponent", CRITERION_WORDS)
    """RIA: power of the input's norm in its score (alpha in its code)."""
    more: tuple[tuple[str, Any], ...] = MORE
    """Options of a criterion from outside the package."""


@dataclass(frozen=True)
class Refinement(Part):
    """Improving the chosen mask with the Gram matrix; kept weights stay as they were."""

    SPOKEN: ClassVar[Mapping[str, str]] = {"none": "a mask without refinement (wanda+swaps-50%, wanda+fw-50%)"}
    WORDS: ClassVar = (REFINEMENT_WORDS,)

    name: str = choice("none", REFINEMENT_WORDS)
    """A word of `REFINEMENT_WORDS`."""
    rounds: int = option("rounds", REFINEMENT_WORDS)
    """SparseSwaps: most swaps in a row."""
    iterations: int = option("iterations", REFINEMENT_WORDS)
    """SparseFW: iterations of Frank-Wolfe."""
    protect: float = option("protect", REFINEMENT_WORDS)
    """SparseFW: share of the kept weights, those of the highest scores, that may not go (2510.13713 section 2.3;
    that the share is of the kept ones is our reading)."""


@dataclass(frozen=True)
class Pattern(Part):
    """What a mask may look like: a sparsity or N:M, of single weights; a share of whole structures; a share or a number
    of blocks or of their halves.
    """

    KEY: ClassVar[str] = "kind"
    WORDS: ClassVar = (KIND_WORDS,)

    sparsity: float | None = rule(None, float, "a number (0.5 means 50%)")
    """The share removed."""
    keep: int | None = rule(None, int, "a whole number")
    """N of N:M: weights kept of every `of` consecutive inputs."""
    of: int | None = rule(None, int, "a whole number")
    """M of N:M."""
    number: int | None = rule(
        None, int, "a whole number of at least 1", lambda n: n >= 1, when=("kind", DEPTH), most=1_000_000
    )
    """How many blocks or halves are taken out, in the place of a share."""
    kind: str = choice("weights", KIND_WORDS)
    """What is removed: a word of `KIND_WORDS`."""
    group: str = choice(
        "default",
        ("default", "matrix", "row", "block"),
        when=("kind", ("weights",)),
        meaning="where scores compete: the matrix, each output row, or each block of SparseGPT's columns",
    )
    """Where scores of weights compete for a sparsity: the matrix, each output row, or each block of SparseGPT's
    columns; "default": the criterion's paper decides."""
    heads: str = choice(
        "groups",
        ("groups", "queries"),
        when=("kind", ("heads", "structures")),
        meaning="what goes under grouped queries: KV groups, or query heads, every group losing equally many",
    )
    """What is removed under grouped queries: KV groups, or query heads, every group losing equally many."""
    scope: str = choice(
        "uniform",
        ("uniform", "global"),
        when=("kind", WHOLE),
        meaning="a share of every layer's structures, or of what all cost together, chosen on the dense model",
    )
    """The share is that of every layer's structures, or of what all structures cost together, chosen on the dense
    model."""
    flops: int | None = count(
        None,
        1,
        1_000_000_000,
        when=("scope", ("global",)),
        meaning="count that cost in multiply-adds per token with so many keys; default: in parameters",
    )
    """Count that cost in multiply-adds per token with so many keys; None: in parameters."""
    skip: str | None = rule(None, str, read=read_skip, meaning=f"what stays dense: {SKIP_SAYS}")
    """What stays dense: blocks at the ends, matrices by name (`shares.py`)."""
    shares: str | None = rule(None, str, read=read_shares, meaning=f"uneven shares: {SHARES_SAYS}")
    """The share of each block or matrix, or "owl" (2310.05175); None: all lose the same (`shares.py`)."""
    zeros: str | None = choice(
        None,
        ("stay",),
        when=("kind", WEIGHT_KINDS),
        meaning="stay: weights that are zero already stay zero, and count as removed; 0% then removes no others",
    )
    """Whether weights that are zero already stay zero and count as removed ("stay"); None: they compete as any."""
    outliers: float = positive(
        5.0,
        1_000_000,
        when=("shares", (OWL,)),
        meaning="OWL's M: an outlier is a score above so many times its block's mean",
    )
    """OWL's M: an outlier is a score above so many times its block's mean."""
    spread: float = share(0.08, when=("shares", (OWL,)), meaning="OWL's lambda: shares are at most twice this apart")
    """OWL's lambda: the shares of blocks are at most twice this apart."""
    contiguous: bool = flag(False, when=("kind", DEPTH), meaning="whether what is taken out is one run")
    """Whether what is taken out is one run of blocks, that of the lowest score."""
    more: tuple[tuple[str, Any], ...] = MORE
    """Options of a kind from outside the package."""

    @property
    def whole(self) -> bool:
        """Whether whole structures are removed rather than single weights."""
        return self._said("kind") in WHOLE

    @property
    def depth(self) -> bool:
        """Whether whole blocks, or halves of them, are removed."""
        return self._said("kind") in DEPTH

    @property
    def experts(self) -> bool:
        """Whether whole experts are removed."""
        return self._said("kind") in EXPERTS

    @property
    def word(self) -> Word:
        """The record of what it is of."""
        return KIND_WORDS[self.kind]

    def _check_together(self) -> Iterator[str]:
        given = [value is not None for value in (self.sparsity, self.keep, self.of)]
        if self.number is not None and any(given):
            yield f"{self.kind} take a share ({self.kind}-25%) or a number ({self.kind}-2): one of them"
        elif self.number is None and given not in ([True, False, False], [False, True, True]):
            yield "a pattern is a sparsity (50%, sparsity = 0.5) or N:M (2:4, keep = 2 and of = 4): exactly one of them"
        elif isinstance(self.sparsity, float) and not 0 <= self.sparsity < 1:
            yield f"sparsity {notation.percent(self.sparsity)} is outside 0% to below 100% (the fraction 0.5 means 50%)"
        elif type(self.keep) is type(self.of) is int and not 1 <= self.keep < self.of <= MOST_OF:
            n, m = quoted(self.keep), quoted(self.of)
            yield f"{n}:{m} would keep {n} of every {m}; N:M needs 1 <= N < M <= {MOST_OF:,}, as in 2:4"
        if self.of is not None and self.group != "default":
            yield f"group={self.group} does not go with N:M, which chooses within each M consecutive inputs"
        known = isinstance(self.kind, str) and self.kind in KIND_WORDS
        if self.of is not None and self.kind != "weights" and known:
            yield f"N:M is a pattern of single weights; {self.kind} take a share, as in {self.kind}-50%"

        if self.experts and (uneven := [key for key in ("skip", "shares") if getattr(self, key) is not None]):
            yield f"{' and '.join(uneven)} do not go with {self.kind}: every block keeps equally many of them"
        if self.depth and self.shares is not None:
            yield f"shares={self.shares} does not go with {self.kind}, which go or stay; skip says which must stay"
        if self.depth and isinstance(self.skip, str) and (names := skipped(self.skip, 0)[1]):
            yield f"skip={self.skip}: {names[0]} is a matrix; of {self.kind} blocks are left, as in skip=first:2+last:1"
        if self.of is not None and self.shares is not None:
            yield f"shares={self.shares} does not go with N:M, which keeps the same in every matrix; skip does"
        uneven = [key for key in ("skip", "shares") if getattr(self, key) is not None]
        if self.whole and self.shares == OWL:
            yield f"shares=owl counts outliers among single weights; {self.kind} take shares that are given"
        elif self.whole and self.scope == "global" and uneven:
            yield f"{' and '.join(uneven)} do not go with scope=global, which is one budget for all layers"
        mean = _mean(self.shares)
        if mean is not None and isinstance(self.sparsity, float) and abs(mean - self.sparsity) > ROUNDED:
            share = notation.percent(round(mean, 6))
            yield f"shares={self.shares} have a mean of {share}: write {share}, not {notation.percent(self.sparsity)}"

    def at(self, share: float) -> "Pattern":
        """The pattern of one matrix that loses this share."""
        return replace(self, sparsity=share, skip=None, shares=None, outliers=Pattern.outliers, spread=Pattern.spread)

    def resolve(self, criterion: str) -> "Pattern":
        """The same with group "default" made explicit: each criterion's paper decides. N:M and other kinds than single
        weights have no group and stay.
        """
        if self.group != "default" or self.of is not None or self.kind != "weights":
            return self
        return replace(self, group=CRITERION_WORDS[criterion].implies["group"])

    def __str__(self) -> str:
        share = f"{self.keep}:{self.of}" if self.of is not None else notation.percent(self.sparsity or 0.0)
        share = share if self.number is None else str(self.number)
        return share if self.kind == "weights" else f"{self.kind}-{share}"


def _mean(shares: object) -> float | None:
    """The mean of shares that are given for every block; None for others, and for what cannot be read."""
    try:
        values = None if shares is None or read_shares(shares) == OWL else parse_shares(read_shares(shares))
    except ValueError:
        return None
    return sum(values) / len(values) if isinstance(values, list) else None


@dataclass(frozen=True)
class Unit(Part):
    """What is reconstructed at once."""

    WORDS: ClassVar = (UNIT_WORDS,)

    name: str = choice("block", UNIT_WORDS)
    """A word of `UNIT_WORDS`."""
    width: int = option("width", UNIT_WORDS)
    """Of blocks: consecutive blocks in a unit."""
    overlap: int = option("overlap", UNIT_WORDS)
    """Of blocks: how many are shared with the unit before (CR: width 2, overlap 1)."""

    def _check_together(self) -> Iterator[str]:
        if type(self.width) is type(self.overlap) is int and self.overlap >= self.width >= 1:
            yield f"overlap must be below width, got overlap {self.overlap} and width {self.width}"

    def __str__(self) -> str:
        if self.name != "block":
            return self.name
        return f"{self.width} block{'s' * (self.width > 1)}" + f", overlap {self.overlap}" * (self.overlap > 0)


@dataclass(frozen=True)
class Repair(Part):
    """What the consumers of removed structures (attention output, MLP output), or the last projections before removed
    blocks, become, in closed form, before any gradient step (`structured/repair.py`, `structured/depth_repair.py`).
    """

    SPOKEN: ClassVar[Mapping[str, str]] = {"none": "a method without repair (LIAR, or BR+GP[repair=liar])"}
    WORDS: ClassVar = (REPAIR_WORDS,)

    name: str = choice("none", REPAIR_WORDS)
    """A word of `REPAIR_WORDS`."""
    penalty: float | str = option("penalty", REPAIR_WORDS)
    """As a share of the mean diagonal of the matrix solved, or "held-out": of several the one with the smallest
    error on validation text."""
    bias: bool = option("bias", REPAIR_WORDS)
    """Whether the consumer's bias may move, and be made where there is none; False: the weights alone, through the
    origin."""
    form: str = option("form", REPAIR_WORDS)
    """Of patch: a scale for each output of the projection, or a bias."""


@dataclass(frozen=True)
class Solver(Part):
    """How kept weights change.

    The defaults of the training solvers are those of 2406.15524, appendix A and code ("paper1" of `SETTING_WORDS`;
    "paper2" is the code of 2510.14444).
    """

    SPOKEN: ClassVar[Mapping[str, str]] = {"none": SOLVER_WORDS["none"].label}
    WORDS: ClassVar = (SOLVER_WORDS,)

    name: str = choice(MISSING, SOLVER_WORDS)
    """A word of `SOLVER_WORDS`."""
    penalty: float = option("penalty", SOLVER_WORDS)
    """Ridge: on the change of the weights, as a share of the Gram matrix's mean diagonal."""
    loss: str = option("loss", SOLVER_WORDS)
    """Gradient: mean squared error ("mse"), the same relative to each token's target ("relative"), or one minus the
    cosine ("cosine")."""
    objective: str = option("objective", SOLVER_WORDS)
    """Retrain: the next token ("ce"), the dense model's distribution of it ("distill"), or what the dense model's head
    reads, its last hidden states behind the final norm ("hidden", as in 2507.20749)."""
    states: float = option("states", SOLVER_WORDS)
    """Of objective=hidden: states * mean squared error of the states + (1 - states) * nats per token."""
    train: str = option("train", SOLVER_WORDS)
    """All parameters of the unit ("all"), its "norms-biases" alone, or "masklora": a masked low-rank change of every
    matrix, with norms and biases (2312.15230). Retrain: of a model that reads pictures also all of its "language" part,
    or its "projector"."""
    rank: int = option("rank", SOLVER_WORDS)
    """Rank of MaskLoRA's change."""
    alpha: float = option("alpha", SOLVER_WORDS)
    """MaskLoRA's change is scaled by alpha / rank."""
    epochs: int = option("epochs", SOLVER_WORDS)
    """Passes over the calibration windows."""
    batch: int = option("batch", SOLVER_WORDS)
    """Windows in a step."""
    lr: float = option("lr", SOLVER_WORDS)
    """Highest learning rate; it falls linearly to 0."""
    warmup: float = option("warmup", SOLVER_WORDS)
    """Share of all steps in which the learning rate rises linearly."""
    shuffle: bool = option("shuffle", SOLVER_WORDS)
    """Whether windows are reshuffled every epoch."""
    clip: float = option("clip", SOLVER_WORDS)
    """Longest gradient, longer ones are shortened; 0: never."""
    beta1: float = option("beta1", SOLVER_WORDS)
    """Decay of Adam's mean of gradients."""
    beta2: float = option("beta2", SOLVER_WORDS)
    """Decay of Adam's mean of squared gradients."""
    eps: float = option("eps", SOLVER_WORDS)
    """Adam's addition to the root in the denominator."""
    select: str = option("select", SOLVER_WORDS)
    """Keep the weights of the last epoch, or of the one with the lowest error on calibration or ("held-out") validation
    text."""
    compute: str | None = option("compute", SOLVER_WORDS)
    """Precision of the products (`reconstruction/arithmetic.py`); None: as torch is set, float32 by default."""
    patience: int = option("patience", SOLVER_WORDS)
    """Epochs without a new lowest validation error after which training stops; 0: never."""
    more: tuple[tuple[str, Any], ...] = MORE
    """Options of a solver from outside the package."""

    @property
    def word(self) -> Word:
        """The record of its word."""
        return SOLVER_WORDS[self.name]

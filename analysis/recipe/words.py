"""Every word a recipe knows, one record each: what it is called, what it means, where it comes from, what it needs and
which options it alone takes.

The parts of a recipe, its text form, `analysis list recipes`, figures and the dispatch of functions read these records.
What a word does is a function elsewhere, keyed by the word: `masks/criteria.py` (SCORES), `masks/refine.py` (REFINERS),
`structured/criteria.py` (STRUCTURE_SCORES), `structured/depth_criteria.py` (DEPTH_COSTS), `structured/experts.py`
(EXPERT_SCORES),
`pruning/choosers.py` (CHOOSERS), `pruning/solvers.py` (REPAIRS, SOLVERS).
Words from outside the package are added by `analysis/extend.py`. No torch.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.recipe.fields import amount, choice, count, flag, positive, share


@dataclass(frozen=True, eq=False)
class Word:
    """One word of a recipe."""

    name: str
    """As recipes write it."""
    label: str
    """As figures write it."""
    meaning: str
    """One sentence."""
    source: str = ""
    """Paper and section, or code."""
    group: str = ""
    """What it speaks of, where the words of its kind differ: "weights", "structures", "depth" or
    "experts"."""
    evidence: str | None = None
    """What it looks at: of weights "diagonal" or "gram" (the Gram matrix of the input or its diagonal), of structures
    "statistics" or "gradients", of blocks "states" or "loss", of solvers "gradients"; None: nothing."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options it takes: name -> field with default, rule and meaning (`recipe/fields.py`)."""
    implies: Mapping[str, Any] = field(default_factory=dict)
    """What comes with it: a criterion's group of scores that compete ("group") or ranking of a global budget ("rule"),
    a solver's only unit ("unit"), a method's structure in the shape of `Recipe.to_dict()`, the optimiser's options that
    settings stand for, by solver."""
    sweeps: bool = False
    """Whether a criterion updates weights while it chooses, and so cannot leave the choice to a pattern's function."""
    version: str = ""
    """Of a word from outside the package: identifies its function in digests; "" for the package's own."""
    revision: int = 1
    """Of the package's own words: one more whenever what the word computes changes, so that what was stored before is
    not taken for it; `tests/pruning/test_words.py` tells when."""


class Names(Collection[str]):
    """The names of those words that satisfy a test, words added later included."""

    def __init__(self, words: Mapping[str, Word], test: Callable[[Word], bool]):
        self._words, self._test = words, test

    def __iter__(self) -> Iterator[str]:
        return (name for name, word in self._words.items() if self._test(word))

    def __contains__(self, name: object) -> bool:
        return name in self._words and self._test(self._words[name])  # type: ignore[index]  # in it, so a str

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _by_name(*words: Word) -> dict[str, Word]:
    return {word.name: word for word in words}


CRITERION_WORDS = _by_name(
    Word("random", "Random", "random scores: the baseline", implies={"group": "matrix"}),
    Word(
        "magnitude", "Magnitude", "keep the largest weights, compared within each matrix", implies={"group": "matrix"}
    ),
    Word(
        "wanda",
        "Wanda",
        "keep the largest |weight| x norm of its input, within each output row",
        "2306.11695 section 3",
        evidence="diagonal",
        implies={"group": "row"},
    ),
    Word(
        "sparsegpt",
        "SparseGPT",
        "keep by the OBS error of removing, within each block of columns, and update the others",
        "2301.00774 section 3",
        evidence="gram",
        options={
            "damping": positive(0.01, 1000, meaning="share of the Gram matrix's mean diagonal added to its diagonal"),
            "columns": count(
                128, 1, 1_000_000, meaning="columns of a block; masks and updates are made block by block"
            ),
            "update": flag(True, meaning="whether kept weights are updated; false keeps the mask alone"),
        },
        implies={"group": "block"},
        sweeps=True,
    ),
    Word(
        "ria",
        "RIA",
        "keep the weights that are largest relative to their row and column, times a power of the input's norm",
        "Zhang et al., ICLR 2024 (RIA)",
        evidence="diagonal",
        options={"exponent": amount(0.5, 10, meaning="power of the input's norm (alpha in RIA's code)")},
        implies={"group": "matrix"},
    ),
)
"""Criteria of single weights."""

STRUCTURED_WORDS = _by_name(
    Word("random", "Random", "random scores: the baseline"),
    Word("magnitude", "Magnitude", "keep the heads and neurons of the largest norm"),
    Word(
        "activation", "Activation norm", "keep the heads and neurons of the largest activations", evidence="statistics"
    ),
    Word(
        "wanda-sp",
        "Wanda-sp",
        "keep the heads and neurons of the largest |weight| x norm of its input, summed",
        "2312.11983, its baseline",
        evidence="statistics",
    ),
    Word(
        "flap",
        "FLAP",
        "keep the heads and neurons that fluctuate most, seen through their weights, standardised within each layer",
        "2312.11983",
        evidence="statistics",
        implies={"rule": "threshold"},
    ),
    Word(
        "snip",
        "SNIP",
        "keep the heads and neurons whose removal changes the loss most, to first order",
        "1810.02340",
        evidence="gradients",
    ),
    Word(
        "fisher",
        "Fisher",
        "keep the heads and neurons of the largest diagonal Fisher information",
        "2204.09656",
        evidence="gradients",
    ),
)
"""Criteria of whole structures."""

DEPTH_WORDS = _by_name(
    Word("random", "Random", "random scores: the baseline"),
    Word(
        "influence",
        "Block influence",
        "take out what turns the hidden states least: 1 - cosine of its input and output, mean over tokens",
        "ShortGPT, 2403.03853",
        evidence="states",
    ),
    Word(
        "angular",
        "Angular distance",
        "take out the one run of blocks whose input and output are closest in angle, at the last token of each window",
        "2403.17887",
        evidence="states",
    ),
    Word(
        "perplexity",
        "Perplexity",
        "take out, one after the other, what raises the model's loss on calibration text least",
        "SLEB; of halves BlockPruner",
        evidence="loss",
    ),
    Word(
        "gain",
        "Error gain",
        "take out what passes small errors on most nearly as they came: |gain - 1|, gain the error behind over before",
        "after the abstract of 2603.20991",
        evidence="states",
    ),
    Word("deepest", "Deepest", "take out the last ones: the baseline without any measurement"),
)
"""Criteria of whole blocks and of their halves."""

EXPERT_WORDS = _by_name(
    Word("random", "Random", "random scores: the baseline"),
    Word("frequency", "Frequency", "keep the experts that most tokens go to", evidence="states"),
    Word(
        "activation",
        "Activation norm",
        "keep the experts whose outputs have the largest norm, mean over the tokens that go there",
        "after the abstract of 2606.15716",
        evidence="states",
    ),
    Word(
        "reap",
        "REAP",
        "keep the experts with the largest gate weight x norm of their output, mean over the tokens that go there",
        "2510.13999",
        evidence="states",
    ),
)
"""Criteria of the experts of a mixture."""

REFINEMENT_WORDS = _by_name(
    Word("none", "mask as chosen", "the criterion's mask as it is"),
    Word(
        "swaps",
        "SparseSwaps",
        "SparseSwaps: the best exchange of a kept and a removed weight, row by row, until none helps",
        "2512.10922",
        evidence="gram",
        options={"rounds": count(100, 1, 1_000_000, meaning="most swaps in a row")},
    ),
    Word(
        "fw",
        "SparseFW",
        "SparseFW: Frank-Wolfe on the relaxed mask",
        "2510.13713",
        evidence="gram",
        options={
            "iterations": count(2000, 1, 1_000_000, meaning="iterations of Frank-Wolfe"),
            "protect": share(0.9, meaning="share of the kept weights, those of the highest scores, that must stay"),
        },
    ),
)
"""What may improve the chosen mask, kept weights staying as they were."""

KIND_WORDS = _by_name(
    Word("weights", "weights", "remove this share of the weights", group="weights"),
    Word(
        "heads",
        "heads",
        "remove this share of the attention heads: under grouped queries KV groups with all their query heads, or"
        " single query heads (heads=queries)",
        group="structures",
    ),
    Word("neurons", "neurons", "remove this share of the MLP neurons", group="structures"),
    Word(
        "structures",
        "heads and neurons",
        "remove this share of both; with scope=global of all layers together",
        group="structures",
    ),
    Word("blocks", "blocks", "take out this share of the blocks, or as many as blocks-2 says", group="depth"),
    Word(
        "attention",
        "attention halves",
        "this share of the blocks lose their attention half, or as many as attention-2 says",
        group="depth",
    ),
    Word("mlp", "MLP halves", "this share of the blocks lose their MLP half, or as many as mlp-2 says", group="depth"),
    Word(
        "experts",
        "experts",
        "take this share of the experts out of every block that has a mixture of them, and out of its router",
        group="experts",
    ),
)
"""What a pattern is of."""

UNIT_WORDS = _by_name(
    Word("matrix", "matrix", "each linear map on its own"),
    Word("sub-block", "sub-block", "attention half and MLP half, each with its norms and residual addition"),
    Word(
        "block",
        "block",
        "`width` consecutive blocks, `overlap` of them shared with the unit before",
        options={
            "width": count(1, 1, 10_000, meaning="consecutive blocks in a unit"),
            "overlap": count(0, 0, 10_000, meaning="blocks shared with the unit before (CR: width 2, overlap 1)"),
        },
    ),
    Word("model", "model", "the whole stack of blocks"),
)
"""What is reconstructed at once."""

_MASKLORA, _HELD_OUT = ("train", ("masklora",)), ("select", ("held-out",))
_TRAINING = {
    "train": choice(
        "all",
        ("all", "norms-biases", "masklora", "language", "projector"),
        meaning="what is trained: all parameters of the unit, its norms and biases alone, or for every matrix a masked"
        " low-rank change, with norms and biases (MaskLoRA, 2312.15230); of a model that reads pictures, retrain knows"
        " also all of its language part, and the projector that stands before it",
    ),
    "rank": count(16, 1, 1_000_000, when=_MASKLORA, meaning="rank of MaskLoRA's change"),
    "alpha": positive(32.0, 1_000_000, when=_MASKLORA, meaning="MaskLoRA's change is scaled by alpha / rank"),
    "epochs": count(10, 1, 1_000_000, meaning="passes over the calibration windows"),
    "batch": count(8, 1, 1_000_000, meaning="windows in a step"),
    "lr": positive(2e-4, 1000, meaning="highest learning rate; it falls linearly to 0"),
    "warmup": share(0.0, meaning="share of all steps in which the learning rate rises linearly"),
    "shuffle": flag(True, meaning="whether windows are reshuffled every epoch"),
    "clip": amount(0.0, 1_000_000, meaning="longest gradient; 0: never shortened"),
    "beta1": share(0.9, meaning="decay of Adam's mean of gradients"),
    "beta2": share(0.95, meaning="decay of Adam's mean of squared gradients"),
    "eps": positive(1e-8, 1_000_000, meaning="Adam's addition to the root in the denominator"),
    "select": choice(
        "last",
        ("last", "calibration", "held-out"),
        meaning="keep the weights of the last epoch, or of the one with the lowest error on calibration or"
        " (held-out) validation text, which is set aside from the calibration text or given apart",
    ),
    "compute": choice(
        None,
        ("float32", "tf32", "medium", "bf16", "auto"),
        meaning="precision of the products, weights and moments staying float32: tf32 (CUDA); medium: bfloat16 inside"
        " float32 (CPUs with AMX); bf16: autocast; auto: bf16 on CUDA, else float32; default: as torch is set, float32",
    ),
    "patience": count(
        0,
        0,
        when=_HELD_OUT,
        meaning="epochs without a new lowest validation error after which training stops; 0: never",
    ),
}
SOLVER_WORDS = _by_name(
    Word("none", "LR (solver none)", "kept weights stay, but for the criterion's own update"),
    Word(
        "ridge",
        "ridge",
        "row-wise least squares on the kept weights in closed form",
        "the per-matrix case of 2510.14444",
        evidence="gram",
        options={
            "penalty": amount(
                0.01, 1_000_000, meaning="on the change of the weights, as a share of the Gram matrix's mean diagonal"
            )
        },
        implies={"unit": "matrix"},
    ),
    Word(
        "gradient",
        "gradient",
        "Adam, without weight decay, on the error of the unit's output",
        "2406.15524 appendix A, and its code (betas, eps, shuffling)",
        evidence="gradients",
        options={
            "loss": choice(
                "mse",
                ("mse", "relative", "cosine"),
                meaning="mse: mean squared error; relative: mean over tokens of |y - t|^2 / |t|^2, so that no few"
                " tokens of huge activations outweigh the rest; cosine: one minus the cosine",
            )
        }
        | _TRAINING,
    ),
    Word(
        "retrain",
        "retrain",
        "Adam, without weight decay, on the model's own loss",
        "2510.14444",
        evidence="gradients",
        options={
            "objective": choice(
                "ce",
                ("ce", "distill", "hidden"),
                meaning="the next token, the dense model's distribution of it, or (hidden) the states that the dense"
                " model's head reads, by mean squared error, mixed with the next token",
            ),
            "states": positive(
                0.5, 1, when=("objective", ("hidden",)), meaning="share of the states' error in the loss; 1: it alone"
            ),
        }
        | _TRAINING,
        implies={"unit": "model"},
    ),
)
"""How kept weights change."""

_PENALTY = amount(
    0.01,
    1_000_000,
    words=("held-out",),
    meaning="as a share of the mean diagonal of the matrix solved, or held-out: of several the one with the smallest"
    " error on validation text",
)
REPAIR_WORDS = _by_name(
    Word("none", "none", "what is gone is not made up for"),
    Word(
        "compensate",
        "bias compensation",
        "the bias that makes up for the mean of what is gone",
        "FLAP, 2312.11983",
        group="structures",
    ),
    Word(
        "scale",
        "one scale each",
        "one scale for every structure that stays",
        "mask tuning, 2204.09656",
        group="structures",
        options={"penalty": _PENALTY},
    ),
    Word(
        "liar",
        "LIAR",
        "kept weights and bias by ridge regression",
        "after 2407.13331",
        group="structures",
        options={
            "penalty": _PENALTY,
            "bias": flag(True, meaning="whether the consumer's bias may move; false: the weights alone"),
        },
    ),
    Word(
        "refit",
        "refit",
        "the last projection before a cut that stays, by ridge regression towards what comes behind the cut",
        group="depth",
        options={"penalty": _PENALTY},
    ),
    Word(
        "replace",
        "linear replacement",
        "one linear map behind the last projection before a cut, multiplied into it, by ridge regression towards what"
        " comes behind the cut",
        "after ReplaceMe, 2505.02819",
        group="depth",
        options={"penalty": _PENALTY},
    ),
    Word(
        "patch",
        "patch",
        "one scale for each output of the last projection before a cut that stays, or its bias alone, by least squares"
        " towards what comes behind the cut",
        group="depth",
        options={
            "form": choice(
                "scale",
                ("scale", "bias"),
                meaning="a scale for each output, or a bias, which is made where there is none",
            )
        },
    ),
    Word(
        "ghost",
        "ghost",
        "a linear map of the residual stream in the place of removed blocks, by ridge regression: no standard"
        " checkpoint holds it, so it is measured and cannot be saved",
        "Ghosted Layers, 2605.15491",
        group="depth",
        options={"penalty": _PENALTY},
    ),
)
"""What the consumers of removed structures, and the projections before removed blocks, become, in closed form, before
any gradient step."""


def structure(
    solver: str, unit: Mapping[str, Any], student: str = "sparse", target: str = "sparse", repair: str = "none"
) -> dict[str, Any]:
    """What a method stands for, in the shape of `Recipe.to_dict()`."""
    return {
        "unit": dict(unit),
        "solver": {"name": solver},
        "student": student,
        "target": target,
        "repair": {"name": repair},
    }


_BLOCK, _CROSS = {"name": "block", "width": 1, "overlap": 0}, {"name": "block", "width": 2, "overlap": 1}
METHOD_WORDS = _by_name(
    Word(
        "LR",
        "LR",
        "layer-wise: the mask alone, with SparseGPT's OBS update; no gradient step",
        "2406.15524 section 2",
        group="weights",
        implies=structure("none", _BLOCK),
    ),
    Word(
        "BR",
        "BR",
        "block reconstruction: each block against its dense self, both on the sparse stream",
        "2406.15524 section 2",
        group="weights",
        implies=structure("gradient", _BLOCK),
    ),
    Word(
        "BR+GP",
        "BR+GP",
        "BR with global propagation: the target is the dense block on the dense stream",
        "2406.15524 section 2",
        group="weights",
        implies=structure("gradient", _BLOCK, target="dense"),
    ),
    Word(
        "BR+CR",
        "BR+CR",
        "BR in windows of two blocks overlapping by one",
        "in the code of 2406.15524, not in its tables",
        group="weights",
        implies=structure("gradient", _CROSS),
    ),
    Word(
        "BR+GP+CR",
        "BR+GP+CR",
        "BR with both: windows of two blocks, target from the dense stream",
        "2406.15524 section 2",
        group="weights",
        implies=structure("gradient", _CROSS, target="dense"),
    ),
    Word(
        "IR",
        "IR",
        "independent reconstruction: dense and pruned block both on the dense stream",
        "the default of 2510.14444's code",
        group="weights",
        implies=structure("gradient", _BLOCK, "dense", "dense"),
    ),
    Word(
        "ridge",
        "ridge",
        "each matrix refit in closed form: the least-squares optimum of its kept weights",
        "the per-matrix case of 2510.14444",
        group="weights",
        implies=structure("ridge", {"name": "matrix"}),
    ),
    Word(
        "retrain",
        "retrain, all",
        "the whole model under its masks on its own loss; train=masklora or norms-biases is 2312.15230",
        "the baseline of 2510.14444",
        group="weights",
        implies=structure("retrain", {"name": "model"}),
    ),
    Word(
        "compensate",
        "bias compensation",
        "the bias that makes up for the mean of what is gone",
        "2312.11983",
        group="structures",
        implies=structure("none", _BLOCK, repair="compensate"),
    ),
    Word(
        "scale",
        "one scale each",
        "one scale for every structure that stays: mask tuning",
        "2204.09656",
        group="structures",
        implies=structure("none", _BLOCK, repair="scale"),
    ),
    Word(
        "LIAR",
        "LIAR",
        "kept weights and bias by ridge regression, absorbed: what is gone is predicted from what stays, on the sparse"
        " stream",
        "after 2407.13331",
        group="structures",
        implies=structure("none", _BLOCK, repair="liar"),
    ),
    Word(
        "LIAR+GP",
        "LIAR+GP",
        "LIAR with the dense stream's output as the target, so that inherited error is corrected too",
        "after 2407.13331",
        group="structures",
        implies=structure("none", _BLOCK, target="dense", repair="liar"),
    ),
    *(
        Word(
            f"{name}+GP" if target == "dense" else name,
            f"{label}+GP" if target == "dense" else label,
            f"{REPAIR_WORDS[name].meaning}, {where}",
            REPAIR_WORDS[name].source,
            group="depth",
            implies=structure("none", _BLOCK, target=target, repair=name),
        )
        for name, label in (
            ("refit", "refit"),
            ("replace", "linear replacement"),
            ("patch", "patch"),
            ("ghost", "ghost"),
        )
        for target, where in (
            ("sparse", "as the dense blocks give it on the sparse stream"),
            ("dense", "as it is in the dense stream"),
        )
    ),
)
"""Unit, solver, streams and repair in one word; those of the group "structures" want a pattern of whole structures,
those of the group "depth" one of blocks or their halves."""

_PAPER2 = {"epochs": 1, "batch": 2, "lr": 1e-5, "warmup": 0.1, "shuffle": False}
SETTING_WORDS = _by_name(
    Word(
        "paper1",
        "paper1",
        "the defaults of the optimiser's options",
        "2406.15524 appendix A, and its code (betas, eps, shuffling)",
        implies={"gradient": {}, "retrain": {}},
    ),
    Word(
        "paper2",
        "paper2",
        "one epoch of two windows a step in their own order, a low learning rate with a warm-up",
        "the code of 2510.14444",
        implies={"gradient": _PAPER2 | {"beta2": 0.999}, "retrain": _PAPER2 | {"clip": 1.0, "beta2": 0.999}},
    ),
)
"""Settings of the optimiser: options of the training solvers in one word."""

WEIGHT_METHODS = Names(METHOD_WORDS, lambda word: word.group == "weights")
WEIGHT_KINDS = Names(KIND_WORDS, lambda word: word.group == "weights")
REPAIR_METHODS = Names(METHOD_WORDS, lambda word: word.group == "structures")
DEPTH_METHODS = Names(METHOD_WORDS, lambda word: word.group == "depth")
EXPERT_METHODS = ("compensate", "LIAR", "LIAR+GP")
"""Methods of whole structures that experts take too."""


def outside(words: Mapping[str, Word]) -> list[str]:
    """The names of those words that come from outside the package."""
    return [name for name, word in words.items() if word.version]

"""Claims on data, zero-shot accuracy and model size: self-generated calibration text, tasks, and the lab's three
sizes.
"""

from collections.abc import Sequence

from claims_base import CRITERIA, P1, SHIN, Claim, Results, less, with_options

from analysis.lab.tasks import TASKS
from analysis.study.job import Job, grid

SIZES = ("lab/small", "lab", "lab/large")
ADDED = (16, 64)  # windows added to 16
TASK_NAMES = [f"lab:{task}" for task in TASKS]


def jobs(
    model: str,
    pattern: str,
    calibration: str,
    held_out: str,
    wrong: str,
    *,
    lr: float,
    epochs: int,
    seeds: Sequence[int],
    **common,
) -> tuple[dict[str, str], list[Job]]:
    """The label of every recipe by its text, and every run the claims need. The lab answers its tasks and comes in its
    three sizes; another model has neither.
    """
    base = dict(calibration=calibration, held_out=[("held-out", held_out)], held_out_samples=64, seeds=seeds, **common)
    asked = dict(tasks=TASK_NAMES, documents=100) if model == "lab" else {}
    chosen = {
        text: with_options(text, lr, epochs)
        for text in (f"{criterion}-{pattern} {method}" for criterion in CRITERIA for method in SHIN)
    }
    recipe = [chosen[f"sparsegpt-{pattern} BR+GP+CR"]]
    found = grid(model=model, recipes=recipe, samples=16, **asked, **base)
    for source, counts in (("self", ADDED), (calibration, ADDED[1:]), (wrong, ADDED[1:])):
        found += grid(model=model, recipes=recipe, samples=16, added=source, added_samples=counts, **asked, **base)
    if model == "lab":
        sized = [
            recipe
            for text, recipe in chosen.items()
            if not text.endswith(" BR") and ("wanda" in text or "CR" not in text)
        ]
        found += [
            job
            for size in (SIZES[0], SIZES[-1])
            for job in grid(model=size, recipes=sized, samples=16, **base | {"held_out_samples": 32})
        ]
    return {text: recipe.label for text, recipe in chosen.items()}, found


def more(r: Results, source: str, windows: int) -> Results:
    """The runs with so many windows of a source added to 16 of the calibration text."""
    return r.at(samples=16, added=source, added_samples=windows)


def plain(r: Results) -> Results:
    return r.at(samples=16, added_samples=0)


def added_to(r: Results) -> str:
    return f"sparsegpt-{r.pattern} BR+GP+CR"


def right(r: Results) -> str:
    return r.frames.jobs[0].calibration


def wrong(r: Results) -> str:
    return next(job.added for job in r.frames.jobs if job.added not in (None, "self", right(r)))


def held_out_error(r: Results, recipe: str) -> float:
    return r.error(recipe, "held-out")


def overfit(r: Results, size: str, method: str = "BR+GP+CR") -> float:
    """Held-out error over calibration error, Wanda's mask."""
    r, recipe = r.at(model=size, samples=16), f"wanda-{r.pattern} {method}"
    return held_out_error(r, recipe) / r.error(recipe)


def spread(r: Results, size: str, method: str) -> float:
    """Perplexity of the worst criterion over that of the best."""
    values = [r.at(model=size, samples=16).ppl(f"{criterion}-{r.pattern} {method}") for criterion in CRITERIA]
    return max(values) / min(values)


def gain_of_cr(r: Results, size: str) -> float:
    """By how many percent CR lowers the held-out error of BR+GP."""
    r = r.at(model=size, samples=16)
    return less(held_out_error(r, f"wanda-{r.pattern} BR+GP+CR"), held_out_error(r, f"wanda-{r.pattern} BR+GP"))


FIGURE_1 = "figure 1b: LLaMA-7B, SparseGPT, BR+GP+CR"
CLAIMS = [
    Claim(
        "self-generated text lowers held-out error (64 windows added to 16)",
        P1,
        FIGURE_1 + ", test error 2.53 -> 1.78",
        "% lower",
        lambda r: less(held_out_error(more(r, "self", 64), added_to(r)), held_out_error(plain(r), added_to(r))),
    ),
    Claim(
        "self-generated text lowers held-out perplexity (64 added to 16)",
        P1,
        FIGURE_1 + ", 6.83 -> 6.60",
        "% lower",
        lambda r: less(more(r, "self", 64).ppl(added_to(r)), plain(r).ppl(added_to(r))),
    ),
    Claim(
        "more self-generated text is better: held-out error with 64 windows below that with 16",
        P1,
        "section 4: error falls with more self-generated data in most cases",
        "% lower",
        lambda r: less(
            held_out_error(more(r, "self", 64), added_to(r)), held_out_error(more(r, "self", 16), added_to(r))
        ),
    ),
    Claim(
        "self-generated text is as good as as much real text of the same kind, within 5 % of held-out error",
        "ours",
        "not tested by the papers",
        "points within",
        lambda r: (
            5
            + less(held_out_error(more(r, "self", 64), added_to(r)), held_out_error(more(r, right(r), 64), added_to(r)))
        ),
        "Each self-generated text begins with a random token and four greedy ones, which no real text does, and a small"
        " model's mistakes are in it.",
    ),
    Claim(
        "self-generated text is better than as much real text of another kind",
        "ours",
        "not tested by the papers",
        "% lower held-out error",
        lambda r: less(
            held_out_error(more(r, "self", 64), added_to(r)), held_out_error(more(r, wrong(r), 64), added_to(r))
        ),
    ),
    Claim(
        "self-generated text raises mean zero-shot accuracy (64 added to 16)",
        P1,
        FIGURE_1 + ", 55.07 -> 56.29",
        "points higher",
        lambda r: more(r, "self", 64).accuracy(added_to(r)) - plain(r).accuracy(added_to(r)),
        only="lab",
    ),
    Claim(
        "overfitting is stronger in a larger model: held-out over calibration error, largest lab model over smallest"
        " (Wanda, BR+GP+CR)",
        P1,
        "table 4: 6.5 times on LLaMA-7B, 1.9 on OPT-125M (Wanda, WikiText-2)",
        "% larger ratio",
        lambda r: -less(overfit(r, SIZES[-1]), overfit(r, SIZES[0])),
        only="lab",
    ),
    Claim(
        "CR helps a larger model less on held-out text: largest against smallest lab model",
        P1,
        "table 2: OPT-125M 0.0080 -> 0.0076, LLaMA-7B 2.23 -> 2.48 (Wanda)",
        "points less gain in held-out error",
        lambda r: gain_of_cr(r, SIZES[0]) - gain_of_cr(r, SIZES[-1]),
        only="lab",
    ),
    *(
        Claim(
            f"criteria lie closer together in a larger model, {method} (largest over smallest perplexity)",
            P1,
            evidence,
            "% smaller ratio",
            lambda r, m=method: less(spread(r, SIZES[-1], m), spread(r, SIZES[0], m)),
            only="lab",
        )
        for method, evidence in (
            ("LR", "tables 1 and 3, WikiText-2: 5.3 times on OPT-125M, 2.4 on LLaMA-7B"),
            ("BR+GP", "tables 1 and 3, WikiText-2: 1.14 times on OPT-125M, 1.03 on LLaMA-7B"),
        )
    ),
]

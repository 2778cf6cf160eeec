"""Claims on whole structures: what closed-form repairs give back to the lab's four encoders, and to a decoder."""

from collections.abc import Callable, Sequence
from statistics import mean

from claims_base import Claim, Results, less

from analysis.recipe.recipe import Recipe
from analysis.study.grids import paired
from analysis.study.job import Job, grid

LIAR, FLAP = "2407.13331", "2312.11983"
TASKS = ("truth", "entailment", "similarity", "answers")
REPAIRS = ("LR", "compensate", "LIAR", "LIAR+GP")
CRITERIA = ("flap", "magnitude", "snip", "random")
WEIGHTS = "LIAR[bias=false]"
HALF, HIGH, HEADS = "neurons-50%", "neurons-70%", "heads-25%"
# the lab's decoder has two query heads to a KV group: half of its heads or none
DECODED = ("neurons-20%", HALF, "heads-50%")
SEEN, ASKED, LENGTH = 128, 256, 160  # examples that calibrate, examples held out, most tokens of one


def jobs(
    model: str,
    calibration: str,
    held_out: str,
    *,
    samples: int,
    length: int,
    seeds: Sequence[int],
    separator: str | None,
) -> tuple[dict[str, str], list[Job]]:
    """The label of every recipe by its text, and every run the claims need: the encoders where the model is the lab's,
    and the decoder named.
    """
    texts = [f"flap-{pattern} {method}" for pattern in (HALF, HIGH, HEADS) for method in REPAIRS] + [
        f"flap-{HIGH} {WEIGHTS}"
    ]
    texts += [f"{criterion}-{HIGH} {method}" for criterion in CRITERIA[1:] for method in ("LR", "LIAR")]
    decoded = [f"flap-{pattern} {method}" for pattern in DECODED for method in REPAIRS]
    chosen = {text: Recipe.parse(text) for text in dict.fromkeys([*texts, *decoded])}
    found = grid(
        model=model,
        recipes=[chosen[text] for text in decoded],
        calibration=calibration,
        held_out=[("held-out", held_out)],
        samples=samples,
        length=length,
        seeds=seeds,
        separator=separator,
    )
    if model == "lab":
        names, sources = ([f"{front}{task}" for task in TASKS] for front in ("lab/encoder-", "examples:"))
        found += paired(
            names,
            sources,
            sources,
            recipes=[chosen[text] for text in texts],
            samples=SEEN,
            held_out_samples=ASKED,
            length=LENGTH,
            seeds=seeds,
        )
    return {text: recipe.label for text, recipe in chosen.items()}, found


def score(r: Results, task: str, recipe: str, which: str = "pruned") -> float:
    """Held-out score of one task's encoder, in points of a hundred."""
    rows = r.at(model=f"lab/encoder-{task}")._rows("scores", recipe).query("split == 'held-out' and which == @which")
    return 100 * float(rows["score"].iloc[0])


def kept(r: Results, task: str, recipe: str) -> float:
    """Per cent of the dense model's score."""
    return 100 * score(r, task, recipe) / score(r, task, recipe, "dense")


def worst_step(r: Results, task: str, pattern: str) -> float:
    """The smaller gain in points of mask alone -> bias compensation -> LIAR."""
    scores = [score(r, task, f"flap-{pattern} {method}") for method in REPAIRS[:3]]
    return min(after - before for before, after in zip(scores, scores[1:], strict=False))


def spread(r: Results, task: str, method: str) -> float:
    """Points between the best and the worst criterion."""
    scores = [score(r, task, f"{criterion}-{HIGH} {method}") for criterion in CRITERIA]
    return max(scores) - min(scores)


def over_tasks(of: Callable[[Results, str], float]) -> Callable[[Results], float]:
    """A margin's mean over the four tasks."""
    return lambda r: mean(of(r, task) for task in TASKS)


def calibration_error(r: Results, task: str, recipe: str) -> float:
    return r.at(model=f"lab/encoder-{task}").error(recipe)


def worst_tokens(r: Results, task: str, recipe: str) -> float:
    """Error at the last block that 95 % of the held-out tokens stay below."""
    rows = (
        r.at(model=f"lab/encoder-{task}")
        ._rows("distribution", recipe)
        .query("split == 'held-out' and over == 'tokens' and quantile == 0.95")
    )
    return float(rows["relative_error"].iloc[0])


def seconds(r: Results, task: str, recipe: str) -> float:
    """Seconds of one run that go into scores, masks and repairs."""
    rows = (
        r.at(model=f"lab/encoder-{task}")
        ._rows("cost", recipe)
        .query("stage in ('structures', 'statistics', 'mask', 'repair')")
    )
    return float(rows["seconds"].sum())


def decoder(r: Results) -> Results:
    return r.at(model=r.frames.jobs[0].model)


ABSTRACT = "abstract: BERT-base keeps 98 % of its accuracy with 50 % of its parameters removed"
OURS = "ours; the abstract's share with another repair"
SMALL = "An encoder of six blocks, 96 wide, has less to spare than BERT-base."
KINDS = {"heads": HEADS, "neurons": HIGH}
SHARES = {
    HEADS: "a quarter of the heads",
    HALF: "half of the neurons",
    HIGH: "70 % of the neurons",
    "neurons-20%": "20 % of the neurons",
    "heads-50%": "half of the heads",
}
CLAIMS = [
    *(
        Claim(
            f"{method} keeps 98 % of the dense score with {words} removed: {task}",
            LIAR,
            evidence,
            "points above 98 %",
            lambda r, t=task, p=pattern, m=method: kept(r, t, f"flap-{p} {m}") - 98,
            SMALL,
            only="lab",
        )
        for pattern, method, words, evidence in (
            (HALF, "LIAR", "half of the neurons (28 % of the parameters)", f"{ABSTRACT}: more than this"),
        )
        for task in TASKS
    ),
    *(
        Claim(
            f"with {SHARES[pattern]} removed scores rise at both steps mask alone < bias compensation < LIAR: {task}",
            LIAR,
            f"figure 3, {kind} (read from its caption: the curves were not seen)",
            "points, the smaller step",
            lambda r, t=task, p=pattern: worst_step(r, t, p),
            "A bias that is right in every layer on its own moves the mean of the layers behind it.",
            only="lab",
        )
        for kind, pattern in KINDS.items()
        for task in TASKS
    ),
    Claim(
        "criteria matter less once LIAR repairs (best less worst of four at 70 % of the neurons, mean of tasks)",
        LIAR,
        "figure 1a and abstract: works with different criteria",
        "points less between criteria",
        over_tasks(lambda r, task: spread(r, task, "LR") - spread(r, task, "LIAR")),
        only="lab",
    ),
    Claim(
        "the weights alone give back more than the bias alone (70 % of the neurons, mean of tasks)",
        "ours",
        "figure 5b asks it, its curves were not seen",
        "points more",
        over_tasks(
            lambda r, task: score(r, task, f"flap-{HIGH} {WEIGHTS}") - score(r, task, f"flap-{HIGH} compensate")
        ),
        only="lab",
    ),
    Claim(
        "LIAR lowers the error of the worst tokens, too: 95 % quantile against bias compensation (70 % of the neurons,"
        " mean of tasks)",
        LIAR,
        "figure 1b (caption)",
        "% lower",
        over_tasks(
            lambda r, task: less(
                worst_tokens(r, task, f"flap-{HIGH} LIAR"), worst_tokens(r, task, f"flap-{HIGH} compensate")
            )
        ),
        only="lab",
    ),
    *(
        Claim(
            f"LIAR+GP ends no further from the dense model than LIAR on calibration examples: {SHARES[pattern]}, mean"
            " of tasks",
            "ours",
            "not tested by the papers",
            "% lower error",
            over_tasks(
                lambda r, task, p=pattern: less(
                    calibration_error(r, task, f"flap-{p} LIAR+GP"), calibration_error(r, task, f"flap-{p} LIAR")
                )
            ),
            only="lab",
        )
        for pattern in (HEADS, HALF, HIGH)
    ),
    *(
        Claim(
            f"LIAR+GP scores higher than LIAR: {SHARES[pattern]}, mean of tasks",
            "ours",
            "not tested by the papers",
            "points higher",
            over_tasks(
                lambda r, task, p=pattern: score(r, task, f"flap-{p} LIAR+GP") - score(r, task, f"flap-{p} LIAR")
            ),
            only="lab",
        )
        for pattern in (HEADS, HALF, HIGH)
    ),
    Claim(
        "scores, masks and LIAR's repairs take less than a minute (slowest task)",
        LIAR,
        "abstract: a few minutes on LLaMA, a small calibration set",
        "seconds below 60",
        lambda r: 60 - max(seconds(r, task, f"flap-{HALF} LIAR") for task in TASKS),
        only="lab",
    ),
    *(
        Claim(
            f"decoder: LIAR's held-out perplexity is below that of {word}, {SHARES[pattern]} removed",
            source,
            evidence,
            "% lower",
            lambda r, p=pattern, m=method: less(decoder(r).ppl(f"flap-{p} LIAR"), decoder(r).ppl(f"flap-{p} {m}")),
        )
        for method, word, source, evidence in (
            ("LR", "the mask alone", LIAR, "abstract: best results on LLaMA"),
            ("compensate", "bias compensation", LIAR, "abstract, against FLAP's repair"),
        )
        for pattern in DECODED
    ),
    *(
        Claim(
            f"decoder: bias compensation lowers held-out perplexity below the mask alone's, {SHARES[pattern]} removed",
            FLAP,
            "the repair that its method rests on",
            "% lower",
            lambda r, p=pattern: less(decoder(r).ppl(f"flap-{p} compensate"), decoder(r).ppl(f"flap-{p} LR")),
            "It lowers the error of each layer, and the sum of all blocks' new biases moves the residual stream to"
            " where no block has seen it.",
        )
        for pattern in DECODED
    ),
]

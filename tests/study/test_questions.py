"""The runs of a question, part by part, beside the grids they are made of."""

import pytest

from analysis.errors import UsageError
from analysis.study import questions
from analysis.study.grids import recipes
from analysis.study.job import grid

TEXTS = {"held_out": {"held-out": "lab:mixed/held-out"}, "held_out_samples": 4, "length": 32, "seeds": [0, 1]}


def test_added_text_in_all_amounts_settings_patience_and_sources_alone():
    chosen, longer = recipes(["wanda"], "50%", ["BR"], epochs=1), recipes(["wanda"], "50%", ["BR"], epochs=9)
    jobs = questions.generated_text(
        chosen,
        longer,
        calibration="lab:mixed",
        samples=3,
        added=["self", "lab:recipes"],
        added_samples=[4],
        asked_samples=[0, 8],
        settings=["self:top-k=50"],
        settings_samples=5,
        sources=["self", "lab:news"],
        sources_samples=6,
        tasks=["lab:yes-no"],
        documents=7,
        model="lab",
        **TEXTS,
    )
    own = {"model": "lab", "recipes": chosen, "calibration": "lab:mixed", "samples": 3, **TEXTS}
    asked = {**own, "tasks": ["lab:yes-no"], "documents": 7}
    assert jobs.added == [
        *grid(added="self", added_samples=[0, 8], **asked),
        *grid(added="lab:recipes", added_samples=[0, 8], **asked),
        *grid(added="self", added_samples=[4], **own),
        *grid(added="lab:recipes", added_samples=[4], **own),
    ]
    assert jobs.settings == grid(added="self:top-k=50", added_samples=5, **own)
    assert jobs.longer == grid(**{**asked, "recipes": longer})
    assert jobs.alone == [
        job for source in ("self", "lab:news") for job in grid(**{**own, "calibration": source, "samples": 6})
    ]
    assert jobs.every == [*jobs.added, *jobs.settings, *jobs.longer, *jobs.alone]


def test_encoders_with_the_first_repair_timed_and_criteria_on_the_first_tasks():
    models = ["lab/encoder-truth", "lab/encoder-similarity"]
    sources = ["examples:truth", "examples:similarity"]
    pattern = "heads-50%"
    common = {"samples": 4, "length": 32}
    jobs = questions.structured_encoder(
        models,
        sources,
        sources,
        repairs=recipes(["flap"], pattern, ["LR", "LIAR"]),
        parts=recipes(["flap"], pattern, ["LIAR[bias=false]"]),
        criteria=recipes(["magnitude", "flap"], pattern, ["LR"]),
        criteria_tasks=1,
        examples=recipes(["flap"], pattern, ["LR", "LIAR"]),
        examples_samples=[2, 4],
        **common,
    )
    seen = [(job.model, job.calibration, str(job.recipe), job.shrink) for job in jobs.repairs]
    assert seen == [
        (model, source, f"flap-heads-50% {method}", method == "LR")
        for model, source in zip(models, sources, strict=True)
        for method in ("LR", "LIAR")
    ]
    assert [(job.model, job.recipe.method, job.shrink) for job in jobs.parts] == [
        (model, "LIAR[bias=false]", False) for model in models
    ]
    assert [(job.model, job.recipe.criterion.name, job.shrink) for job in jobs.criteria] == [
        (models[0], "magnitude", False),
        (models[0], "flap", True),
    ]
    assert jobs.examples[:4] == jobs.repairs  # of as many examples: the same runs
    assert [(job.samples, job.recipe.method, job.shrink) for job in jobs.examples[4:]] == [
        (2, method, False) for _ in models for method in ("LR", "LIAR")
    ]
    assert jobs.every == [*jobs.repairs, *jobs.parts, *jobs.criteria, *jobs.examples]
    with pytest.raises(UsageError, match="no repairs"):
        questions.structured_encoder(
            models,
            sources,
            sources,
            repairs=[],
            parts=[],
            criteria=[],
            criteria_tasks=1,
            examples=[],
            examples_samples=[],
            **common,
        )


def test_decoders_where_only_some_recipes_are_asked():
    common = {"model": "lab", "calibration": "lab:mixed", "samples": 3, **TEXTS}
    jobs = questions.structured_decoder(
        recipes(["flap"], ["heads-50%", "heads-25%"], ["LR"]),
        [*recipes(["wanda"], "50%", ["LR"]), *recipes(["flap"], "heads-50%", ["LR"])],
        tasks=["lab:yes-no"],
        documents=7,
        **common,
    )
    assert [(job.recipe.criterion.name, str(job.recipe.pattern), job.seed, job.tasks) for job in jobs] == [
        ("flap", "heads-25%", 0, ()),
        ("flap", "heads-25%", 1, ()),
        ("wanda", "50%", 0, ("lab:yes-no",)),
        ("wanda", "50%", 1, ("lab:yes-no",)),
        ("flap", "heads-50%", 0, ("lab:yes-no",)),
        ("flap", "heads-50%", 1, ("lab:yes-no",)),
    ]
    assert jobs[2].documents == 7

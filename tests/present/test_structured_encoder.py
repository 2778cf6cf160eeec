"""Encoders pruned by structures: what the tables say, what is drawn, and which verdict the numbers get."""

import zlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import structured_encoder
from analysis.present.provenance import provenance, save_figure
from analysis.schema import conform, study_columns
from analysis.study.grids import guessing, paired, recipes, timed

MODELS = ["lab/encoder-truth", "lab/encoder-similarity", "lab/encoder-answers"]
EXAMPLES = ["examples:truth", "examples:similarity", "examples:answers"]
METRICS = dict(zip(EXAMPLES, ("accuracy", "spearman", "f1"), strict=True))
PATTERNS = ["heads-25%", "heads-50%", "neurons-50%", "neurons-70%"]
REPAIRS = ["LR", "compensate", "LIAR[bias=false]", "LIAR", "LIAR+GP"]
LEFT = {"LR": 1.0, "compensate": 0.7, "LIAR[bias=false]": 0.4, "LIAR": 0.3, "LIAR+GP": 0.25}  # of what the mask costs
QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


def left(job) -> float:
    """Score of a made-up run: the dense one of its seed less what pattern, criterion and method cost."""
    share, heads = job.recipe.pattern.sparsity, job.recipe.pattern.kind == "heads"
    cost = 0.5 * share**2 * (0.6 if heads else 1.0) * (1.5 if job.recipe.criterion.name == "random" else 1.0)
    return dense(job) - cost * LEFT[job.recipe.method]


def dense(job) -> float:
    return 0.9 - 0.01 * job.seed


def leave(jobs) -> SimpleNamespace:
    rows = {name: [] for name in ("scores", "structures", "distribution", "cost", "size")}
    for job in jobs:
        front = job.columns(f"prune-{zlib.crc32(str(job).encode()):08x}")
        for split, shift in {"calibration": 0.02, "held-out": 0.0}.items():
            for which, value in {"dense": dense(job), "pruned": left(job)}.items():
                rows["scores"].append(
                    {
                        **front,
                        "split": split,
                        "which": which,
                        "metric": METRICS[job.calibration],
                        "score": value + shift,
                        "standard_error": 0.01,
                        "loss": 1.0,
                        "examples": 64,
                    }
                )
            for over, width in {"tokens": 8.0, "windows": 2.0}.items():
                error = (1 - left(job) / dense(job)) * (1 + shift)
                rows["distribution"] += [
                    {
                        **front,
                        "split": split,
                        "over": over,
                        "quantile": q,
                        "error": error,
                        "relative_error": error * width ** (2 * q - 1),
                    }
                    for q in QUANTILES
                ]
        kind, count = job.recipe.pattern.kind, 4 if job.recipe.pattern.kind == "heads" else 384
        rows["structures"] += [
            {
                **front,
                "block": block,
                "kind": kind,
                "structures": count,
                "kept": round(count * (1 - job.recipe.pattern.sparsity)),
            }
            for block in range(2)
        ]
        left_over = {"dense": 1.0, "pruned": 1 - job.recipe.pattern.sparsity / 2}
        rows["size"] += [
            {
                **front,
                "which": which,
                "parameters": round(1000 * part),
                "flops_per_token": round(2000 * part),
                "latency_ms": 4 * part + job.seed,
                "tokens_per_second": 100 / part,
            }
            for which, part in left_over.items()
            if job.shrink
        ]
        stage = {"peak_memory_mib": 1.0, "solver_memory_mib": 0.0, "tokens": 1, "trainable_parameters": 0}
        rows["cost"] += [
            {**front, "unit": unit, "stage": name, "seconds": 0.25, **stage}
            for unit in (0, 1)
            for name in ("statistics", "repair", "measure")
        ]
    return SimpleNamespace(
        **{name: conform(name, pd.DataFrame(part), study_columns(name)) for name, part in rows.items()}
    )


@pytest.fixture(scope="module")
def jobs():
    return timed(
        paired(
            MODELS,
            EXAMPLES,
            EXAMPLES,
            recipes=recipes(["flap", "random"], PATTERNS, REPAIRS),
            samples=8,
            seeds=[0, 1],
            length=32,
        ),
        "flap",
        "LR",
    )


@pytest.fixture(scope="module")
def ran(jobs):
    return leave(jobs)


@pytest.fixture(scope="module")
def across(ran):
    return structured_encoder.survival(ran.scores, ran.structures, guessing(EXAMPLES))


@pytest.fixture(scope="module")
def kept(across):
    return across[across["criterion"] != "random"]


@pytest.fixture(scope="module")
def gone(ran):
    return structured_encoder.lost(ran.scores[ran.scores["pattern"] == "neurons-70%"])


@pytest.fixture(scope="module")
def errors(ran):
    some = ran.distribution
    return structured_encoder.spread(some[(some["pattern"] == "neurons-70%") & (some["criterion"] == "flap")])


def test_scores_are_held_out_means_and_shares_are_counted(kept):
    assert list(kept["task"].unique()) == ["truth", "similarity", "answers"] and list(kept["metric"].unique()) == [
        "accuracy",
        "spearman",
        "f1",
    ]
    assert list(kept["kind"].unique()) == ["heads", "neurons"] and set(kept["removed"]) == {0.0, 25.0, 50.0, 70.0}
    row = kept[
        (kept["task"] == "truth") & (kept["kind"] == "heads") & (kept["method"] == "LIAR") & (kept["removed"] == 50)
    ].iloc[0]
    each = [0.9 - 0.01 * seed - 0.5 * 0.25 * 0.6 * 0.3 for seed in (0, 1)]
    assert (
        row["value"] == pytest.approx(np.mean(each))
        and list(row[["seed 0", "seed 1"]]) == pytest.approx(each)
        and row["paired"] == "dense"
        and row["seeds"] == 2
        and row["error"] == pytest.approx(0.01)
    )
    assert row["kept"] == pytest.approx(np.mean([each[0] / 0.9, each[1] / 0.89]))
    untouched = kept[kept["method"] == "dense"]
    assert (
        len(untouched) == 3 * 2
        and untouched["value"].to_numpy() == pytest.approx(0.895)
        and (untouched["removed"] == 0).all()
        and (untouched["kept"] == 1).all()
    )


def test_guessing_is_known_for_sets_with_classes_and_for_correlations(kept):
    assert guessing(
        [
            "examples:truth",
            "examples:mnli",
            "examples:stsb",
            "examples:cola",
            "examples:answers",
            "examples:my.tsv",
            "lab:mixed",
        ]
    ) == {"examples:truth": 0.5, "examples:mnli": pytest.approx(1 / 3), "examples:stsb": 0.0, "examples:cola": 0.0}
    by_task = kept.drop_duplicates("task").set_index("task")["chance"]
    assert by_task["truth"] == 0.5 and by_task["similarity"] == 0 and np.isnan(by_task["answers"])


def test_points_lost_are_from_the_dense_model_of_the_same_seed(gone):
    row = gone[(gone["task"] == "answers") & (gone["criterion"] == "random") & (gone["method"] == "LR")].iloc[0]
    assert row["value"] == pytest.approx(100 * 0.5 * 0.49 * 1.5) and row["high"] == pytest.approx(row["low"], abs=1e-9)
    assert list(gone["criterion"].unique()) == ["flap", "random"] and list(gone["method"].unique()) == [
        "LR",
        "compensate",
        "LIAR",
        "LIAR+GP",
        "LIAR[bias=false]",
    ]


def test_models_that_read_the_same_text_are_told_apart_and_files_go_by_their_names():
    made = recipes(["flap"], "neurons-50%", ["LR"])
    common = {"recipes": made, "samples": 8, "length": 32}
    shared = paired(["folder/one", "folder/two"], ["examples:data/train.tsv[:80%]"], ["examples:truth"], **common)
    assert [(job.model, job.calibration, job.held_out) for job in shared] == [
        (name, "examples:data/train.tsv[:80%]", (("held-out", "examples:truth"),))
        for name in ("folder/one", "folder/two")
    ]
    rows = pd.DataFrame([job.columns("run") for job in shared])
    assert structured_encoder._tasks(rows).tolist() == ["one", "two"] and structured_encoder._tasks(
        rows[:1]
    ).tolist() == ["train.tsv[:80%]"]
    assert structured_encoder._tasks(rows.assign(calibration=["examples:sst2/train", "lab:mixed"])).tolist() == [
        "sst2",
        "mixed",
    ]
    with pytest.raises(UsageError, match="3 models and 2 held-out texts"):
        paired(["a", "b", "c"], ["examples:truth"], ["examples:truth"] * 2, **common)


def test_runs_without_scores_are_refused(ran):
    with pytest.raises(UsageError, match="no run was measured on held-out examples"):
        structured_encoder.survival(ran.scores[ran.scores["split"] == "calibration"], ran.structures)
    with pytest.raises(UsageError, match="distribution: no run"):
        structured_encoder.spread(ran.distribution.iloc[:0])


def points(fig, kind="method"):
    marked = [(ax, line) for ax in fig.axes for line in ax.lines if (line.get_gid() or "").startswith(f"{kind} ")]
    return sorted(
        (fig.axes.index(ax), line.get_gid().removeprefix(f"{kind} "), float(x), float(y))
        for ax, line in marked
        for x, y in line.get_xydata()
    )


@pytest.mark.slow
def test_every_score_is_drawn_with_the_dense_model_and_guessing_as_levels(kept):
    fig = structured_encoder.plot_survival(kept)
    panels = [(kind, task) for kind in ("heads", "neurons") for task in ("truth", "similarity", "answers")]
    pruned = kept[kept["method"] != "dense"]
    assert points(fig) == sorted(
        (panels.index((row.kind, row.task)), row.method, row.removed, row.value) for row in pruned.itertuples()
    )
    levels = [
        {line.get_gid(): line.get_ydata()[0] for line in ax.lines if line.get_gid() in ("dense", "chance")}
        for ax in fig.axes
    ]
    assert [level.get("chance") for level in levels] == [0.5, 0.0, None] * 2 and [
        level["dense"] for level in levels
    ] == pytest.approx([0.895] * 6)
    assert [ax.get_title() for ax in fig.axes[:3]] == ["truth\naccuracy", "similarity\nSpearman", "answers\nF1"]
    assert {text.get_text() for text in fig.legends[0].get_texts()} >= {
        "LIAR",
        "LIAR+GP",
        "LIAR, weights alone",
        "dense",
        "guessing",
    }


@pytest.mark.slow
def test_guessing_far_below_every_score_does_not_flatten_them(kept):
    low = {ax.get_title(): ax.get_ylim()[0] for ax in structured_encoder.plot_survival(kept).axes[:3]}
    assert low["truth\naccuracy"] > 0.5 and low["similarity\nSpearman"] > 0.5


@pytest.mark.slow
def test_every_criterion_has_a_column_and_every_task_a_row_for_each_kind(across):
    fig = structured_encoder.plot_crossed(across)
    columns, rows = (
        ["flap", "random"],
        [(task, kind) for task in ("truth", "similarity", "answers") for kind in ("heads", "neurons")],
    )
    pruned = across[across["method"] != "dense"]
    assert points(fig) == sorted(
        (2 * rows.index((row.task, row.kind)) + columns.index(row.criterion), row.method, row.removed, row.value)
        for row in pruned.itertuples()
    )
    assert [ax.get_title() for ax in fig.axes[:2]] == ["FLAP", "Random"] and [
        ax.get_ylabel() for ax in fig.axes[:4:2]
    ] == ["truth, heads:\nheld-out score", "truth, neurons:\nheld-out score"]
    assert all(
        [line.get_ydata()[0] for line in ax.lines if line.get_gid() == "dense"] == pytest.approx([0.895])
        for ax in fig.axes
    )
    assert all(fig.axes[i].get_ylim() == fig.axes[i + 1].get_ylim() for i in range(0, 12, 2)), (
        "criteria are compared along a row"
    )


@pytest.mark.slow
def test_every_criterion_has_its_place(gone):
    fig = structured_encoder.plot_lost(gone)
    tasks, names = ["truth", "similarity", "answers"], ["flap", "random"]
    assert points(fig) == sorted(
        (tasks.index(row.task), row.method, float(names.index(row.criterion)), row.value) for row in gone.itertuples()
    )
    assert [label.get_text() for label in fig.axes[0].get_xticklabels()] == ["FLAP", "Random"]


@pytest.mark.slow
def test_boxes_are_the_quantiles_of_the_table(errors):
    fig = structured_encoder.plot_spread(errors)
    assert len(fig.axes) == 6 and [ax.get_ylabel() for ax in fig.axes[::3]] == [
        "single tokens:\nrelative error",
        "whole examples:\nrelative error",
    ]
    wide = errors.pivot(index=["over", "task", "method"], columns="quantile", values="value")
    panels = [(over, task) for over in ("tokens", "windows") for task in ("truth", "similarity", "answers")]
    for ax, panel in zip(fig.axes, panels, strict=True):
        for line in (*ax.lines, *ax.collections):
            what, _, method = line.get_gid().partition(" ")
            row = wide.loc[(*panel, method)]
            if what == "median":
                assert line.get_ydata()[0] == row[0.5]
            else:
                (segment,) = line.get_segments()
                assert segment[:, 1].tolist() == ([row[0.05], row[0.95]] if what == "most" else [row[0.25], row[0.75]])


@pytest.mark.slow
def test_figures_are_the_same_bytes_each_time_and_no_text_covers_another(kept, across, gone, errors, ran, tmp_path):
    many = pd.concat(
        [
            across,
            *(
                across[across["criterion"] == "random"].assign(criterion=name)
                for name in ("wanda-sp", "magnitude", "snip", "fisher")
            ),
        ]
    )
    for name, plot, table in (
        ("survival", structured_encoder.plot_survival, kept),
        ("crossed", structured_encoder.plot_crossed, many),
        ("lost", structured_encoder.plot_lost, gone),
        ("spread", structured_encoder.plot_spread, errors),
    ):
        for folder in ("one", "two"):
            fig = plot(table.copy())
            save_figure(fig, name, table, provenance({"PRESET": "lab"}, ran.scores), tmp_path / folder)
        fig.draw_without_rendering()
        assert (tmp_path / "one" / f"{name}.svg").read_bytes() == (tmp_path / "two" / f"{name}.svg").read_bytes()
        boxes = [
            text.get_window_extent()
            for ax in fig.axes
            for text in (ax.title, ax.xaxis.label, ax.yaxis.label)
            if text.get_text()
        ] + [fig.legends[0].get_window_extent()]
        assert all(
            box.x0 >= -1 and box.y0 >= -1 and box.x1 <= fig.bbox.width + 1 and box.y1 <= fig.bbox.height + 1
            for box in boxes
        )
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_what_is_said_of_survival_follows_the_numbers(kept):
    said = structured_encoder.say_survival(kept).splitlines()
    assert len(said) == 6 and said[0].startswith("- **truth, heads**: dense accuracy 0.895. 98 % of it is kept up to: ")
    assert (
        "mask alone (LR) less than 25 %, bias compensation 25 %, LIAR 25 %" in said[0]
        and "With 50 % removed: " in said[0]
    )
    line = pd.DataFrame({"removed": [25.0, 50.0, 75.0], "kept": [0.99, 0.97, 0.99]})
    assert (
        structured_encoder._reach(line) == "25 %"
        and structured_encoder._reach(line.assign(kept=0.9)) == "less than 25 %"
        and structured_encoder._reach(line.assign(kept=1.0)) == "75 %"
    )


def test_repairs_are_counted_against_the_one_before(kept):
    said = structured_encoder.say_order(kept).splitlines()
    assert [line.split(": ")[0] for line in said] == [
        "- **bias compensation** against mask alone (LR)",
        "- **LIAR** against mask alone (LR)",
        "- **LIAR** against bias compensation",
        "- **LIAR+GP** against LIAR",
    ]
    value, made = np.where(kept["method"] == "compensate", 0.5, 0.4), kept["method"] == "compensate"
    for apart, sure in {1e-5: 12, 1e-2: 0}.items():  # p = 1e-4 and 0.06, for twelve shares 0.001 and 0.8
        clear = kept.assign(value=value, **{"seed 0": value - apart * made, "seed 1": value + apart * made})
        said = structured_encoder.say_order(clear).splitlines()[0]
        assert f"higher at 12 of 12 shares ({sure} with p < 0.05), lower at 0 of 12 shares (0 with" in said
        assert said.endswith(", +10.0 points in the mean.")


def test_the_gap_between_criteria_is_what_repairs_close(gone):
    said = structured_encoder.say_lost(gone).splitlines()
    assert len(said) == 3 and "bias compensation: FLAP 17.1 to Random 25.7, 8.6 apart" in said[0]
    assert said[0].endswith(
        "Criteria lie closer together than without repair with bias compensation, LIAR, LIAR+GP, LIAR, weights alone."
    )
    wider = gone.assign(value=np.where((gone["method"] != "LR") & (gone["criterion"] == "random"), 99, gone["value"]))
    assert structured_encoder.say_lost(wider).count("No repair brings the criteria closer together.") == 3


def test_the_gap_between_criteria_is_said_at_every_share(across):
    said = structured_encoder.say_crossed(across).splitlines()
    assert len(said) == 6 and said[1].startswith(
        "- **truth, neurons**, with 50, 70 % removed: mask alone (LR) 6.2, 12.2; bias compensation 4.4, 8.6; LIAR 1.9,"
        " 3.7; "
    )
    some = across[~((across["criterion"] == "random") & (across["removed"] == 70))]
    assert "truth, neurons**, with 50 % removed: mask alone (LR) 6.2;" in structured_encoder.say_crossed(some)


def test_sizes_before_and_after_are_those_of_the_timed_runs(ran):
    out = structured_encoder.sizes(ran.size, ran.structures)
    assert (
        list(out.index[:4])
        == [("truth", "heads", 25.0), ("truth", "heads", 50.0), ("truth", "neurons", 50.0), ("truth", "neurons", 70.0)]
        and len(out) == 12
    )
    row = out.loc[("answers", "neurons", 50.0)]
    assert row["parameters"].to_dict() == {"dense": 1000, "pruned": 750} and row["FLOPs per token"].to_dict() == {
        "dense": 2000,
        "pruned": 1500,
    }
    assert row["latency, ms"].to_dict() == {"dense": 4.5, "pruned": 3.5} and row["tokens per second"].to_dict() == {
        "dense": 100,
        "pruned": 133,
    }
    with pytest.raises(UsageError, match="sizes: no run was measured"):
        structured_encoder.sizes(ran.size.iloc[:0], ran.structures)


def test_errors_are_said_as_ratios(errors):
    said = structured_encoder.say_spread(errors).splitlines()
    assert (
        len(said) == 6
        and "mask alone" in said[0]
        and " 1.00 (" in said[0]
        and "LIAR 0.30 (" in said[0]
        and "whole examples" in said[3]
    )
    assert f"({8**0.9:.1f})" in said[0] and f"({2**0.9:.1f})" in said[3]


def test_bias_and_weights_are_said_apart(kept):
    said = structured_encoder.say_parts(kept).splitlines()
    assert (
        len(said) == 6
        and "50 % removed: bias +2.2, weights +4.5, both +5.2" in said[0]
        and said[0].endswith(
            "weights give more than the bias at 2 of 2 shares, both together at least as much as either at 2."
        )
    )
    with pytest.raises(UsageError, match=r"no runs of LIAR\[bias=false\]"):
        structured_encoder.say_parts(kept[kept["method"] != "LIAR[bias=false]"])


def test_the_papers_claim_stands_beside(kept, ran):
    out = structured_encoder.beside_claims(kept, ran.cost, structured_encoder.sizes(ran.size, ran.structures))
    assert list(out.index[:2]) == [("truth", "heads", 50.0), ("truth", "neurons", 50.0)] and out.index[-1] == (
        "paper, BERT-base",
        "parameters",
        50.0,
    )
    assert (
        out.loc[("truth", "heads", 50.0), "LIAR, %"].item() == pytest.approx(97.5, abs=0.05)
        and out["LIAR, %"].iloc[-1] == 98
    )
    assert out["parameters removed, %"].iloc[[0, -1]].tolist() == [25, 50]
    # statistics and repair of two units; measuring is no part of it
    assert out["seconds, LIAR"].iloc[0] == pytest.approx(1.0)

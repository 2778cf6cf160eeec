"""Encoders pruned by structures: what the tables say, what is drawn, and which verdict the numbers get."""

import zlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.present import (
    encoder_runs,
    structured_criteria,
    structured_encoder,
    structured_errors,
    structured_findings,
)
from analysis.present.provenance import provenance, save_figure
from analysis.schema import conform, study_columns
from analysis.study.grids import guessing, paired, recipes, timed

MODELS = ["lab/encoder-truth", "lab/encoder-similarity", "lab/encoder-answers"]
EXAMPLES = ["examples:truth", "examples:similarity", "examples:answers"]
METRICS = dict(zip(EXAMPLES, ("accuracy", "spearman", "f1"), strict=True))
PATTERNS = ["heads-25%", "heads-50%", "neurons-50%", "neurons-70%", "structures-60%[scope=global]"]
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
    rows = {name: [] for name in ("scores", "structures", "matrices", "distribution", "cost", "size")}
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
        share = job.recipe.pattern.sparsity
        for kind, count in {"heads": 4, "neurons": 384}.items():
            if job.recipe.pattern.kind in (kind, "structures"):
                rows["structures"] += [
                    {**front, "block": block, "kind": kind, "structures": count, "kept": round(count * (1 - share))}
                    for block in range(2)
                ]
        gone = {"heads": 200, "neurons": 500, "structures": 800}[job.recipe.pattern.kind] * share
        rows["matrices"].append(
            {
                **front,
                "block": 0,
                "matrix": "mlp",
                "rows": 10,
                "columns": 90,
                "kept": round(900 - gone) + job.seed,
                "sparsity": gone / 900,
            }
        )
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
    return structured_encoder.survival(ran.scores, ran.structures, ran.matrices, ran.size, guessing(EXAMPLES))


@pytest.fixture(scope="module")
def kept(across):
    return across[across["criterion"] != "random"].reset_index(drop=True)


@pytest.fixture(scope="module")
def crossed(ran):
    return structured_criteria.lost(ran.scores, guessing(EXAMPLES))


@pytest.fixture(scope="module")
def gone(crossed):
    return crossed[crossed["pattern"] == "neurons-70%"].reset_index(drop=True)


@pytest.fixture(scope="module")
def errors(ran):
    some = ran.distribution
    return structured_errors.spread(some[(some["pattern"] == "neurons-70%") & (some["criterion"] == "flap")])


@pytest.fixture(scope="module")
def grown():
    """The runs with 8, 32 and 128 calibration examples, the mask alone and LIAR, half of the parameters gone."""
    chosen = recipes(["flap"], ["neurons-70%"], ["LR", "LIAR"])
    made = paired(MODELS, EXAMPLES, EXAMPLES, recipes=chosen, samples=[8, 32, 128], seeds=[0, 1, 2], length=32)
    out = leave(timed(made, "flap", "LR"))
    return structured_encoder.survival(out.scores, out.structures, out.matrices, out.size, guessing(EXAMPLES))


def test_scores_are_shares_of_the_dense_models_in_the_same_run(kept):
    assert list(kept["task"].unique()) == ["truth", "similarity", "answers"] and list(kept["metric"].unique()) == [
        "accuracy",
        "spearman",
        "f1",
    ]
    assert list(kept["kind"].unique()) == ["heads", "neurons", "structures"]
    row = kept[
        (kept["task"] == "truth") & (kept["kind"] == "heads") & (kept["method"] == "LIAR") & (kept["removed"] == 50)
    ].iloc[0]
    each = [100 - 100 * 0.5 * 0.25 * 0.6 * 0.3 / (0.9 - 0.01 * seed) for seed in (0, 1)]
    assert row[["seed 0", "seed 1"]].tolist() == pytest.approx(each) and row["value"] == pytest.approx(np.mean(each))
    half = 12.7062 * abs(each[0] - each[1]) / 2  # t at 97.5 % with one degree of freedom
    assert [row["low"], row["high"]] == pytest.approx([row["value"] - half, row["value"] + half], rel=1e-5)
    assert row["dense"] == pytest.approx(0.895) and row["error"] == pytest.approx(np.mean([1 / 0.9, 1 / 0.89]))


def test_what_was_removed_is_counted_twice_of_structures_and_of_all_parameters(kept):
    shares = kept.drop_duplicates(["kind", "removed"]).set_index("kind")[["removed", "parameters"]]
    assert shares.loc["neurons"].to_numpy().tolist() == [[50, 25], [70, 35]]  # one weight less in seed 1: 24.95, 34.95
    assert shares.loc["structures"].tolist() == [60, 48]


def test_one_seed_has_the_interval_of_its_examples(ran):
    only = {name: table[table["seed"] == 0] for name, table in vars(ran).items()}
    one = structured_encoder.survival(only["scores"], only["structures"], only["matrices"], only["size"])
    assert (one["seeds"] == 1).all() and one["guessing"].isna().all()
    assert (one["high"] - one["low"]).to_numpy() == pytest.approx(2 * 1.96 * 100 * 0.01 / 0.9)


def test_shares_of_parameters_need_one_measured_run_of_the_model(ran):
    size = ran.size[ran.size["model"] != "lab/encoder-answers"]
    with pytest.raises(UsageError, match="no run of lab/encoder-answers was measured"):
        structured_encoder.survival(ran.scores, ran.structures, ran.matrices, size)


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
    by_task = kept.drop_duplicates("task").set_index("task")["guessing"]
    assert by_task["truth"] == pytest.approx(100 * np.mean([0.5 / 0.9, 0.5 / 0.89]))
    assert by_task["similarity"] == 0 and np.isnan(by_task["answers"])


def test_points_lost_are_from_the_dense_model_of_the_same_seed(gone):
    row = gone[(gone["task"] == "answers") & (gone["criterion"] == "random") & (gone["method"] == "LR")].iloc[0]
    assert row["value"] == pytest.approx(100 * 0.5 * 0.49 * 1.5) and row["high"] - row["low"] == pytest.approx(
        0, abs=1e-9
    )
    assert gone[gone["task"] == "truth"]["guessing"].to_numpy() == pytest.approx(39.5) and np.isnan(row["guessing"])
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
    assert encoder_runs.tasks(rows).tolist() == ["one", "two"] and encoder_runs.tasks(rows[:1]).tolist() == [
        "data[:80%]"
    ], "a part of a folder is called by the folder"
    assert encoder_runs.tasks(rows[:1].assign(calibration="examples:here/pairs.tsv")).tolist() == ["pairs.tsv"]
    assert encoder_runs.tasks(rows[:1].assign(calibration="examples:train.tsv")).tolist() == ["train.tsv"]
    assert encoder_runs.tasks(rows.assign(calibration=["examples:sst2/train", "lab:mixed"])).tolist() == [
        "sst2",
        "mixed",
    ]
    with pytest.raises(UsageError, match="3 models and 2 held-out texts"):
        paired(["a", "b", "c"], ["examples:truth"], ["examples:truth"] * 2, **common)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("examples:/data/glue/pairs.jsonl", "pairs.jsonl"),
        ("examples:data/truth.jsonl.gz[:80%]", "truth.jsonl.gz[:80%]"),
        ("examples:data/sst/train.jsonl[:80%]", "sst[:80%]"),
        ("examples:C:\\data\\sst\\dev.tsv#text,label", "sst"),
        ("examples:my.csv.d/pairs.tsv", "pairs.tsv"),
        ("examples:sst2/validation[:100]", "sst2"),
    ],
)
def test_a_task_is_called_after_its_examples_whatever_table_they_lie_in(source, said):
    assert encoder_runs.tasks(pd.DataFrame({"model": ["lab"], "calibration": [source]})).tolist() == [said]


def test_no_two_tasks_have_one_name():
    pairs = [(model, f"examples:{folder}/pairs.tsv") for model in ("a/bert", "b/bert") for folder in ("mine", "theirs")]
    rows = pd.DataFrame([*pairs, ("c", "examples:truth")], columns=["model", "calibration"])
    names = encoder_runs.tasks(rows)
    assert names.nunique() == len(rows) and names.iloc[-1] == "truth"


def test_runs_without_scores_are_refused(ran):
    with pytest.raises(UsageError, match="no run was measured on held-out examples"):
        structured_criteria.lost(ran.scores[ran.scores["split"] == "calibration"])
    with pytest.raises(UsageError, match="distribution: no run"):
        structured_errors.spread(ran.distribution.iloc[:0])


def points(fig, kind="method"):
    marked = [(ax, line) for ax in fig.axes for line in ax.lines if (line.get_gid() or "").startswith(f"{kind} ")]
    return sorted(
        (fig.axes.index(ax), line.get_gid().removeprefix(f"{kind} "), float(x), float(y))
        for ax, line in marked
        for x, y in line.get_xydata()
    )


@pytest.mark.slow
def test_every_score_is_drawn_over_the_share_of_all_parameters_on_one_scale(kept):
    fig = structured_encoder.plot_survival(kept)
    tasks = ["truth", "similarity", "answers"]
    panels = [(kind, task) for kind in ("heads", "neurons", "structures") for task in tasks]
    shift = {method: 0.45 * (place - 2) for place, method in enumerate(encoder_runs.repair_looks(kept["method"]))}
    expected = sorted(
        (panels.index((row.kind, row.task)), row.method, row.parameters + shift[row.method], row.value)
        for row in kept.itertuples()
    )
    drawn = points(fig)
    assert [point[:2] for point in drawn] == [point[:2] for point in expected]
    assert np.allclose([point[2:] for point in drawn], [point[2:] for point in expected], rtol=0, atol=1e-9)
    levels = [
        {line.get_gid(): line.get_ydata()[0] for line in ax.lines if line.get_gid() in ("dense", "chance")}
        for ax in fig.axes
    ]
    assert [level.get("chance", -1.0) for level in levels] == pytest.approx([55.86766, 0, -1] * 3, rel=1e-5)
    assert all(level["dense"] == 100 for level in levels)
    assert [ax.get_title() for ax in fig.axes[:3]] == ["truth\naccuracy", "similarity\nSpearman", "answers\nF1"]
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in fig.axes}) == 1 and fig.axes[0].get_ylim()[0] == 0
    assert [label.get_text() for label in fig.axes[3].get_xticklabels()] == ["25\n50", "35\n70"]
    claims = [line.get_xydata().tolist() for ax in fig.axes for line in ax.lines if line.get_gid() == "paper"]
    assert claims == [[[50, 98]]] * 9
    assert {text.get_text() for text in fig.legends[0].get_texts()} >= {
        "LIAR",
        "LIAR+GP",
        "LIAR, weights alone",
        "dense",
        "guessing",
        "paper's claim (LIAR, BERT-base)",
    }


@pytest.mark.slow
def test_kinds_of_a_single_task_stand_side_by_side_and_little_lost_is_seen(kept):
    one = kept[kept["task"] == "truth"]
    fig = structured_encoder.plot_survival(one)
    assert [ax.get_title() for ax in fig.axes] == ["heads", "neurons", "heads and neurons"]
    assert fig.axes[0].get_ylabel() == "truth, accuracy\n% of the dense score" and fig.axes[0].get_ylim()[0] == 0
    little = one.assign(**{name: 96 + one[name] / 50 for name in ("value", "low", "high")})
    low, high = structured_encoder.plot_survival(little).axes[0].get_ylim()
    assert little["low"].min() - 1 < low < little["low"].min() and 100 < high < 101


@pytest.mark.slow
def test_every_score_is_drawn_over_the_calibration_examples(grown):
    fig = structured_encoder.plot_examples(grown)
    assert [ax.get_ylabel() for ax in fig.axes][0] == "70 % of neurons\n(35 % of parameters):\n% of the dense score"
    drawn = points(fig)
    assert len(drawn) == 3 * 2 * 3 and {
        round(x / 1.05 ** (0.5 if name == "LIAR" else -0.5)) for _, name, x, _ in drawn
    } == {8, 32, 128}
    assert [y for place, name, _, y in drawn if (place, name) == (0, "LIAR")] == pytest.approx(
        grown[(grown["task"] == "truth") & (grown["method"] == "LIAR")]["value"].tolist()
    )
    other = grown["removed"].where(grown["task"] != "truth", 67.0)
    fig = structured_encoder.plot_examples(grown.assign(removed=other))
    assert fig.axes[0].get_ylabel().startswith("67 to 70 % of neurons\n") and len(fig.axes) == 3


@pytest.mark.slow
def test_every_criterion_and_repair_has_a_number_and_brackets_where_guessing_does_as_well(crossed):
    table = crossed[crossed["task"] == "truth"]
    fig = structured_criteria.plot_crossed(table)
    titles = [
        ax.get_title().replace("\n", " ") for ax in fig.axes
    ]  # broken, the longest shortened, where five stand in a row
    assert titles == [
        "truth: 25 % of heads",
        "truth: 50 % of heads",
        "truth: 50 % of neurons",
        "truth: 70 % of neurons",
        "truth: 60 % of he…urons",
    ]
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["FLAP", "Random"]
    last = {text.get_position(): text.get_text() for text in fig.axes[3].texts}
    assert len(last) == 2 * 5 and last[0.5, 0.5] == f"{100 * 0.5 * 0.49:.0f}" and last[0.5, 1.5] == f"{75 * 0.49:.0f}"
    little = structured_criteria.plot_crossed(table.assign(value=table["value"] / 10)).axes[3].texts
    assert {text.get_text() for text in little if text.get_position() == (0.5, 1.5)} == {f"{7.5 * 0.49:.1f}"}
    guessed = structured_criteria.plot_crossed(table.assign(guessing=30.0)).axes[3].texts
    assert {text.get_text() for text in guessed if text.get_position() == (0.5, 1.5)} == {f"({75 * 0.49:.0f})"}


@pytest.mark.slow
def test_every_criterion_has_its_row(gone):
    fig = structured_criteria.plot_lost(gone)
    tasks, names = ["truth", "similarity", "answers"], ["flap", "random"]
    shift = {method: 0.14 * (place - 2) for place, method in enumerate(encoder_runs.repair_looks(gone["method"]))}
    expected = sorted(
        (tasks.index(row.task), row.method, row.value, names.index(row.criterion) + shift[row.method])
        for row in gone.itertuples()
    )
    drawn = points(fig)
    assert [point[:2] for point in drawn] == [point[:2] for point in expected]
    assert np.allclose([point[2:] for point in drawn], [point[2:] for point in expected], rtol=0, atol=1e-9)
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["FLAP", "Random"]
    chance = [line.get_xdata()[0] for ax in fig.axes for line in ax.lines if line.get_gid() == "chance"]
    assert chance == pytest.approx([39.5, 89.5])


@pytest.mark.slow
def test_boxes_are_the_quantiles_of_the_table(errors):
    fig = structured_errors.plot_spread(errors)
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


@pytest.mark.long
@pytest.mark.slow
def test_figures_are_the_same_bytes_each_time_and_no_text_covers_another(
    kept, crossed, gone, errors, grown, ran, tmp_path
):
    few = crossed[crossed["pattern"].isin(["heads-25%", "neurons-50%", "neurons-70%"]) & (crossed["task"] == "truth")]
    criteria = ("wanda-sp", "magnitude", "snip", "fisher")
    many = pd.concat([few, *(few[few["criterion"] == "random"].assign(criterion=name) for name in criteria)])
    for name, plot, table in (
        ("survival", structured_encoder.plot_survival, kept),
        ("examples", structured_encoder.plot_examples, grown),
        ("crossed", structured_criteria.plot_crossed, many),
        ("lost", structured_criteria.plot_lost, gone),
        ("spread", structured_errors.plot_spread, errors),
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
    said = structured_findings.say_survival(kept).splitlines()
    assert len(said) == 9 and said[0].startswith("- **truth, heads**: dense accuracy 0.895. 98 % of it is kept up to: ")
    assert "mask alone (LR) less than 25 %, bias compensation 25 %, LIAR 25 %" in said[0]
    assert said[2].endswith(
        "With 60 % of heads and neurons removed, 48 % of all parameters: mask alone (LR) 80 %, bias compensation 86 %,"
        " LIAR 94 %, LIAR+GP 95 %, LIAR, weights alone 92 %."
    )
    line = pd.DataFrame({"removed": [25, 50, 75], "value": [99.0, 97.9, 99.0]})
    assert structured_findings._reach(line) == "25 %"
    assert structured_findings._reach(line.assign(value=90.0)) == "less than 25 %"
    assert structured_findings._reach(line.assign(value=100.0)) == "75 %"


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (98.0, 99.0, "that much in 3 of 3 cases, less in 0; in 0"),
        (90.0, 97.0, "that much in 0 of 3 cases, less in 3; in 0"),
        (90.0, 99.0, "that much in 0 of 3 cases, less in 0; in 3"),
        (np.nan, np.nan, "that much in 0 of 3 cases, less in 0; in 3"),
    ],
)
def test_the_papers_share_is_tested_where_half_of_all_parameters_are_gone(kept, low, high, verdict):
    said = structured_findings.say_half(kept.assign(low=low, high=high))
    assert said.splitlines()[0].startswith("- **truth**, 60 % of heads and neurons, 48 % of all parameters: mask alone")
    assert len(said.splitlines()) == 5 and verdict in said
    assert structured_findings.say_half(kept[kept["kind"] == "heads"]) == (
        "No run removed about half of all parameters (at most 10 %), so the paper's 98 % cannot be tested here."
    )


@pytest.mark.slow
def test_an_order_is_decided_within_seeds(kept):
    said = structured_findings.say_order(kept).splitlines()
    assert (
        said[0].startswith("- **bias compensation** against mask alone (LR): +")
        and "higher at 15 of 15 shares" in said[0]
    )
    assert said[-1].startswith("- **LIAR+GP** against LIAR") and len(said) == 4
    seeds = ["seed 0", "seed 1", "seed 2"]
    bias, mask = ((kept["method"] == name).to_numpy() for name in ("compensate", "LR"))
    sure = kept.assign(**dict.fromkeys(seeds, 50.0))
    for number, seed in enumerate(seeds):
        sure.loc[bias, seed] = 60 + 1e-3 * number
    first = structured_findings.say_order(sure).splitlines()[0]
    assert first.endswith(
        "+10.0 points in the mean, higher at 15 of 15 shares; decided, several being compared: higher"
        " at 15, lower at 0."
    )
    shaky = sure.assign(**{"seed 0": np.where(bias, 10.0, 50.0)})
    assert structured_findings.say_order(shaky).splitlines()[0].endswith("higher at 0, lower at 0.")
    assert mask.any()


def test_how_many_examples_are_enough_is_tested_at_the_last_step(grown):
    seeds = ["seed 0", "seed 1", "seed 2"]
    flat = grown.assign(**dict.fromkeys(seeds, 90.0))
    said = structured_findings.say_examples(flat)
    assert said.splitlines()[0].startswith("- **truth, 70 % of neurons**, % of the dense score kept: mask alone (LR) ")
    assert "Calibration examples: 8, 32, 128. From 32 to 128 a score moves by +0.0 points" in said
    assert said.endswith("decided in 0 of 6 cases.")
    better = flat.copy()
    last = (better["samples"] == 128) & (better["method"] == "LIAR") & (better["task"] == "truth")
    for number, seed in enumerate(seeds):
        better.loc[last, seed] = 95 + 0.01 * number
    assert structured_findings.say_examples(better).endswith(
        "decided in 1 of 6 cases: truth, 70 % of neurons, LIAR (+5)."
    )
    with pytest.raises(UsageError, match="only runs with 32"):
        structured_findings.say_examples(grown[grown["samples"] == 32])


def test_a_step_that_was_not_run_is_no_step(grown):
    some = grown[(grown["method"] != "LIAR") | (grown["samples"] < 128)]
    said = structured_findings.say_examples(some)
    assert said.count(" → –") == 3 and "nan" not in said and "in 0 of 3 cases" in said
    none = structured_findings.say_examples(some[(some["method"] == "LR") == (some["samples"] == 128)])
    assert none.endswith("From 32 to 128 no repair was run with the same seeds.") and "nan" not in none


def test_the_gap_between_criteria_is_what_repairs_close(gone):
    seeds = ["seed 0", "seed 1", "seed 2"]
    table = gone.copy()
    for number, seed in enumerate(seeds):
        table[seed] = table["value"] * (1 + 1e-3 * number)
    said = structured_criteria.say_lost(table).splitlines()
    assert len(said) == 3 and "bias compensation: FLAP 17.1 to Random 25.7, 8.6 apart" in said[0]
    assert said[0].endswith(
        "Beside those without repair, criteria lie closer together with bias compensation, LIAR, LIAR+GP, LIAR, weights"
        " alone."
    )
    repaired = (table["method"] != "LR") & (table["criterion"] == "random")
    wider = table.assign(**{seed: np.where(repaired, 99 + number, table[seed]) for number, seed in enumerate(seeds)})
    assert structured_criteria.say_lost(wider).count("criteria lie farther apart with bias compensation, LIAR") == 3
    shaky = table.assign(**{"seed 0": np.where(repaired, 99.0, table["seed 0"])})
    assert (
        structured_criteria.say_lost(shaky).count(
            "criteria lie closer or farther (undecided) with bias compensation, LIAR"
        )
        == 3
    )


def test_a_gap_between_criteria_is_that_of_seeds_that_all_have(gone):
    table = gone[gone["method"].isin(["LR", "LIAR"])].copy()
    for number, seed in enumerate(["seed 0", "seed 1", "seed 2"]):
        table[seed] = table["value"] * (1 + 1e-3 * number)
    decided = "closer together with LIAR."
    assert structured_criteria.say_lost(table).count(decided) == 3
    alone = table.assign(value=40.0 + table["criterion"].eq("random"))
    alone["seed 0"] = alone["value"]
    for seed in ("seed 1", "seed 2"):  # one criterion was not run with them, and so there is nothing between the two
        alone[seed] = alone["value"].mask((alone["method"] == "LIAR") & (alone["criterion"] == "random"))
    assert structured_criteria.say_lost(alone).count("closer or farther (undecided) with LIAR.") == 3


def test_the_gap_between_criteria_is_said_at_every_share(crossed):
    said = structured_criteria.say_crossed(crossed).splitlines()
    assert len(said) == 15 and said[2].startswith(
        "- **truth, 50 % of neurons**: mask alone (LR) 6.2, bias compensation 4.4, LIAR 1.9, "
    )


def test_sizes_before_and_after_are_those_of_the_timed_runs(ran):
    out = structured_encoder.sizes(ran.size, ran.structures)
    assert (
        list(out.index[:4])
        == [("truth", "heads", 25.0), ("truth", "heads", 50.0), ("truth", "neurons", 50.0), ("truth", "neurons", 70.0)]
        and len(out) == 15
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
    said = structured_errors.say_spread(errors).splitlines()
    assert (
        len(said) == 6
        and "mask alone" in said[0]
        and " 1.00 (" in said[0]
        and "LIAR 0.30 (" in said[0]
        and "whole examples" in said[3]
    )
    assert f"({8**0.9:.1f})" in said[0] and f"({2**0.9:.1f})" in said[3]


def test_a_repair_without_a_look_of_its_own_is_told(errors, kept, ran):
    def other(table):
        return table.assign(method=table["method"].replace("LIAR", "LIAR[bias=false,ridge=0.1]"))

    assert "LIAR[bias=false,ridge=0.1] 0.30 (" in structured_errors.say_spread(other(errors)).splitlines()[0]
    assert "LIAR[bias=false,ridge=0.1], %" in structured_findings.beside_claims(other(kept), ran.cost)


def test_bias_and_weights_are_said_apart(kept):
    said = structured_findings.say_parts(kept).splitlines()
    assert len(said) == 9 and "50 % removed: bias +2.5, weights +5.0, both +5.9" in said[0]
    assert said[0].endswith(
        "weights give more than the bias at 2 of 2 shares, both together at least as much as either at 2."
    )
    with pytest.raises(UsageError, match=r"no runs of LIAR\[bias=false\]"):
        structured_findings.say_parts(kept[kept["method"] != "LIAR[bias=false]"])


def test_the_papers_claim_stands_beside(kept, ran):
    out = structured_findings.beside_claims(kept, ran.cost)
    assert list(out.index) == [
        *(
            (task, *place)
            for task in ("truth", "similarity", "answers")
            for place in (("heads", 50.0), ("neurons", 50.0), ("structures", 60.0))
        ),
        ("paper, BERT-base", "parameters", 50.0),
    ]
    assert out.loc[("truth", "heads", 50.0), "LIAR, %"].item() == pytest.approx(97.5, abs=0.05)
    assert out["LIAR, %"].iloc[-1] == 98
    assert out["parameters removed, %"].iloc[[0, 2, -1]].tolist() == [10, 48, 50]
    # statistics and repair of two units; measuring is no part of it
    assert out["seconds, LIAR"].iloc[0] == pytest.approx(1.0)

"""Figures show exactly the rows that are saved beside them, in the same bytes each time."""

import json
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from analysis import paths
from analysis.errors import UsageError
from analysis.present import (
    calibration,
    compounding,
    criteria,
    generated_text,
    granularity,
    harm,
    proxy,
    retraining,
    scale,
    tables,
    zero_shot,
)
from analysis.present.final import ends
from analysis.present.provenance import provenance, save_figure
from analysis.present.rows import read_csv
from analysis.present.style import METHOD_LABELS, METHOD_LOOKS, OTHERS, looks


@pytest.fixture(scope="session")
def made(blocks, perplexity, steps, sizes, masks, spent, mixed, models, asked):
    """Every kind of figure: name -> (plot, figure, its table, the table's x column, options)."""
    final, grown, answered = (ends(some.blocks, some.perplexity, some.zero_shot) for some in (mixed, models, asked))
    added = generated_text.added(final[final["calibration"] == "lab:stories"])
    one_size = blocks[blocks["samples"] == 32]
    few = steps[steps["samples"] != 32]
    drawn = {
        "total": (
            compounding.plot_block_profile,
            compounding.block_profile(one_size, criterion="wanda", split=["calibration", "stories"]),
            "block",
            {},
        ),
        "parts": (
            compounding.plot_block_profile,
            compounding.block_profile(one_size, kind=list(tables.DRAWN_KINDS), criterion="wanda", split="stories"),
            "block",
            {"columns": "kind"},
        ),
        "sizes": (
            calibration.plot_sample_size,
            calibration.sample_size(blocks, perplexity, criterion="wanda", split=["calibration", "stories"]),
            "samples",
            {},
        ),
        "epochs": (
            calibration.plot_epochs,
            calibration.epochs(few, criterion="wanda", split=["calibration", "stories"]),
            "epoch",
            {},
        ),
        "granularity": (
            granularity.plot_granularity,
            granularity.granularity(sizes.blocks, sizes.perplexity),
            "granularity",
            {},
        ),
        "cost": (
            granularity.plot_cost,
            granularity.cost_of_units(
                sizes.perplexity, sizes.cost, sizes.steps, sizes.matrices, split="lab:stories/held-out"
            ),
            "memory_mib",
            {},
        ),
        "criteria": (
            criteria.plot_criteria,
            criteria.criteria(masks.perplexity, split="lab:stories/held-out"),
            "criterion",
            {},
        ),
        "layers": (criteria.plot_layers, criteria.layer_changes(masks.layers), "block", {}),
        "budget": (
            retraining.plot_budget,
            tables.choose(retraining.budgets(spent.perplexity, spent.steps, spent.cost), samples=8),
            "tokens",
            {},
        ),
        "more": (
            retraining.plot_more_text,
            retraining.at_their_best(
                retraining.budgets(spent.perplexity, spent.steps, spent.cost, split="lab:stories/held-out")
            ),
            "text",
            {},
        ),
        "added": (generated_text.plot_added, tables.choose(added, method="BR+GP+CR"), "added_samples", {}),
        "settings": (
            generated_text.plot_settings,
            generated_text.settings(final[final["calibration"] == "lab:stories"], 8),
            "value",
            {},
        ),
        "harm": (
            harm.plot_harm,
            harm.harm(final[final["calibration"] == "lab:stories"], "BR+GP", "BR+GP+CR"),
            "added_samples",
            {},
        ),
        "proxy": (proxy.plot_proxy, proxy.proxy(answered), "value", {}),
        "representatives": (
            generated_text.plot_representatives,
            generated_text.representatives(final[final["method"] == "BR+GP"], mixed.texts, mixed.perplexity),
            "distance",
            {},
        ),
        "overfitting": (scale.plot_overfitting, scale.overfitting(grown, models.matrices), "weights", {}),
        "overlap": (scale.plot_overlap, scale.overlap(grown, models.matrices), "weights", {}),
        "criteria by size": (scale.plot_criteria_gap, scale.criteria_gap(grown, models.matrices), "weights", {}),
        "scores": (zero_shot.plot_scores, zero_shot.scores(answered, asked.zero_shot), "perplexity", {}),
        "tasks": (zero_shot.plot_tasks, zero_shot.by_task(asked.zero_shot), "task", {}),
    }
    return {
        name: (plot, plot(table, **options), table, x, options) for name, (plot, table, x, options) in drawn.items()
    }


LINES = ["total", "parts", "sizes"]
SUBJECTS = [
    "added",
    "settings",
    "harm",
    "proxy",
    "representatives",
    "overfitting",
    "overlap",
    "criteria by size",
    "scores",
    "tasks",
]
NAMES = [*LINES, "epochs", "granularity", "cost", "criteria", "layers", "budget", "more", *SUBJECTS]


def points(fig, kind="method"):
    """(what the line is, x, y) of every point of every line whose gid begins with `kind`, panel by panel."""
    marked = [(ax, line) for ax in fig.axes for line in ax.lines if (line.get_gid() or "").startswith(kind)]
    return [
        (fig.axes.index(ax), line.get_gid().removeprefix(f"{kind} "), float(x), float(y))
        for ax, line in marked
        for x, y in line.get_xydata()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_every_saved_row_is_drawn_and_nothing_else(made, name, tmp_path, blocks):
    _, fig, table, x, _ = made[name]
    save_figure(fig, name, table, provenance({"PRESET": "lab"}, blocks), tmp_path)
    saved = read_csv(tmp_path / f"{name}.csv")
    drawn = {
        (line.get_gid().removeprefix("method "), px, py)
        for ax in fig.axes
        for line in ax.lines
        if line.get_gid()  # the line at zero is no row
        for px, py in line.get_xydata()
    }
    assert drawn == set(zip(saved["method"], saved[x].astype(float), saved["value"], strict=True))


@pytest.mark.slow
def test_a_unit_has_its_place_and_what_has_none_is_a_level(made):
    _, fig, table, _, _ = made["granularity"]
    units = ["matrix", "sub-block", "1 block", "2 blocks", "model"]
    assert [label.get_text() for label in fig.axes[-1].get_xticklabels()] == [
        "matrix",
        "½ block",
        "1 block",
        "2 blocks",
        "all",
    ]
    panels = list(table.groupby(["measure", "split"], sort=False))
    assert len(panels) == len(fig.axes) == 6
    expected = []
    for panel, (_, rows) in enumerate(panels):
        for row in rows.itertuples():
            places = [-0.5, len(units) - 0.5] if row.method in ("LR", "dense") else [units.index(row.granularity)]
            expected += [(panel, row.method, place, row.value) for place in places]
    assert sorted(points(fig)) == sorted(expected)


@pytest.mark.slow
def test_costs_lie_where_they_are_with_their_units_above(made):
    _, fig, table, _, _ = made["cost"]
    (ax,) = fig.axes
    solved = table[table["method"] != "LR"]
    drawn = {point[1:] for point in points(fig) if point[1] != "LR"}
    assert drawn == {
        ("ridge" if row.method == "ridge" else row.streams, row.memory_mib, row.value) for row in solved.itertuples()
    }
    assert {y for _, method, _, y in points(fig) if method == "LR"} == set(table[table["method"] == "LR"]["value"])
    (above,) = ax.child_axes
    assert [label.get_text() for label in above.get_xticklabels()] == ["m", "½", "1", "2", "all"]


@pytest.mark.slow
def test_criteria_fall_from_the_mask_to_reconstruction_one_row_per_refinement(made):
    _, fig, table, _, _ = made["criteria"]
    order, refinements = ["magnitude", "wanda", "ria", "sparsegpt"], ["none", "swaps", "fw"]
    panels = [(refinement, pattern) for refinement in refinements for pattern in table["pattern"].unique()]
    assert len(panels) == len(fig.axes) == 6
    expected = sorted(
        (
            panels.index((row.refinement, row.pattern)),
            row.criterion,
            ["LR", "BR+GP"].index(row.method) + 0.05 * (order.index(row.criterion) - 1.5),
            row.value,
        )
        for row in table.itertuples()
    )
    drawn = sorted(points(fig, "criterion"))
    assert [point[:2] for point in drawn] == [point[:2] for point in expected]
    assert np.allclose([point[2:] for point in drawn], [point[2:] for point in expected], rtol=0, atol=1e-12)
    plain = {
        (row.pattern, f"plain {row.criterion}", row.value) for row in table[table["refinement"] == "none"].itertuples()
    }
    ghosts = [point for point in points(fig, "slope") if point[1].startswith("plain")]
    assert {(panels[place][1], name, y) for place, name, _, y in ghosts} == plain
    assert {panels[place][0] for place, *_ in ghosts} == {"swaps", "fw"}
    assert [label.get_text() for label in fig.axes[-1].get_xticklabels()] == ["mask", "BR+GP"]
    assert [ax.get_ylabel().splitlines()[0] for ax in fig.axes[::2]] == [
        "mask as chosen",
        "SparseSwaps",
        "SparseFW alone",
    ]
    assert len({ax.get_ylim() for ax in fig.axes}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("low, ticks", [(-4.0, {-3, -1, 0, 1, 3}), (20.0, {20, 50})])
def test_models_better_than_the_dense_one_have_their_place(made, low, ticks):
    _, _, table, _, _ = made["criteria"]
    values = np.linspace(low, 60, len(table))
    ax = criteria.plot_criteria(table.assign(value=values)).axes[0]
    bottom, top = ax.get_ylim()
    assert bottom < low and top > 60 and ticks <= {tick for tick in ax.get_yticks() if bottom <= tick <= top}


@pytest.mark.slow
def test_a_way_of_repairing_without_a_look_of_its_own_is_drawn_all_the_same(masks):
    table = criteria.criteria(masks.perplexity, pattern="2:4")
    fig = criteria.plot_criteria(table.assign(method=table["method"].replace("BR+GP", "BR[unit=matrix]")))
    drawn = [name for _, name, _, _ in points(fig, "criterion")]
    assert len(drawn) == 2 * 4 * 5 and [label.get_text() for label in fig.axes[-1].get_xticklabels()] == [
        "mask",
        "BR[unit=matrix]",
    ]


@pytest.mark.slow
def test_a_box_shows_the_matrices_of_its_criterion_and_refinement(made):
    _, fig, table, _, _ = made["layers"]
    patterns = list(table["pattern"].unique())
    medians = table.groupby(["pattern", "criterion", "refinement"])["value"].median()
    drawn = {(patterns[panel], *name.split()): y for panel, name, _, y in points(fig, "median")}
    assert drawn == pytest.approx(medians.to_dict()) and len(drawn) == 2 * 4 * 2
    assert all({"plain", "typical"} <= {artist.get_gid() for artist in (*ax.lines, *ax.patches)} for ax in fig.axes)


@pytest.mark.slow
def test_texts_are_watched_in_a_panel_for_each_method_and_size(made):
    _, fig, table, _, _ = made["epochs"]
    panels = [(method, samples) for method in table["method"].unique() for samples in table["samples"].unique()]
    assert sorted(points(fig, "split")) == sorted(
        (panels.index((row.method, row.samples)), row.split, row.epoch, row.value) for row in table.itertuples()
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LINES, "epochs", "cost", "budget", "more", "criteria", *SUBJECTS])
def test_the_same_table_gives_the_same_bytes_also_of_a_figure_shown_before(made, name, tmp_path, blocks):
    plot, _, table, _, options = made[name]
    for folder in ("one", "two"):
        fig = plot(table.copy(), **options)
        if folder == "two":
            fig.savefig(tmp_path / "shown.png", dpi=30)
        save_figure(fig, name, table, provenance({"PRESET": "smoke", "N": 3}, blocks), tmp_path / folder)
    for suffix in ("svg", "png", "csv", "json"):
        assert (tmp_path / "one" / f"{name}.{suffix}").read_bytes() == (
            tmp_path / "two" / f"{name}.{suffix}"
        ).read_bytes(), suffix


@pytest.mark.slow
def test_another_process_draws_the_same_bytes(made, tmp_path, blocks):
    _, _, table, _, _ = made["total"]
    here, there = tmp_path / "here", tmp_path / "there"
    save_figure(compounding.plot_block_profile(table), "x", table, provenance({"PRESET": "lab"}, blocks), here)
    code = (
        "import sys, pandas as pd\nfrom analysis.present import compounding, provenance, rows\n"
        "table = rows.read_csv(sys.argv[1] + '/x.csv')\nprovenance.save_figure(compounding.plot_block_profile(table),"
        " 'x', table, {'preset': 'lab'}, sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, str(here), str(there)], check=True, cwd=paths.ROOT)
    for suffix in ("svg", "png", "csv"):
        assert (here / f"x.{suffix}").read_bytes() == (there / f"x.{suffix}").read_bytes(), suffix


@pytest.mark.slow
def test_a_smoke_figure_says_so_and_no_other_does(made, tmp_path, blocks):
    plot, _, table, _, _ = made["total"]
    smoke, lab = plot(table), plot(table)
    for fig, preset in ((smoke, "smoke"), (smoke, "smoke"), (lab, "lab")):
        save_figure(fig, "x", table, provenance({"PRESET": preset}, blocks), tmp_path)
    assert [text.get_text() for text in smoke.texts].count("smoke") == 1 and "smoke" not in [
        text.get_text() for text in lab.texts
    ]


@pytest.mark.slow
def test_provenance_names_runs_versions_preset_and_all_parameters(made, tmp_path, blocks):
    _, fig, table, _, _ = made["total"]
    few = blocks[blocks["samples"] == 32]
    namespace = {
        "PRESET": "lab",
        "FIGURES": "somewhere",
        "MODEL": "lab",
        "SAMPLES": 32,
        "table": table,
        "_": 1,
        "Out": {},
    }
    save_figure(fig, "x", table, provenance(namespace, few, few, methods=["LR"]), tmp_path)
    about = json.loads((tmp_path / "x.json").read_text("utf-8"))
    assert about["runs"] == sorted(few["run"].unique()) and about["preset"] == "lab"
    assert about["parameters"] == {"model": "lab", "samples": 32, "methods": ["LR"]}
    assert about["versions"]["pandas"] == pd.__version__ and about["rows"] == len(table) and "commit" in about
    with pytest.raises(UsageError, match="no parameter PRESET"):
        provenance({"preset": "lab"}, few)


@pytest.mark.slow
def test_without_a_folder_figures_stay_out_of_the_repository(made, blocks, monkeypatch, tmp_path):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path))
    _, fig, table, _, _ = made["total"]
    assert save_figure(fig, "x", table, provenance({"PRESET": "lab"}, blocks)) == tmp_path / "runs" / "figures" / "lab"


@pytest.mark.slow
def test_wrong_calls_of_save_figure(made, tmp_path, blocks):
    _, fig, table, _, _ = made["total"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        save_figure(fig, "x", table, provenance({"PRESET": "lab"}, blocks), tmp_path / "file")
    with pytest.raises(UsageError, match="no rows"):
        save_figure(fig, "x", table.iloc[:0], provenance({"PRESET": "lab"}, blocks), tmp_path)


@pytest.mark.slow
def test_drawing_leaves_no_global_state(made):
    import matplotlib.pyplot as plt

    plot, _, table, _, options = made["epochs"]
    before = dict(mpl.rcParams)
    plot(table, **options)
    assert dict(mpl.rcParams) == before and not plt.get_fignums()


def test_methods_look_the_same_everywhere_and_unlike_each_other():
    assert (
        len({look.color for look in METHOD_LOOKS.values()})
        == len({look.marker for look in METHOD_LOOKS.values()})
        == len(METHOD_LOOKS)
    )
    assert not {look.color for look in OTHERS} & {look.color for look in METHOD_LOOKS.values()}
    assert METHOD_LOOKS["dense"].color == "#000000" and set(METHOD_LABELS) <= set(METHOD_LOOKS)
    some = looks(["BR", "LR", "new", "newer"])
    assert (
        list(some) == ["LR", "BR", "new", "newer"] and some["LR"] == METHOD_LOOKS["LR"] and some["new"] != some["newer"]
    )
    many = looks([f"new {place}" for place in range(9)])
    assert list(many.values())[:3] == OTHERS and len(set(many.values())) == 9


LONG = {
    "lab:stories/held-out": "news_corpus_2024_cleaned_deduplicated.jsonl#body[80%:]",
    "lab:entries/held-out": "legal_documents_european_court_of_human_rights.jsonl#content[80%:]",
    "lab:recipes": f"news_{'cleaned_' * 8}2024.jsonl#body[:80%]:0.5+legal_documents_{'european_' * 4}court.txt:0.5",
}


@pytest.mark.parametrize(
    ("name", "plot", "column"),
    [
        ("01_compounding_error", compounding.plot_block_profile, "split"),
        ("02_calibration_windows", calibration.plot_sample_size, "split"),
        ("03_added_text", generated_text.plot_added, "added"),
        ("08_tasks", zero_shot.plot_tasks, "task"),
    ],
)
def test_long_names_are_broken_or_shortened_and_cover_nothing(name, plot, column):
    table = read_csv(paths.ROOT / "figures" / f"{name}.csv")
    names = {task: f"questions_about_european_history_{task}.jsonl" for task in table[column]}
    names = LONG if column != "task" else names | {"mean": "mean"}
    longer = table[column].map(lambda value: names.get(value, value))
    before, fig = plot(table), plot(table.assign(**{column: longer}))
    fig.draw_without_rendering()
    width, height = fig.bbox.width, fig.bbox.height
    groups = [
        [ax.title for ax in fig.axes],
        [ax.yaxis.label for ax in fig.axes],
        fig.legends[0].get_texts() if fig.legends else [],
        fig.axes[0].get_xticklabels() if column == "task" else [],
    ]
    assert any("…" in text.get_text() for group in groups for text in group)
    for group in groups:
        boxes = [text.get_window_extent() for text in group if text.get_text()]
        assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
        assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place])
    words = [text.get_text() for ax in before.axes for text in (ax.title, ax.yaxis.label, *ax.get_xticklabels())]
    assert not any("…" in word for word in words)


@pytest.mark.parametrize(
    ("name", "plot", "columns"),
    [
        ("01_compounding_error", compounding.plot_block_profile, ["split", "criterion"]),
        ("02_calibration_windows", calibration.plot_sample_size, ["split"]),
        ("04_granularity", granularity.plot_granularity, ["split"]),
        ("06_retraining", retraining.plot_budget, ["split"]),
        ("07_criteria", scale.plot_criteria_gap, ["source"]),
        ("07_overfitting", scale.plot_overfitting, ["criterion"]),
    ],
)
def test_a_method_without_a_look_of_its_own_has_one_look_in_every_panel_and_in_the_legend(name, plot, columns):
    table = read_csv(paths.ROOT / "figures" / f"{name}.csv")
    first, second = [method for method in looks(table["method"]) if method not in ("dense", "LR", "ridge")][:2]
    table = table.assign(method=table["method"].replace({first: "a new one", second: "the other"}))
    if len(table[columns].drop_duplicates()) == 1:
        table = pd.concat([table, table.assign(split="lab:news/held-out")], ignore_index=True)
    panel = table[columns].eq(table.loc[table["method"] == "the other", columns].iloc[-1]).all(axis=1)
    fig = plot(table[~panel | (table["method"] != "a new one")])
    drawn: dict[str, set] = {}
    for line in (line for ax in fig.axes for line in ax.lines if (line.get_gid() or "").startswith("method ")):
        if line.get_marker() not in ("", "None"):
            drawn.setdefault(line.get_gid().removeprefix("method "), set()).add((line.get_color(), line.get_marker()))
    assert all(len(drawn[method]) == 1 for method in ("a new one", "the other"))
    named = {h.get_label(): (h.get_color(), h.get_marker()) for legend in fig.legends for h in legend.legend_handles}
    assert all({named[method]} == drawn[method] for method in ("a new one", "the other") if method in named)


@pytest.mark.slow
def test_a_band_is_the_interval_and_absent_for_one_seed_and_for_the_reference(blocks):
    one = blocks[(blocks["samples"] == 32) & (blocks["seed"] == 0)]
    assert not any(ax.collections for ax in compounding.plot_block_profile(compounding.block_profile(one)).axes)
    table = compounding.block_profile(blocks[blocks["samples"] == 32], criterion="wanda", split="stories")
    assert not compounding.plot_block_profile(table[table["method"] == "LR"]).axes[0].collections
    band = compounding.plot_block_profile(table[table["method"] == "BR"]).axes[0].collections[0].get_paths()[0].vertices
    row = table[(table["method"] == "BR") & (table["block"] == 3)].iloc[0]
    edges = band[band[:, 0] == 3][:, 1]
    assert np.allclose([edges.min(), edges.max()], [row["low"], row["high"]])


@pytest.mark.slow
def test_rings_sit_on_the_lowest_held_out_epoch(made):
    _, fig, table, _, _ = made["epochs"]
    rings = {
        tuple(p)
        for ax in fig.axes
        for c in ax.collections
        for p in np.asarray(c.get_offsets())
        if len(c.get_facecolor()) == 0
    }
    low = table[table["lowest"] & (table["split"] != "calibration")]
    assert rings == set(zip(low["epoch"].astype(float), low["value"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "three by three"])
def test_no_text_leaves_the_figure_or_covers_another(made, name, blocks):
    full = blocks[blocks["samples"] == 32]
    fig = compounding.plot_block_profile(compounding.block_profile(full)) if name not in made else made[name][1]
    fig.draw_without_rendering()
    width, height = fig.bbox.width, fig.bbox.height
    boxes = [ax.title.get_window_extent() for ax in fig.axes if ax.title.get_text()]
    boxes += [
        label.get_window_extent() for ax in fig.axes for label in (ax.xaxis.label, ax.yaxis.label) if label.get_text()
    ]
    boxes += [legend.get_window_extent() for legend in (*fig.legends, *fig.texts)]
    assert all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])

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
    retraining,
    scale,
    tables,
    widgets,
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
            granularity.cost_of_units(sizes.perplexity, sizes.cost, split="lab:stories/held-out"),
            "cost",
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
            retraining.budgets(spent.perplexity, spent.steps, spent.cost, split="lab:stories/held-out"),
            "samples",
            {},
        ),
        "added": (generated_text.plot_added, tables.choose(added, method="BR+GP+CR"), "added_samples", {}),
        "settings": (generated_text.plot_settings, tables.choose(added, added_samples=8), "value", {}),
        "representatives": (
            generated_text.plot_representatives,
            generated_text.representatives(final[final["method"] == "BR+GP"], mixed.texts, mixed.perplexity),
            "distance",
            {},
        ),
        "overfitting": (scale.plot_overfitting, scale.overfitting(grown, models.matrices), "weights", {}),
        "overlap": (scale.plot_overlap, scale.overlap(grown, models.matrices), "weights", {}),
        "criteria by size": (scale.plot_criteria_gap, scale.damage(grown, models.matrices), "weights", {}),
        "scores": (zero_shot.plot_scores, zero_shot.scores(answered, asked.zero_shot), "perplexity", {}),
        "tasks": (zero_shot.plot_tasks, zero_shot.by_task(asked.zero_shot), "task", {}),
    }
    return {
        name: (plot, plot(table, **options), table, x, options) for name, (plot, table, x, options) in drawn.items()
    }


LINES = ["total", "parts", "sizes", "epochs"]
SUBJECTS = ["added", "settings", "representatives", "overfitting", "overlap", "criteria by size", "scores", "tasks"]
NAMES = [*LINES, "granularity", "cost", "criteria", "layers", "budget", "more", *SUBJECTS]


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
def test_costs_lie_where_they_are_and_rings_on_the_front(made):
    _, fig, table, _, _ = made["cost"]
    front, solved = [], []
    for panel, (_, rows) in enumerate(table.groupby("price", sort=False)):
        solved += [(panel, row.method, row.cost, row.value) for row in rows.itertuples() if row.cost == row.cost]
        front += [(panel, row.cost, row.value) for row in rows[rows["front"]].itertuples()]
    drawn = points(fig)
    assert sorted(point for point in drawn if point[1] not in ("LR", "dense")) == sorted(solved)
    levels = {(panel, method, y) for panel, method, _, y in drawn if method in ("LR", "dense")}
    rows = table[table["cost"].isna()]
    assert levels == {
        (["MiB the solver holds", "seconds in the solver"].index(row.price), row.method, row.value)
        for row in rows.itertuples()
    }
    assert sorted((panel, x, y) for panel, _, x, y in points(fig, "front")) == sorted(front)


@pytest.mark.slow
def test_criteria_stand_side_by_side_with_refinements_beside_each(made):
    _, fig, table, _, _ = made["criteria"]
    order, beside = ["magnitude", "wanda", "ria", "sparsegpt"], {"none": -0.26, "swaps": 0.0, "fw": 0.26}
    panels = [(split, pattern) for split in table["split"].unique() for pattern in table["pattern"].unique()]
    assert len(panels) == len(fig.axes) == 2
    expected = [
        (
            panels.index((row.split, row.pattern)),
            f"{row.method} {row.refinement}",
            order.index(row.criterion) + beside[row.refinement],
            row.value,
        )
        for row in table[table["method"] != "dense"].itertuples()
    ]
    drawn = [point for point in points(fig) if point[1] != "dense"]
    assert [point[:2] for point in sorted(drawn)] == [point[:2] for point in sorted(expected)]
    assert np.allclose(
        [point[2:] for point in sorted(drawn)], [point[2:] for point in sorted(expected)], rtol=0, atol=1e-12
    )
    dense = {(point[0], point[3]) for point in points(fig) if point[1] == "dense"}
    assert dense == {
        (panels.index((row.split, row.pattern)), row.value) for row in table[table["method"] == "dense"].itertuples()
    }
    assert [label.get_text() for label in fig.axes[-1].get_xticklabels()] == ["Magnitude", "Wanda", "RIA", "SparseGPT"]


@pytest.mark.slow
def test_a_way_of_repairing_without_a_look_of_its_own_is_drawn_all_the_same(masks):
    table = criteria.criteria(masks.perplexity, pattern="2:4")
    fig = criteria.plot_criteria(table.assign(method=table["method"].replace("BR+GP", "BR[unit=matrix]")))
    assert {name for _, name, _, _ in points(fig)} == {
        "dense",
        "LR none",
        "LR swaps",
        "LR fw",
        "BR[unit=matrix] none",
        "BR[unit=matrix] swaps",
    }
    assert "after BR[unit=matrix]" in [text.get_text() for text in fig.legends[0].get_texts()]


@pytest.mark.slow
def test_every_matrix_is_a_dot(made):
    _, fig, table, _, _ = made["layers"]
    patterns = list(table["pattern"].unique())
    drawn = sorted((panel, name, y) for panel, name, _, y in points(fig, "refinement"))
    assert drawn == sorted((patterns.index(row.pattern), row.refinement, row.value) for row in table.itertuples())
    magnitude = [x for panel, name, x, _ in points(fig, "refinement") if (panel, name) == (0, "swaps") and x < 0]
    # by depth, left of Frank-Wolfe's
    assert magnitude == sorted(magnitude) and len(set(magnitude)) == table["block"].nunique()


@pytest.mark.slow
def test_budgets_are_drawn_against_both_prices(made):
    _, fig, table, _, _ = made["budget"]
    panels = [(split, price) for split in table["split"].unique() for price in ("tokens", "solve_seconds")]
    trained = table[table["epochs"] > 0].to_dict("records")
    expected = [
        (place, row["method"], row[price], row["value"])
        for place, (split, price) in enumerate(panels)
        for row in trained
        if row["split"] == split
    ]
    drawn = points(fig)
    assert sorted(point for point in drawn if point[1] not in ("LR", "dense")) == sorted(expected)
    levels = {(place, method, y) for place, method, _, y in drawn if method in ("LR", "dense")}
    idle = table[table["epochs"] == 0]
    assert levels == {
        (place, row.method, row.value)
        for place, (split, _) in enumerate(panels)
        for row in idle[idle["split"] == split].itertuples()
    }


@pytest.mark.slow
def test_more_text_has_a_panel_for_every_number_of_epochs(made):
    _, fig, table, _, _ = made["more"]
    panels = [(split, epochs) for split in table["split"].unique() for epochs in (1, 4)]
    expected = [
        (place, row.method, row.samples, row.value)
        for place, (split, epochs) in enumerate(panels)
        for row in table[table["epochs"].isin((0, epochs))].itertuples()
        if row.split == split
    ]
    assert sorted(points(fig)) == sorted(expected) and [ax.get_title() for ax in fig.axes[:2]] == [
        "1 epoch",
        "4 epochs",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LINES, "cost", "criteria", *SUBJECTS])
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


@pytest.mark.slow
def test_the_explorer_is_a_plain_function_of_the_table(blocks):
    one_size = blocks[blocks["samples"] == 32]
    fig = widgets.draw(one_size, "sparsegpt", "entries", "local")
    expected = compounding.block_profile(one_size, kind="local", criterion="sparsegpt", split="entries")
    assert len(fig.axes) == 1 and sorted(y for line in fig.axes[0].lines for y in line.get_ydata()) == sorted(
        expected["value"]
    )
    menus = widgets.explore(one_size).children[0].children
    assert [list(menu.options) for menu in menus] == [
        ["magnitude", "wanda", "sparsegpt"],
        ["calibration", "stories", "entries"],
        list(tables.DRAWN_KINDS),
    ]


@pytest.mark.slow
def test_the_explorer_redraws_its_image_and_never_waits_for_an_answer(blocks):
    explorer = widgets.explore(blocks[blocks["samples"] == 32])
    menus, image = explorer.children[0].children, explorer.children[1]
    before = bytes(image.value)
    menus[1].value = "entries"
    after = bytes(image.value)
    assert before.startswith(b"\x89PNG") and after.startswith(b"\x89PNG") and before != after
    assert not any(type(child).__name__ == "Output" for child in explorer.children), (
        "an output widget makes headless execution hang"
    )

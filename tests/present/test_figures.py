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
from analysis.present import plots, tables, widgets
from analysis.present.style import CRITERIA, METHODS, looks, provenance, save_figure


@pytest.fixture(scope="session")
def made(blocks, perplexity, steps):
    """Every kind of figure: name -> (figure, its table, the table's x column)."""
    one_size = blocks[blocks["samples"] == 32]
    few = steps[steps["samples"] != 32]
    drawn = {
        "total": (plots.plot_block_profile, tables.block_profile(one_size, criterion="wanda", split=["calibration", "stories"]), "block", {}),
        "parts": (plots.plot_block_profile, tables.block_profile(one_size, kind=list(tables.KINDS), criterion="wanda", split="stories"), "block", {"columns": "kind"}),
        "sizes": (plots.plot_sample_size, tables.sample_size(blocks, perplexity, criterion="wanda", split=["calibration", "stories"]), "samples", {}),
        "epochs": (plots.plot_epochs, tables.epochs(few, criterion="wanda", split=["calibration", "stories"]), "epoch", {}),
    }
    return {name: (plot, plot(table, **options), table, x, options) for name, (plot, table, x, options) in drawn.items()}


NAMES = ["total", "parts", "sizes", "epochs"]


@pytest.mark.parametrize("name", NAMES)
def test_every_saved_row_is_drawn_and_nothing_else(made, name, tmp_path, blocks):
    _, fig, table, x, _ = made[name]
    save_figure(fig, name, table, provenance(blocks, preset="lab"), tmp_path)
    saved = pd.read_csv(tmp_path / f"{name}.csv")
    drawn = {(line.get_gid().removeprefix("method "), px, py) for ax in fig.axes for line in ax.lines for px, py in line.get_xydata()}
    assert drawn == set(zip(saved["method"], saved[x].astype(float), saved["value"], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_table_gives_the_same_bytes_also_of_a_figure_shown_before(made, name, tmp_path, blocks):
    plot, _, table, _, options = made[name]
    for folder in ("one", "two"):
        fig = plot(table.copy(), **options)
        if folder == "two":
            fig.savefig(tmp_path / "shown.png", dpi=30)
        save_figure(fig, name, table, provenance(blocks, preset="smoke", N=3), tmp_path / folder)
    for suffix in ("svg", "png", "csv", "json"):
        assert (tmp_path / "one" / f"{name}.{suffix}").read_bytes() == (tmp_path / "two" / f"{name}.{suffix}").read_bytes(), suffix


def test_another_process_draws_the_same_bytes(made, tmp_path, blocks):
    _, _, table, _, _ = made["total"]
    save_figure(plots.plot_block_profile(table), "here", table, provenance(blocks, preset="lab"), tmp_path)
    code = (
        "import sys, pandas as pd\nfrom analysis.present import plots, style\nfolder = sys.argv[1]\n"
        "table = pd.read_csv(folder + '/here.csv')\nstyle.save_figure(plots.plot_block_profile(table), 'there', table, {'preset': 'lab'}, folder)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=paths.ROOT)
    for suffix in ("svg", "png", "csv"):
        assert (tmp_path / f"here.{suffix}").read_bytes() == (tmp_path / f"there.{suffix}").read_bytes(), suffix


def test_a_smoke_figure_says_so_and_no_other_does(made, tmp_path, blocks):
    plot, _, table, _, _ = made["total"]
    smoke, lab = plot(table), plot(table)
    for fig, preset in ((smoke, "smoke"), (smoke, "smoke"), (lab, "lab")):
        save_figure(fig, "x", table, provenance(blocks, preset=preset), tmp_path)
    assert [text.get_text() for text in smoke.texts].count("smoke") == 1 and "smoke" not in [text.get_text() for text in lab.texts]


def test_provenance_names_runs_versions_preset_and_parameters(made, tmp_path, blocks):
    _, fig, table, _, _ = made["total"]
    few = blocks[blocks["samples"] == 32]
    save_figure(fig, "x", table, provenance(few, few, preset="lab", MODEL="lab", SAMPLES=32), tmp_path)
    about = json.loads((tmp_path / "x.json").read_text("utf-8"))
    assert about["runs"] == sorted(few["run"].unique()) and about["preset"] == "lab" and about["parameters"] == {"MODEL": "lab", "SAMPLES": 32}
    assert about["versions"]["pandas"] == pd.__version__ and about["rows"] == len(table) and "commit" in about


def test_without_a_folder_figures_stay_out_of_the_repository(made, blocks, monkeypatch, tmp_path):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path))
    _, fig, table, _, _ = made["total"]
    assert save_figure(fig, "x", table, provenance(blocks, preset="lab")) == tmp_path / "runs" / "figures" / "lab"


def test_wrong_calls_of_save_figure(made, tmp_path, blocks):
    _, fig, table, _, _ = made["total"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        save_figure(fig, "x", table, provenance(blocks, preset="lab"), tmp_path / "file")
    with pytest.raises(UsageError, match="no rows"):
        save_figure(fig, "x", table.iloc[:0], provenance(blocks, preset="lab"), tmp_path)


def test_drawing_leaves_no_global_state(made):
    import matplotlib.pyplot as plt

    plot, _, table, _, options = made["epochs"]
    before = dict(mpl.rcParams)
    plot(table, **options)
    assert dict(mpl.rcParams) == before and not plt.get_fignums()


def test_methods_look_the_same_everywhere_and_unlike_each_other():
    assert len({look.color for look in METHODS.values()}) == len({look.marker for look in METHODS.values()}) == len(METHODS)
    assert METHODS["dense"].color == "#000000"
    some = looks(["BR", "LR", "new", "newer"])
    assert list(some) == ["LR", "BR", "new", "newer"] and some["LR"] == METHODS["LR"] and some["new"] != some["newer"]


def test_a_band_is_one_standard_deviation_and_absent_for_one_seed(blocks):
    one = blocks[(blocks["samples"] == 32) & (blocks["seed"] == 0)]
    assert not any(ax.collections for ax in plots.plot_block_profile(tables.block_profile(one)).axes)
    table = tables.block_profile(blocks[blocks["samples"] == 32], criterion="wanda", split="stories")
    band = plots.plot_block_profile(table[table["method"] == "LR"]).axes[0].collections[0].get_paths()[0].vertices
    row = table[(table["method"] == "LR") & (table["block"] == 3)].iloc[0]
    edges = band[band[:, 0] == 3][:, 1]
    assert np.allclose([edges.min(), edges.max()], [row["value"] - row["std"], row["value"] + row["std"]])


def test_rings_sit_on_the_lowest_held_out_epoch(made):
    _, fig, table, _, _ = made["epochs"]
    rings = {tuple(p) for ax in fig.axes for c in ax.collections for p in np.asarray(c.get_offsets()) if len(c.get_facecolor()) == 0}
    low = table[table["lowest"] & (table["split"] != "calibration")]
    assert rings == set(zip(low["epoch"].astype(float), low["value"], strict=True))


@pytest.mark.parametrize("name", [*NAMES, "three by three"])
def test_no_text_leaves_the_figure_or_covers_another(made, name, blocks):
    full = blocks[blocks["samples"] == 32]
    fig = plots.plot_block_profile(tables.block_profile(full)) if name not in made else made[name][1]
    fig.draw_without_rendering()
    width, height = fig.bbox.width, fig.bbox.height
    boxes = [ax.title.get_window_extent() for ax in fig.axes if ax.title.get_text()]
    boxes += [label.get_window_extent() for ax in fig.axes for label in (ax.xaxis.label, ax.yaxis.label) if label.get_text()]
    boxes += [legend.get_window_extent() for legend in (*fig.legends, *fig.texts)]
    assert all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_explorer_is_a_plain_function_of_the_table(blocks):
    one_size = blocks[blocks["samples"] == 32]
    fig = widgets.draw(one_size, "sparsegpt", "entries", "local")
    expected = tables.block_profile(one_size, kind="local", criterion="sparsegpt", split="entries")
    assert len(fig.axes) == 1 and sorted(y for line in fig.axes[0].lines for y in line.get_ydata()) == sorted(expected["value"])
    menus = widgets.explore(one_size).children[0].children
    assert [list(menu.options) for menu in menus] == [list(CRITERIA)[:3], ["calibration", "stories", "entries"], list(tables.KINDS)]

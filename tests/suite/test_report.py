"""The report says of every notebook what there is to say, needs nothing beside it, and quotes what it shows."""

import base64
import json
import re

from analysis.suite import records
from analysis.suite.report import write_report


def keep(place, write_notebook, name, *cells, **more):
    write_notebook(place / f"{name}.ipynb", *cells)
    given = {"inputs": "x", "status": "completed", "seconds": 12.34, "finished": "2026-11-29T04:15:35+00:00"}
    records.write(place / f"{name}.ipynb", records.Record(**given | more))


def test_every_notebook_with_its_figures_and_its_comparison(tmp_path, write_notebook):
    (tmp_path / "01_errors.svg").write_text("<svg>drawn</svg>")
    rows = [
        {"figure": "01_errors", "difference": 0.25, "where": "value <of> a row", "verdict": "differs"},
        {"figure": "01_other", "difference": 0.0, "where": "", "verdict": "same"},
        {"figure": "01_new", "difference": None, "where": "", "verdict": "not there yet"},
    ]
    figures = {"01_errors.svg": "1", "01_errors.csv": "2", "01_gone.svg": "3"}
    keep(tmp_path, write_notebook, "01_first", "1", folder=str(tmp_path), figures=figures, compared=rows)
    keep(tmp_path, write_notebook, "02_second", "1")
    (tmp_path / "03_never_run.ipynb").write_text("{}")
    page = write_report(tmp_path, "lab", differing=["differs"]).read_text("utf-8")
    assert base64.b64encode(b"<svg>drawn</svg>").decode() in page and "01_gone is no longer in its folder" in page
    assert 'href="01_first.ipynb"' in page and "03_never_run" not in page
    assert '1 <span class="differs">differs</span>, 1 same, 1 not there yet' in page and "nothing to compare" in page
    assert "25 % of value &lt;of&gt; a row" in page and "12.3" in page and "2026-11-29 04:15:35" in page
    assert not re.search(r"(src|href)=.?(https?:|//)", page)


def test_a_failure_with_the_cell_that_failed(tmp_path, write_notebook):
    keep(tmp_path, write_notebook, "01_first", "x = 1 < 2", "1 / 0", status="failed", error="cell In [3]: <Zero>")
    copy = tmp_path / "01_first.ipynb"
    notebook = json.loads(copy.read_text("utf-8"))
    notebook["cells"][-1]["outputs"] = [{"output_type": "error", "ename": "Z", "evalue": "", "traceback": []}]
    copy.write_text(json.dumps(notebook), "utf-8")
    page = write_report(tmp_path, "lab").read_text("utf-8")
    assert "cell In [3]: &lt;Zero&gt;" in page and "<pre>1 / 0</pre>" in page and "1 &lt; 2" not in page
    copy.write_text("{")
    assert "<pre>" not in write_report(tmp_path, "lab").read_text("utf-8")


def test_no_report_where_nothing_has_run(tmp_path):
    assert write_report(tmp_path, "lab") is None and not list(tmp_path.iterdir())

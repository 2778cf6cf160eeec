"""The report of a preset's runs: one page of HTML that needs nothing beside it, from what is kept of each notebook."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from analysis import storage
from analysis.suite import records
from analysis.suite.records import Record

NAME = "report.html"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
  background: #fff }
table { border-collapse: collapse; margin: 1rem 0 } th, td { text-align: left; padding: .25rem .9rem .25rem 0;
  border-bottom: 1px solid #ddd; vertical-align: top } .number { text-align: right; font-variant-numeric: tabular-nums }
.failed, .differs { color: #a00; font-weight: 600 } pre { background: #f5f5f5; padding: .8rem; overflow-x: auto }
img { max-width: 100%; height: auto; margin: .5rem 0 1.5rem } figcaption { color: #555 } figure { margin: 0 }
"""


def write_report(folder: Path, preset: str, differing: Sequence[str] = ()) -> Path | None:
    """Write report.html into a folder of executed copies, from the records of all of them: status, seconds, the
    comparison with the tables that were there before, the cell that failed, and the figures themselves.

    differing: verdicts of a comparison that are to stand out. Returns its path, None where nothing has run there.
    Raises StoreError.
    """
    kept = {copy: records.read(copy) for copy in sorted(folder.glob("*.ipynb"))}
    known = {copy: record for copy, record in kept.items() if record is not None}
    if not known:
        return None
    rows = "".join(_summary(copy, record, differing) for copy, record in known.items())
    sections = "".join(_section(copy, record, differing) for copy, record in known.items())
    head = "<th>notebook<th>status<th class=number>seconds<th>finished (UTC)<th>figures<th>beside what was there before"
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Notebooks: {escape(preset)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>\n'
        f"<h1>Notebooks, preset {escape(preset)}</h1>\n<table><tr>{head}</tr>\n{rows}</table>\n{sections}</html>\n"
    )
    with storage.explained(folder / NAME):
        storage.write(folder / NAME, page)
    return folder / NAME


def _summary(copy: Path, record: Record, differing: Sequence[str]) -> str:
    verdicts = [str(row["verdict"]) for row in record.compared]
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    told = ", ".join(f"{count} {_marked(verdict, differing)}" for verdict, count in counts.items())
    cells = [
        f'<a href="#{escape(copy.stem)}">{escape(copy.stem)}</a>',
        f'<span class="{escape(record.status)}">{escape(record.status)}</span>',
        f"{record.seconds:.1f}",
        escape(record.finished.removesuffix("+00:00").replace("T", " ")),
        str(len(_svgs(record))),
        told or "nothing to compare",
    ]
    words = [f"<td class=number>{cell}" if number == 2 else f"<td>{cell}" for number, cell in enumerate(cells)]
    return f"<tr>{''.join(words)}</tr>\n"


def _section(copy: Path, record: Record, differing: Sequence[str]) -> str:
    title = f'<h2 id="{escape(copy.stem)}">{escape(copy.stem)}</h2>\n<p><a href="{escape(copy.name)}">Executed copy</a>'
    parts = [title + f", figures in {escape(record.folder)}.</p>\n"]
    if record.error:
        parts.append(f'<p class="failed">{escape(record.error)}</p>\n{_failing_cell(copy)}')
    if record.compared:
        parts.append(_comparison(record.compared, differing))
    return "".join(parts) + "".join(_picture(Path(record.folder) / name) for name in _svgs(record))


def _comparison(rows: Sequence[dict[str, Any]], differing: Sequence[str]) -> str:
    lines = []
    for row in rows:
        most = row.get("difference")
        largest = f"{100 * most:.2g} % of {escape(str(row['where']))}" if most else escape(str(row["where"]))
        lines.append(
            f"<tr><td>{escape(str(row['figure']))}<td>{_marked(row['verdict'], differing)}<td>{largest}</tr>\n"
        )
    return (
        f"<table><tr><th>table<th>beside what was there before<th>largest difference</tr>\n{''.join(lines)}</table>\n"
    )


def _marked(verdict: str, differing: Sequence[str]) -> str:
    return f'<span class="differs">{escape(verdict)}</span>' if verdict in differing else escape(verdict)


def _svgs(record: Record) -> list[str]:
    return [name for name in record.figures if name.endswith(".svg")]


def _picture(file: Path) -> str:
    """The figure within the page; a line that it is gone where it is."""
    name = escape(file.stem)
    if not file.is_file():
        return f"<p>{name} is no longer in its folder.</p>\n"
    data = base64.b64encode(file.read_bytes()).decode()
    image = f'<img loading="lazy" alt="{name}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure><figcaption>{name}</figcaption>{image}</figure>\n"


def _failing_cell(copy: Path) -> str:
    """The source of the cell that ended with an error, "" where the copy tells none."""
    try:
        cells = storage.read_json(copy)["cells"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    for cell in cells:
        if any(output.get("output_type") == "error" for output in cell.get("outputs", [])):
            return f"<pre>{escape(''.join(cell['source']))}</pre>\n"
    return ""

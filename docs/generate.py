"""Write the parts of docs/*.md that the code already knows (tables, words, options, sources, exit codes, the gallery),
and show every committed figure in its notebook.

    python docs/generate.py            writes them anew
    python docs/generate.py --check    exit code 1 if a page or a notebook is not current

A part of a page stands between `<!-- generated: NAME ARGUMENT -->` and `<!-- end -->`; all else is written by hand.
"""

import argparse
import inspect
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import MISSING, fields
from functools import cache
from html import unescape
from pathlib import Path

from analysis import cli, paths, schema
from analysis.recipe import parts
from analysis.recipe.fields import Part, Rule
from analysis.recipe.recipe import Recipe

DOCS = Path(__file__).resolve().parent
MARKED = re.compile(r"(<!-- generated: (\S+)(?: (\S+))? -->\n).*?(<!-- end -->)", re.S)
PUBLISHED = "published"  # the tag of such a cell
IMAGE = re.compile(r"!\[([^\]]*)\]\(\.\./figures/(\w+)\.svg\)")
FINDING = re.compile(r"(?m)^\*([^*]+)\*")
SAVED = re.compile(r'save_figure\(fig, "(\w+)"')


def render(page: str) -> str:
    """The text of a page with its generated parts made anew. KeyError for a part that no function makes."""
    return MARKED.sub(lambda m: f"{m[1]}\n{BLOCKS[m[2]](m[3])}\n\n{m[4]}", page)


def show_published(notebook: str) -> str:
    """The text of a notebook with the committed figure, if there is one, above every cell that draws it anew: a cell
    tagged `published`, described as in results.md.
    """
    whole, findings = json.loads(notebook), read_findings()
    cells = []
    for cell in whole["cells"]:
        if PUBLISHED in cell["metadata"].get("tags", []):
            continue
        saved = SAVED.search("".join(cell["source"])) if cell["cell_type"] == "code" else None
        if saved and saved[1] in findings and (paths.figures() / f"{saved[1]}.svg").is_file():
            image = f"![{findings[saved[1]][0]}](../figures/{saved[1]}.svg)"
            shown = ["*As published:*\n", "\n", image]
            marks = {"tags": [PUBLISHED]}
            cells.append({"cell_type": "markdown", "id": f"{cell['id']}p", "metadata": marks, "source": shown})
        cells.append(cell)
    return json.dumps(whole | {"cells": cells}, indent=1, ensure_ascii=False) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table; pipes in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines)


def columns(name: str) -> str:
    """The columns of one table of `analysis.schema`, or of "study": what a study puts in front."""
    known = schema.JOB_COLUMNS if name == "study" else schema.TABLES[name]
    rows = ((f"`{c.name}`", _values(c.meaning, c.values), c.unit or "–", c.dtype) for c in known)
    return table(("column", "meaning", "unit", "dtype"), rows)


def _values(meaning: str, values: Iterable[str]) -> str:
    """A column's meaning, and its words where it does not name them all."""
    missing = [value for value in values if value not in meaning]
    return meaning + (f": {', '.join(f'`{value}`' for value in values)}" if missing else "")


@cache
def listed(what: str) -> list[dict[str, str]]:
    """The rows of `analysis list WHAT`."""
    with redirect_stdout(io.StringIO()) as out:
        code = cli.main(["list", what, "--json"])
    if code:
        raise SystemExit(f"docs: `analysis list {what}` ended with exit code {code}")
    return json.loads(out.getvalue())[what]


def words(part: str) -> str:
    """The words of one part of a recipe, as `analysis list recipes` explains them."""
    rows = [row for row in listed("recipes") if row["part"] == part]
    if not rows:
        raise SystemExit(f"docs: `analysis list recipes` has no part {part!r}")
    return table(("word", "meaning"), ((f"`{row['word']}`", _arxiv(row["meaning"])) for row in rows))


def options(part: str) -> str:
    """The options of one part, or of the "recipe" itself: the fields of its dataclass with their rules, then what its
    docstring says of them.
    """
    kind = Recipe if part == "recipe" else getattr(parts, part.capitalize())
    rules = {f.name: (f.default, f.metadata["rule"]) for f in fields(kind) if "rule" in f.metadata and f.name != "name"}
    rows = [_option(name, default, rule) for name, (default, rule) in rules.items() if not issubclass(rule.kind, Part)]
    header: tuple[str, ...] = ("option", "of", "default", "value", "meaning")
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return table(header, rows) + "\n\n" + _arxiv(inspect.getdoc(kind) or "")


def _option(name: str, default: object, rule: Rule) -> tuple[str, ...]:
    users = [f"`{word}`" for word in rule.only]
    users += [f"`{rule.when[0]}` = {' or '.join(f'`{value}`' for value in rule.when[1])}"] if rule.when else []
    shown = "–" if default in (None, MISSING) else f"`{str(default).lower()}`"
    value = ", ".join(f"`{word}`" for word in rule.choices) or rule.says
    value += f", at most {rule.most:,}" if rule.most is not None and rule.most < 2**62 else ""
    return f"`{name}`", ", ".join(users) or "all", shown, value, _arxiv(getattr(rule, "meaning", ""))


def listing(what: str) -> str:
    """`analysis list sources`, `tasks` or `models`."""
    rows = listed(what)
    header = list(rows[0])
    return table(header, ((f"`{row[header[0]]}`", *(_arxiv(row[key]) for key in header[1:])) for row in rows))


def generation(_: str) -> str:
    """The settings of self-generated text."""
    from analysis.text.generation import GENERATION_OPTIONS

    return table(("option", "meaning"), ((f"`{name}`", meaning) for name, meaning in GENERATION_OPTIONS.items()))


def exit_codes(_: str) -> str:
    """The exit codes of the command line, as its help lists them."""
    lines = cli.EXIT_CODES.splitlines()[1:]
    return table(("code", "meaning"), (line.split(maxsplit=1) for line in lines))


def gallery(_: str) -> str:
    """Every figure of figures/ that has a provenance, in the order of the notebooks."""
    findings, entries = read_findings(), []
    for file in sorted(paths.figures().glob("*.json")):
        about = json.loads(file.read_text("utf-8"))
        name, notebook = about["figure"], _notebook_of(about["figure"])
        if name not in findings:
            raise SystemExit(f"docs: results.md does not show the figure {name}")
        alt, finding = findings[name]
        link = f"../figures/{name}"
        source = f"[{notebook}](../notebooks/{notebook}.ipynb)"
        facts = table(("", ""), _facts(about, file.with_suffix(".svg").read_text("utf-8")))
        files = f"[rows (csv)]({link}.csv), [provenance (json)]({link}.json), [png]({link}.png)"
        entries.append(f"## {name}\n\n![{alt}]({link}.svg)\n\n*{finding}*\n\n{facts}\n\nNotebook {source}; {files}.")
    return "\n\n".join(entries)


def read_findings() -> dict[str, tuple[str, str]]:
    """Figure -> its description, and the sentence of results.md (in italics) that follows it."""
    text = (DOCS / "results.md").read_text("utf-8")
    findings = {}
    for image in IMAGE.finditer(text):
        finding = FINDING.search(text, image.end())
        if finding is None:
            raise SystemExit(f"docs: results.md says nothing in italics after figure {image[2]}")
        findings[image[2]] = (image[1], " ".join(finding[1].split()).rstrip(".") + ".")
    return findings


def _notebook_of(figure: str) -> str:
    """The notebook that names a figure in its code."""
    named = [
        file.stem for file in sorted(paths.notebooks().glob("*.ipynb")) if f'\\"{figure}\\"' in file.read_text("utf-8")
    ]
    if not named:
        raise SystemExit(f"docs: no notebook saves the figure {figure}")
    return named[0]


def _facts(about: dict, svg: str) -> Iterable[tuple[str, str]]:
    """What a figure was made from: the words below it, all parameters of its notebook by name (which draws several
    figures, each from some of them), runs.
    """
    title = re.search(r"<title>[^:]*: (.*)</title>", svg)
    if title is None:
        raise SystemExit(f"docs: the figure {about['figure']} does not say what it was made from; draw it again")
    yield "made from", unescape(title[1]).replace("|", "·")
    said = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in about["parameters"].items()
    }
    given = "; ".join(f"`{name.upper()}` {' '.join(value.split())}" for name, value in said.items() if value)
    yield "notebook's parameters", given
    yield "runs", f"{len(about['runs'])}, preset {about['preset']}"


def _arxiv(text: str) -> str:
    """arXiv ids as links."""
    return re.sub(r"\b(\d{4}\.\d{5})\b", r"[\1](https://arxiv.org/abs/\1)", text)


BLOCKS: dict[str, Callable[[str], str]] = {
    "columns": columns,
    "words": words,
    "options": options,
    "list": listing,
    "generation": generation,
    "exit-codes": exit_codes,
    "gallery": gallery,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check all pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a page is not current")
    check, stale = parser.parse_args(argv).check, []
    for page in [*sorted(DOCS.glob("*.md")), *sorted(paths.notebooks().glob("*.ipynb"))]:
        before = page.read_text("utf-8")
        after = render(before) if page.suffix == ".md" else show_published(before)
        if after != before:
            stale.append(page.name)
            if not check:
                page.write_text(after, "utf-8")
    if stale:
        print(f"docs: {', '.join(stale)} {'not current; run python docs/generate.py' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())

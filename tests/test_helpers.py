"""Tests stand alone: what they share lies in `tests/helpers`, and the quick ones are few enough."""

import ast
from pathlib import Path

import pytest

from tests.helpers.families import FAMILIES, QUICK

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.py")), ids=lambda file: str(file.relative_to(FOLDER)))
def test_nothing_is_imported_from_another_test_or_a_benchmark(file):
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "."]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            room, _, rest = name.partition(".")
            assert room not in ("benchmarks", "conftest") and not room.startswith("test_"), f"{file}: imports {name}"
            assert room != "tests" or rest.partition(".")[0] == "helpers", f"{file}: imports {name}"


@pytest.mark.parametrize("family", FAMILIES)
def test_families_beyond_the_quick_ones_are_slow(request, family):
    assert bool(request.node.get_closest_marker("slow")) is (family not in QUICK)


class Case:
    """A test that pytest has collected, as far as its choice among cases looks at one."""

    def __init__(self, name: str, *markers: str):
        self.nodeid, self.markers = name, markers

    def get_closest_marker(self, marker: str) -> bool:
        return marker in self.markers


def test_few_cases_of_slow_tests_are_the_first_and_the_last(pytestconfig):
    (plugin,) = (
        p for p in pytestconfig.pluginmanager.get_plugins() if getattr(p, "__file__", "") == str(FOLDER / "conftest.py")
    )
    slow, quick = [Case(f"a[{n}]", "slow") for n in range(7)], [Case(f"b[{n}]") for n in range(7)]
    pair, alone = [Case("c[x]", "slow"), Case("c[y]", "slow")], Case("d", "slow")
    every = [Case(f"e[{n}]", "slow", "every") for n in range(7)]
    left = plugin._cases_beyond_few([*slow, *quick, *pair, alone, *every])
    assert left == set(slow[1:6])


def test_every_helper_is_named_in_their_page():
    page = (FOLDER / "helpers" / "README.md").read_text("utf-8")
    assert not [file.stem for file in (FOLDER / "helpers").glob("*.py") if f"`{file.stem}`" not in page]

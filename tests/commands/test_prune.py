from pathlib import Path

import pytest

from analysis.commands.summary import report


@pytest.mark.parametrize(
    ("structures", "words"),
    [
        ({"experts": {"structures": 24, "kept": 12}}, "m: 12 of 24 experts removed, 4.0 s"),
        ({"heads": {"structures": 8, "kept": 4}}, "m: 25.00% of 1,000 weights removed, 4.0 s"),
    ],
)
def test_the_first_line_says_what_was_removed(structures, words):
    """Of experts the weights are no longer there to be counted."""
    summary = {
        "recipe": {"text": "r"},
        "model": {"name": "m"},
        "sparsity": {"overall": 0.25, "weights": 1000},
        "structures": structures,
        "perplexity": {},
        "final_block_error": {},
        "zero_shot": {},
        "seconds": 4.0,
        "peak_memory_mib": 1.0,
    }
    assert words in report(Path("out"), summary).text.splitlines()[0]

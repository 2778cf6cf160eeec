"""What pairs of masks have in common, in words."""

import pandas as pd
import pytest

from analysis.present import atlas

PAIRS = [("magnitude", "wanda"), ("magnitude", "dense"), ("wanda", "dense")]


def overlap(seeds, refitted):
    """Masks 0.18 apart, 0.2 from the dense matrix; refitted so far from each other, by seed, and 0.1 from it."""
    rows = []
    for seed in range(seeds):
        for mask, other in PAIRS:
            dense = other == "dense"
            apart = {"apart": 0.2 if dense else 0.18, "apart_refitted": 0.1 if dense else refitted[seed]}
            front = {"pattern": "50%", "seed": seed, "matrix": "block 0.q_proj", "mask": mask, "other": other}
            rows.append({**front, "shared": 0.6, **apart})
    return atlas.overlaps(pd.DataFrame(rows))


@pytest.mark.parametrize(
    "seeds, refitted, verdict",
    [
        (3, (0.04, 0.041, 0.042), "repair leaves masks closer to each other."),
        (3, (0.14, 0.141, 0.142), "repair leaves masks farther from each other."),
        (3, (0.02, 0.09, 0.3), "is undecided."),
        (1, (0.04,), "whether repair leaves masks closer to or farther from each other is undecided."),
    ],
)
def test_whether_repair_brings_masks_closer_is_said_where_a_test_decides_it(seeds, refitted, verdict):
    said = atlas.say_atlas(overlap(seeds, refitted))
    assert said.endswith(verdict) and "as far as before" not in said

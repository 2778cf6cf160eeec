"""What documents share: where they come from, and the openings that many of them have. No torch.

openings(["# Licensed under ...\nimport os", "# Licensed under ...\nimport sys", ...], 0.05)    # ["# Licensed ..."]
"""

import math
import os.path
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from analysis.text.sources import Edge, Source, source_fingerprint

SHORTEST = 16  # characters of an opening


def origins(source: Source, *, seed: int, model: str | None = None) -> list[dict]:
    """Where a source's documents come from, one record of plain values for each part of a mixture, as
    `windows.check_origins` compares them. `seed` makes the documents of the lab and of a model; `model` is its
    fingerprint. Raises as `source_fingerprint`.
    """
    records = []
    for part in [part for part, _ in source.parts] or [source]:
        content = source_fingerprint(replace(part, start=None, stop=None), model)
        made = f" by seed {seed}" if replace(part, stop=None).endless else ""
        edges = [_plain(edge) for edge in (part.start, part.stop)]
        records.append({"source": part.label, "content": content + made, "edges": edges})
    return records


def _plain(edge: Edge | None) -> int | float | None:
    return float(edge) if isinstance(edge, Fraction) else edge


def openings(texts: Sequence[str], share: float) -> list[str]:
    """The longest beginnings that at least this share of the documents, and three of them, have in common and go on
    from: licence headers, system prompts. Those of fewer than `SHORTEST` characters are left out.
    """
    ordered = sorted(texts)
    among = max(3, math.ceil(share * len(ordered)))
    pairs = zip(ordered, ordered[among - 1 :])
    common = {prefix for pair in pairs if len(prefix := os.path.commonprefix(pair)) >= SHORTEST and prefix not in pair}
    found = sorted(common)
    return [one for one, after in zip(found, [*found[1:], ""]) if not after.startswith(one)]

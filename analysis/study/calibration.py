"""The windows a run is calibrated on: those of its text, and those added to them. No torch of its own."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from analysis.errors import OverlapError

if TYPE_CHECKING:
    from analysis.windows import Windows


def draw(
    load: "Callable[[str, int], Windows]", calibration: str, samples: int, added: str | None, added_samples: int
) -> "Windows":
    """`samples` windows of the source `calibration`, and `added_samples` of the source `added` appended to them.

    load(source, samples): the first so many windows of a source, the same ones for the same arguments. Where both are
    one source, the added windows are those that follow the calibration windows.

    Raises OverlapError where an added window is a calibration window again.
    """
    if not added_samples:
        return load(calibration, samples)
    from analysis.windows import append

    if added == calibration:
        both = load(calibration, samples + added_samples)
        more = replace(both, ids=both.ids[samples:], mask=both.mask[samples:])
        own, more = (
            both.subset(samples),
            replace(more, provenance={**both.provenance, "samples": added_samples, "tokens": more.tokens}),
        )
    else:
        own, more = load(calibration, samples), load(added, added_samples)
    known = {row.tobytes() for row in own.ids.cpu().numpy()}
    if repeated := sum(row.tobytes() in known for row in more.ids.cpu().numpy()):
        raise OverlapError(
            f"added {added!r}: {repeated} of {added_samples} windows are calibration windows of {calibration!r} again;"
            " give each its own documents with slices, such as text.txt[:50%] and text.txt[50%:], or the one source"
            " under the same name"
        )
    return append(own, more)

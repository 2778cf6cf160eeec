"""What is thrown away of the text a model writes: loops, and what is not in the language wanted."""

from collections.abc import Sequence

import numpy as np

from analysis.errors import UsageError
from analysis.rules import suggest

LOOP, PERIOD = 64, 16  # tokens


def loops(ids: Sequence[int]) -> bool:
    """Whether a stretch of `LOOP` tokens repeats itself every `PERIOD` tokens or fewer."""
    ids = np.asarray(ids)
    for period in range(1, PERIOD + 1) if len(ids) >= LOOP else ():
        same = np.concatenate([[0], np.cumsum(ids[period:] == ids[:-period])])
        if (same[LOOP - period :] - same[: -(LOOP - period)] == LOOP - period).any():
            return True
    return False


def detected(text: str) -> str | None:
    """The language langdetect finds in a text, always the same one for the same text; None where it finds none."""
    from langdetect import DetectorFactory, LangDetectException, detect

    before, DetectorFactory.seed = DetectorFactory.seed, 0
    try:
        return detect(text)
    except LangDetectException:
        return None
    finally:
        DetectorFactory.seed = before


def check_language(language: str) -> None:
    """Raise UsageError for a language that langdetect does not know."""
    from langdetect import detector_factory

    detector_factory.init_factory()
    known = sorted(detector_factory._factory.get_lang_list())
    if language not in known:
        raise UsageError(
            f"self-generated text: language {language!r} is unknown to langdetect; {suggest(language, known)}"
        )

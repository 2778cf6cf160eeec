"""A random generator for every place of a run that draws numbers."""

import hashlib
import json

import torch


def generator(seed: int, *place: object) -> torch.Generator:
    """A CPU generator seeded by the sha256 of a run's `seed` and the `place` that draws, such as ("solve", 2, "mlp").

    Every place has a generator of its own, so what it draws does not depend on what was drawn before it: a resumed run
    draws the same numbers as an uninterrupted one. `place` must be JSON-ready.
    """
    digest = hashlib.sha256(json.dumps([seed, *place]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

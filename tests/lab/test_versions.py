"""The lab's text keeps its version: whoever changes what it writes raises the number and pins the new hash."""

import hashlib
import json
from dataclasses import astuple
from itertools import islice

import pytest

from analysis.lab import versions
from analysis.lab.documents import REGISTERS, SPLITS, documents
from analysis.lab.examples import EXAMPLES, examples
from analysis.lab.kinds import told
from analysis.lab.pictures import SETS, scenes, text
from analysis.lab.tasks import TASKS, task
from analysis.lab.written import WRITTEN, written

WRITERS = {"DOCUMENTS": (documents, REGISTERS), "TASKS": (task, TASKS), "EXAMPLES": (examples, EXAMPLES)}
WRITERS["PICTURES"] = (
    lambda name, **where: ((scene, *islice(text(scene, draw), 5)) for scene, draw in scenes(name, **where)),
    SETS,
)
WRITERS["WRITTEN"] = (written, WRITTEN)
WRITERS["WORD_KINDS"] = (lambda name, **where: ((words,) for _, words in told(name, **where)), REGISTERS)
PINNED = {
    "DOCUMENTS": (1, "28046b53ac3f9dcb"),
    "TASKS": (1, "733d5a18d5772c58"),
    "WRITTEN": (1, "774eb67de205d05a"),
    "EXAMPLES": (1, "3505a34fc2eaa500"),
    "WORD_KINDS": (1, "599d5409427e8b2e"),
    "PICTURES": (2, "8630eff3348f52fb"),
}


def first(kind: str, number: int = 40) -> str:
    """Hash of the first documents, items or examples of every name, split and of two seeds."""
    write, names = WRITERS[kind]
    written = [
        [one if isinstance(one, tuple) else astuple(one) for one in islice(write(name, split=split, seed=seed), number)]
        for name in sorted(names)
        for split in SPLITS
        for seed in (0, 1)
    ]
    return hashlib.sha256(json.dumps(written, default=str).encode()).hexdigest()[:16]


@pytest.mark.slow
@pytest.mark.parametrize("kind", PINNED)
def test_a_changed_text_raises_its_version(kind):
    version, digest = PINNED[kind]
    assert getattr(versions, kind) == version, f"versions.{kind} was raised: pin {first(kind)} beside it"
    assert first(kind) == digest, f"what the lab writes changed: raise versions.{kind} and pin {first(kind)} beside it"

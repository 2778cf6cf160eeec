"""A criterion from outside the package, in a module that workers can import."""

from analysis import Word, register_criterion

NAME = "backwards"


def backwards(weight, statistics, generator):
    """The smallest weights are kept."""
    return -weight.abs()


register_criterion(Word(NAME, "Backwards", "the smallest weights are kept", version="1"), backwards)

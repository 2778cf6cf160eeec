"""Experts that see few tokens: the rule by which their statistics are made.

An expert's matrix is starved where fewer real tokens went to its expert than it has inputs: its Gram matrix is then
certainly singular, and the norms of its inputs rest on a handful of tokens. Rules (`Recipe.starved`):

shrink      the tokens that are missing are the mean over all tokens, whether they go to the expert or not: the fewer it
            saw, the nearer its statistics are to those of all
all-tokens  those of all tokens, as if every token went there
magnitude   none: weights are scored by magnitude, and a closed form leaves them as they are
refuse      DataError, naming every one of them
"""

from collections.abc import Callable, Mapping, Sequence

from analysis.errors import DataError
from analysis.models.anatomy import Matrix
from analysis.streams.moments import Accumulator

SHOWN = 5


def is_starved(matrix: Matrix, tokens: int) -> bool:
    """Whether the expert of a matrix saw too few tokens; no matrix outside of experts is starved."""
    return matrix.expert is not None and tokens < matrix.columns


def fed(
    own: Mapping[str, Accumulator],
    matrices: Sequence[Matrix],
    rule: str,
    all_tokens: Callable[[list[Matrix]], Mapping[str, Accumulator]],
    block: str,
) -> dict[str, Accumulator]:
    """The sums of every matrix by name, those of starved experts made by the rule.

    own         sums over the tokens that went to each expert
    all_tokens  gives the sums of some matrices over all real tokens; called for starved ones alone, once
    block       for errors
    """
    few = [matrix for matrix in matrices if is_starved(matrix, own[matrix.name].tokens)]
    if not few or rule == "magnitude":
        return dict(own)
    if rule == "refuse":
        counts = [f"{matrix.name} {own[matrix.name].tokens} of {matrix.columns}" for matrix in few]
        more = f" and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
        raise DataError(
            f"{block}: {len(few)} matrices of experts see fewer calibration tokens than they have inputs:"
            f" {', '.join(counts[:SHOWN])}{more}; give more calibration text (of other kinds, where an expert sees"
            " none), or choose starved=shrink, all-tokens or magnitude"
        )
    every, sums = all_tokens(few), dict(own)
    for matrix in few:
        if rule == "all-tokens":
            sums[matrix.name] = every[matrix.name]
        else:
            sums[matrix.name].top_up(every[matrix.name], matrix.columns - own[matrix.name].tokens)
    return sums

"""How many experts of a block a pattern keeps. No torch."""

import math

from analysis.errors import UsageError
from analysis.recipe.parts import Pattern

SLACK = 0.01  # how far the share that whole experts can express may be from the share asked


def kept_experts(pattern: Pattern, count: int, chosen: int, groups: int = 1, chosen_groups: int = 1) -> int:
    """How many of a block's `count` experts stay.

    chosen: to how many of them a token goes. groups: of the router, which loses equally many in each; a token goes to
    experts of `chosen_groups` of them. Raises UsageError for a share that whole experts cannot express (it names those
    that can), and where fewer would stay than a token goes to.
    """
    assert pattern.sparsity is not None, "a pattern checks that experts take a share"
    asked = groups * math.floor(count / groups * pattern.sparsity + 0.5)
    least = max(
        chosen, math.ceil(chosen / chosen_groups) * groups if groups > 1 else 1, 2 * groups if groups > 1 else 1
    )
    possible = [gone for gone in range(0, count, groups) if count - gone >= least]
    shares = ", ".join(f"{100 * gone / count:.3g}%" for gone in possible[:32])
    among = f"{count} experts" + (f" in {groups} groups, each losing as many" if groups > 1 else "")
    if abs(asked / count - pattern.sparsity) > SLACK:
        raise UsageError(f"{pattern} cannot be taken out of {among}; possible are {shares}")
    if asked not in possible:
        raise UsageError(
            f"{pattern} would leave {count - asked} of {among}, and a token goes to {chosen}"
            + (f" in {chosen_groups} of the groups" if groups > 1 else "")
            + f": at least {least} must stay; possible are {shares}"
        )
    return count - asked

"""Claims on models that read pictures, which the figures of notebook 13 answer.

The measure is the loss on text beside held-out pictures, above the dense model's.
"""

from collections.abc import Sequence

from claims_drawn import Drawn, FigureClaim

HUANG = "2507.20749"
MODEL = "lab/vision"
WAYS = {"depth": ("blocks", "whole blocks"), "width": ("structures", "heads and neurons")}
LIGHT, HEAVY = ("12.5%", "25%"), ("50%", "62.5%")
NOTHING, CLOSED, LOCAL, PROJECTOR, TOKEN, STATES = (
    "nothing",
    "closed form",
    "local",
    "projector",
    "language",
    "states",
)
PAGE, RESULTS = "project page, key insight", "project page, results without recovery: mean of nine benchmarks"
TINY = "Eight blocks of 64 units and forty windows; the study's measure are benchmark scores."
ENOUGH = 10.0  # points within which training the projector alone counts as enough
ALL, TWENTIETH = 40, 2  # windows


def lost(d: Drawn, way: str, share: str, recovery: str, **more: object) -> float:
    """Nats per token above the dense model."""
    return d.at(way=way, pattern=f"{WAYS[way][0]}-{share}", recovery=recovery, **more)


def back(d: Drawn, way: str, share: str, recovery: str, **more: object) -> float:
    """Per cent of what is lost without recovery that a recovery gives back."""
    return less(lost(d, way, share, recovery, **more), lost(d, way, share, NOTHING, **more))


def less(one: float, other: float) -> float:
    """By how many per cent `one` lies below `other`."""
    return 100 * (1 - one / other)


def beside(d: Drawn, way: str, shares: Sequence[str], one: str, other: str) -> float:
    """The smallest of the per cents by which one recovery loses less than another."""
    return min(less(lost(d, way, share, one), lost(d, way, share, other)) for share in shares)


def ways_beside(d: Drawn, shares: Sequence[str], one: str, other: str, recovery: str) -> float:
    """The same of one way against the other, after the same recovery."""
    return min(less(lost(d, one, share, recovery), lost(d, other, share, recovery)) for share in shares)


CLAIMS = [
    *(
        FigureClaim(
            f"without recovery width loses less than depth, {share} of the block weights gone",
            HUANG,
            f"{RESULTS}, {evidence}",
            "% fewer nats lost",
            "13_recovery",
            {MODEL: lambda d, s=share: ways_beside(d, [s], "width", "depth", NOTHING)},
        )
        for share, evidence in (
            ("12.5%", "89 against 70 % kept (LLaVA), 90 against 86 % (Bunny) at 15 %"),
            ("25%", "77 against 67 % kept (LLaVA), 72 against 66 % (Bunny) at 30 %"),
        )
    ),
    *(
        FigureClaim(
            f"an eighth of the weights gone by {way}: the projector alone gives back as much as the language part"
            f" towards next token and hidden states, within {ENOUGH:g} points",
            HUANG,
            f"{PAGE} 3: fine-tuning the projector alone is sufficient up to 15 %",
            "points within",
            "13_recovery",
            {MODEL: lambda d, w=way: back(d, w, "12.5%", PROJECTOR) - back(d, w, "12.5%", STATES) + ENOUGH},
            TINY,
        )
        for way in WAYS
    ),
    *(
        FigureClaim(
            f"next token and hidden states are better than the next token alone, a quarter gone by {way}",
            HUANG,
            f"{PAGE} 4: best across all compression ratios",
            "% fewer nats lost",
            "13_recovery",
            {MODEL: lambda d, w=way: beside(d, w, ["25%"], STATES, TOKEN)},
        )
        for way in WAYS
    ),
    *(
        FigureClaim(
            f"with recovery (next token and hidden states) {better} is better {words}",
            HUANG,
            f"{PAGE} 2: depth up to 30 %, width from 45 %",
            "% fewer nats lost, the smallest",
            "13_recovery",
            {MODEL: lambda d, s=shares, b=better, o=other: ways_beside(d, s, b, o, STATES)},
            TINY,
        )
        for better, other, shares, words in (
            ("depth", "width", LIGHT, "up to a quarter of the weights"),
            ("width", "depth", HEAVY, "from half of the weights on"),
        )
    ),
    *(
        FigureClaim(
            f"a quarter gone by {way}: 5 % of the data reach 90 % of what all of them give back (next token and hidden"
            " states)",
            HUANG,
            f"{PAGE} 5: more than 90 % of full-data performance below 50 %",
            "points above 90 %",
            "13_data",
            {
                MODEL: lambda d, w=way: (
                    100 * back(d, w, "25%", STATES, samples=TWENTIETH) / back(d, w, "25%", STATES, samples=ALL) - 90
                )
            },
            "Two windows are also a fifth of the steps, and the study counts scores, most of which nothing has to give"
            " back.",
        )
        for way in WAYS
    ),
    *(
        FigureClaim(
            f"{said} better than the projector trained alone at every share: {words}",
            "ours",
            "not tested by the study",
            "% fewer nats lost, the smallest",
            "13_recovery",
            {MODEL: lambda d, w=way, one=word: beside(d, w, LIGHT + HEAVY, one, PROJECTOR)},
        )
        for word, said in ((CLOSED, "a repair in closed form is"), (LOCAL, "on equal tokens, blocks one by one are"))
        for way, (_, words) in WAYS.items()
    ),
    *(
        FigureClaim(
            f"on equal tokens, blocks one by one are better than the language part towards next token and hidden"
            f" states, {share} gone by {way}",
            "ours",
            "not tested by the study",
            "% fewer nats lost",
            "13_recovery",
            {MODEL: lambda d, w=way, s=share: beside(d, w, [s], LOCAL, STATES)},
        )
        for way in WAYS
        for share in ("12.5%", "50%")
    ),
]

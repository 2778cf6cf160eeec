"""Names nobody has used before: spelled by rule, from a seed."""

import random

MONTHS = [
    "Icemelt",
    "Lambing",
    "Sowing",
    "Blossom",
    "Haymaking",
    "Highsun",
    "Berrying",
    "Harvest",
    "Cider",
    "Leaffall",
    "Fogmonth",
    "Longnight",
]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

_ONSETS = [
    "b",
    "br",
    "c",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "sh",
    "st",
    "t",
    "th",
    "tr",
    "v",
    "w",
    "y",
    "z",
]
_MIDDLES = [
    "l",
    "ll",
    "m",
    "n",
    "nn",
    "r",
    "rr",
    "d",
    "v",
    "th",
    "ss",
    "t",
    "st",
    "nd",
    "rl",
    "lm",
    "br",
    "sk",
    "ld",
    "mm",
]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "ee", "o", "y"]
_ENDINGS = {
    "she": ["a", "ie", "elle", "ine", "eth", "ora", "ina", "ily", "ia", "ette", "essa", "wen", "iri"],
    "he": ["o", "an", "ick", "om", "ert", "ald", "un", "or", "en", "ob", "im", "ard", "ott", "ulf"],
}

_FAMILY_HEADS = [
    "Thistle",
    "Bramble",
    "Oak",
    "Ember",
    "Marsh",
    "Pepper",
    "Copper",
    "Hollow",
    "Winter",
    "Barley",
    "Candle",
    "Raven",
    "Kettle",
    "Button",
    "Cobble",
    "Ash",
    "Finch",
    "Thorn",
    "Otter",
    "Hazel",
    "Goose",
    "Tallow",
    "Linnet",
    "Mallow",
    "Pickle",
    "Quill",
    "Rook",
    "Sparrow",
    "Tinder",
    "Underhill",
    "Velvet",
    "Whistle",
    "Yarrow",
    "Badger",
    "Clover",
    "Dapple",
    "Elder",
    "Fiddle",
    "Gander",
    "Honey",
    "Juniper",
    "Lantern",
    "Mutton",
    "Nettle",
    "Plum",
    "Ramble",
    "Saddle",
    "Turnip",
]
_FAMILY_TAILS = [
    "wick",
    "by",
    "worth",
    "man",
    "well",
    "ley",
    "combe",
    "wright",
    "shaw",
    "low",
    "ton",
    "croft",
    "ridge",
    "water",
    "smith",
    "more",
    "field",
    "stone",
    "bottom",
    "good",
    "feather",
    "foot",
    "berry",
    "cap",
]
_TOWN_HEADS = [
    "Kel",
    "Mor",
    "Dun",
    "Bril",
    "Wex",
    "Hal",
    "Tarn",
    "Elm",
    "Pen",
    "Scar",
    "Gull",
    "Ling",
    "Ott",
    "Fern",
    "Bar",
    "Cray",
    "Dor",
    "Eld",
    "Fal",
    "Grim",
    "Holm",
    "Ivel",
    "Jar",
    "Lod",
    "Mar",
    "Nor",
    "Ox",
    "Pol",
    "Quar",
    "Rush",
    "Stav",
    "Thorpe",
    "Ull",
    "Ves",
    "Wend",
    "Yar",
    "Amble",
    "Birch",
    "Corm",
    "Dray",
]
_TOWN_TAILS = [
    "ford",
    "bridge",
    "mouth",
    "stead",
    "ham",
    "wick",
    "dale",
    "haven",
    "gate",
    "moor",
    "port",
    "holt",
    "minster",
    "thwaite",
    "combe",
    "sea",
    "field",
    "cross",
    "pool",
]


def given_names(rng: random.Random, gender: str, number: int, taken: set[str]) -> list[str]:
    """`number` new first names for `she` or `he`; adds them to `taken`. None ends in s, so `'s` is always right."""
    names: list[str] = []
    while len(names) < number:
        name = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_MIDDLES)
        if rng.random() < 0.35:
            name += rng.choice("aeio") + rng.choice("lmnrvd")
        name = (name + rng.choice(_ENDINGS[gender])).capitalize()
        if name not in taken and len(name) <= 9:
            taken.add(name)
            names.append(name)
    return names


def family_names(rng: random.Random, number: int) -> list[str]:
    """`number` different surnames."""
    return _compounds(rng, _FAMILY_HEADS, _FAMILY_TAILS, number)


def town_names(rng: random.Random, number: int) -> list[str]:
    """`number` different names of towns."""
    return _compounds(rng, _TOWN_HEADS, _TOWN_TAILS, number)


def _compounds(rng: random.Random, heads: list[str], tails: list[str], number: int) -> list[str]:
    every = sorted({head + tail for head in heads for tail in tails if head[-1] != tail[0]})
    return rng.sample(every, number)

"""In which numbers a model is computed: those asked for, the checkpoint's own ("auto"), or, where nothing is asked,
float32, and the checkpoint's own for models of over a billion parameters. Loads no torch.
"""

from collections.abc import Mapping
from pathlib import Path

from analysis.errors import ModelError, UsageError
from analysis.models.hub import fetch, find, parameters_on_hub, tensors
from analysis.models.unpack import packed_files, unpacked

DTYPES = ("float32", "bfloat16", "float16")
ASKED = ("auto", *DTYPES)
LARGE = 10**9
"""Parameters above which a model is computed in its checkpoint's own dtype where nothing else is asked."""
_OWN = {"F32": "float32", "F64": "float32", "BF16": "bfloat16", "F16": "float16"}  # by safetensors' word


def dtype_word(dtype: object) -> str:
    """ "float32" of torch.float32."""
    return str(dtype).removeprefix("torch.")


def check_dtype(asked: object) -> None:
    """Raise UsageError for a dtype that is none of `ASKED`, nor None."""
    if asked is not None and (not isinstance(asked, str) or asked not in ASKED):
        raise UsageError(f"dtype {asked!r}: unknown; possible are {', '.join(ASKED)}")


def stored_parameters(folder: Path, name: str) -> dict[str, int]:
    """Parameters of the weight files in a model folder by safetensors' word for their dtype, from headers alone."""
    sizes: dict[str, int] = {}
    for dtype, shape in tensors(folder, name).values():
        count = 1
        for size in shape:
            count *= size
        sizes[dtype] = sizes.get(dtype, 0) + count
    return sizes


def choose_dtype(sizes: Mapping[str, int], asked: str | None) -> str:
    """One of `DTYPES`, for parameters by stored dtype: what is asked, or the dtype that most of them have."""
    if asked in DTYPES:
        return str(asked)
    if asked is None and sum(sizes.values()) <= LARGE:
        return "float32"
    plain = {dtype: count for dtype, count in sizes.items() if dtype in _OWN}
    return _OWN[max(plain, key=lambda dtype: plain[dtype])] if plain else "float32"


def told_dtype(name: str, sizes: Mapping[str, int], asked: str | None, placement: str = "resident") -> str:
    """One line to be said before a model is loaded in a dtype that nobody named: which, how large, how much memory; ""
    for one that was named, and for float32 where nothing was.
    """
    chosen, count = choose_dtype(sizes, asked), sum(sizes.values())
    if asked in DTYPES or (asked is None and chosen == "float32"):
        return ""
    size = count * (4 if chosen == "float32" else 2) / 2**30
    large = "" if asked else f", the default above {LARGE / 1e9:g} billion (--dtype, dtype=, names another)"
    held = "twice that while it is pruned" if placement == "resident" else "read block by block"
    return (
        f"model {name!r}: {count / 1e6:,.1f} million parameters in {chosen}, the checkpoint's own dtype{large};"
        f" {size:,.2f} GiB, {held}"
    )


def resolved_dtype(name: str, asked: str | None) -> str:
    """The dtype that `load_model(name, dtype=asked)` computes in, without loading, and without downloading a model of
    the hub where the hub knows what it holds; float32 for one that cannot be had, which loading then says.
    """
    check_dtype(asked)
    if asked in DTYPES:
        return str(asked)
    try:
        place = find(name).folder
        if place is None:
            sizes = parameters_on_hub(name)
            return choose_dtype(stored_parameters(fetch(name)[0], name) if sizes is None else sizes, asked)
        if packed := packed_files(place, name):
            few = asked is None and sum(path.stat().st_size for path in packed) <= 2 * LARGE  # whatever their dtype
            if few or packed[0].suffix.lower() == ".gguf":  # which is dequantised to float32
                return "float32"
        return choose_dtype(stored_parameters(unpacked(place, name), name), asked)
    except ModelError:
        return "float32"

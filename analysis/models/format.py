"""How a model is written: the numbers its weights are stored in, and the files of the original that go with it.

What is computed in float32 is stored in the checkpoint's own dtype, tensor by tensor, so that a pruned folder is as
large as the one it came from and what was not touched comes back to the bit. Zeros stay zeros in every dtype.
"""

import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from analysis.errors import ModelError, NumericalError, UsageError
from analysis.models.dtypes import ASKED, dtype_word
from analysis.models.hub import POOLING, SIDE_FILES, weight_files
from analysis.models.placement import places_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STORED_DTYPES = ASKED
LARGEST_SIDE_FILE = 2**25
_HEADER_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NEVER = (".py", ".pyc", ".so", ".sh", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".safetensors", ".gguf")
_CODE = ("auto_map", "custom_pipelines")


@dataclass(frozen=True)
class Format:
    """How one model is written.

    computed  the dtype that it has in memory
    stored    the dtype that its folder states, and that tensors have which `own` does not name
    own       tensors whose dtype in the checkpoint is another, by their name in the model
    beside    files of the original folder that are copied where the saved one lacks them
    pooling   its file that says how hidden states are pooled, copied too; None where it has none
    """

    computed: torch.dtype
    stored: torch.dtype
    own: Mapping[str, torch.dtype] = field(default_factory=dict)
    beside: tuple[Path, ...] = ()
    pooling: Path | None = None

    def cast(self, name: str, value: Tensor) -> Tensor:
        """A tensor of the model as it is written. Raises NumericalError where a finite weight is not finite there."""
        dtype = self.own.get(name, self.stored)
        if not value.is_floating_point() or value.dtype == dtype:
            return value
        written = value.to(dtype)
        if not bool(written.isfinite().all()) and bool(value.isfinite().all()):
            raise NumericalError(
                f"saving {name}: a weight of {float(value.abs().max()):.4g} is beyond what {dtype_word(dtype)} holds"
                f" (at most {torch.finfo(dtype).max:.5g}); save in {dtype_word(value.dtype)} or bfloat16 (--save-dtype)"
            )
        return written

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The state dict as it is written."""
        return self.cast_all(model.state_dict())

    def cast_all(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the model by name, in place, as they are written; those that share memory share it here."""
        written: dict[tuple, Tensor] = {}
        for name, value in state.items():
            place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
            if not value.numel() or place not in written:
                written[place] = self.cast(name, value)
            state[name] = written[place]
        return state

    def finish(self, folder: Path) -> None:
        """Make a folder just written what the original was to its users: side files copied, the stored dtype stated, no
        mention of Python files that are not there.
        """
        for path in self.beside:
            if not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
        if self.pooling is not None:
            (folder / POOLING).parent.mkdir(exist_ok=True)
            shutil.copyfile(self.pooling, folder / POOLING)
        for path in folder.glob("*config*.json"):
            content = json.loads(path.read_text(encoding="utf-8"))
            told = {key: value for key, value in content.items() if key not in _CODE}
            if path.name == "config.json":
                told = _with_dtype(told, dtype_word(self.stored)) | {"dtype": dtype_word(self.stored)}
            if told != content:
                path.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def provenance(self) -> dict:
        """What a summary says of it, JSON-ready."""
        return {
            "computed in": dtype_word(self.computed),
            "stored in": dtype_word(self.stored),
            "carried over": sorted([*(path.name for path in self.beside), *[POOLING] * (self.pooling is not None)]),
        }


def format_of(model: nn.Module, source: Path | None = None, dtype: str = "auto") -> Format:
    """How a model that came from the folder `source` is written (None: from nowhere, so as it is in memory).

    dtype: one of `STORED_DTYPES`. "auto" is the checkpoint's own, tensor by tensor, but nothing wider than it was
    computed in; any other is that of every weight. Raises UsageError for an unknown dtype.
    """
    if dtype not in STORED_DTYPES:
        raise UsageError(f"save dtype {dtype!r}: unknown; possible are {', '.join(STORED_DTYPES)}")
    computed = next(model.parameters()).dtype
    beside = () if source is None else tuple(side_files(source))
    pooling = source / POOLING if source is not None and (source / POOLING).is_file() else None
    if dtype != "auto":
        return Format(computed, getattr(torch, dtype), {}, beside, pooling)
    dtypes = {} if source is None else _stored_dtypes(source)
    sizes: Counter[torch.dtype] = Counter()
    for stored, size in dtypes.values():
        sizes[stored] += size
    narrow = {
        name: stored if stored.itemsize <= computed.itemsize else computed for name, (stored, _) in dtypes.items()
    }
    main = max(sizes, key=lambda stored: sizes[stored]) if sizes else computed
    main = main if main.itemsize <= computed.itemsize else computed
    own = {name: stored for name, stored in narrow.items() if stored != main}
    places = places_of(cast("PreTrainedModel", model), own) if own else {}
    own = {places[name][0] if name in places else name: stored for name, stored in own.items()}
    return Format(computed, main, own, beside, pooling)


def side_files(folder: Path) -> list[Path]:
    """The small files of a model folder that its users need beside config and weights: processors, chat templates,
    tokenizer sources, licences and notices. Never weights, code, or the original's own card (README.md), which speaks
    of another model.
    """
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and any(fnmatch(path.name.lower(), pattern.lower()) for pattern in SIDE_FILES)
        and path.suffix not in _NEVER
        and path.stat().st_size <= LARGEST_SIDE_FILE
    ]


def _stored_dtypes(folder: Path) -> dict[str, tuple[torch.dtype, int]]:
    """dtype and number of elements of every floating tensor in a folder's weight files, from their headers."""
    from safetensors import safe_open

    found: dict[str, tuple[torch.dtype, int]] = {}
    try:
        files = weight_files(folder, str(folder))
    except ModelError:  # no safetensors: nothing is known
        return found
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():
                part = file.get_slice(name)
                if part.get_dtype() in _HEADER_DTYPES:
                    found[name] = _HEADER_DTYPES[part.get_dtype()], math.prod(part.get_shape())
    return found


def _with_dtype(config: dict, dtype: str) -> dict:
    """A config whose parts state this dtype wherever they state one."""
    return {
        key: _with_dtype(value, dtype)
        if isinstance(value, dict)
        else dtype
        if key in ("dtype", "torch_dtype") and isinstance(value, str)
        else value
        for key, value in config.items()
    }

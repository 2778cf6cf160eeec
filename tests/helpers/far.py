"""A pretend accelerator: tensors that say they live on the device `far` and compute on the CPU.

As on a GPU, an operation on tensors of two devices is an error, but for indices and for numbers (tensors without
dimensions) of the CPU, and `numpy()` needs `.cpu()` first. Results are the CPU's bit for bit, so whatever differs, or
raises, has forgotten where its tensors are. There are no streams, no figures of memory and no other rounding.

    process = subprocess.run([sys.executable, "-m", "tests.helpers.far", ...])

`far` must be known before anything computes, and tensors of wrapped storage have no version counter for
`torch.inference_mode`: `begin` replaces that by `no_grad`, so it takes a process of its own.
"""

from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "far"
ACROSS = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}  # may take tensors of two devices


class Nothing(nullcontext, ContextDecorator):
    """What changes nothing, as a context or around a function."""


class _Backend:
    """What torch asks of the module of a device."""

    is_available = is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)
    get_rng_state = staticmethod(lambda device=0: torch.get_rng_state())  # the CPU draws for it
    set_rng_state = staticmethod(lambda state, device=0: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.float16, torch.bfloat16])


class Far(Tensor):
    """A tensor of the device, around the tensor of the CPU that holds its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Far":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=f"{NAME}:0",
        )
        tensor.held = held
        return tensor

    def __init__(self, held: Tensor):
        pass

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Far({self.held!r})"

    def __deepcopy__(self, memo: dict) -> Tensor:
        copy: Tensor = Far(self.held.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, requires_grad=self.requires_grad)
        memo[id(self)] = copy
        return copy

    def __tensor_flatten__(self):
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return Far(inner["held"])

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, other: Tensor) -> None:
        torch.Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.held = other.held  # type: ignore[attr-defined]

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self):
        return self.held.untyped_storage()

    def tolist(self):
        return self.held.tolist()

    def numpy(self, **_):
        raise TypeError(f"can't convert a {NAME} tensor to numpy; use .cpu() first")

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _compute(operation, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _compute(operation, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Tensors of Python numbers, which torch makes below the operations."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        place = kwargs.get("device")
        if function in (torch.tensor, torch.as_tensor) and place is not None:
            return function(*args, **kwargs | {"device": "cpu"}).to(place)
        return function(*args, **kwargs)


@contextmanager
def device() -> Iterator[None]:
    """Inside, tensors can be made on and moved to the device; backward passes stay on the thread that knows it."""
    with _Literals(), _Operations(), torch.autograd.set_multithreading_enabled(False):
        yield


def begin() -> None:
    """Make the device known to torch, once a process and before the code under test is imported."""
    _setup_privateuseone_for_python_backend(NAME, _Backend())
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else Nothing()


def _compute(operation: Any, args: tuple, kwargs: dict) -> Any:
    """The operation on the numbers behind the tensors; its results are where its tensors are, or where it is told."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, Far)]
    near = [tensor for tensor in tensors if not isinstance(tensor, Far) and tensor.dim()]
    asked = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    to_far = bool(far) if asked is None else asked.type == NAME
    if operation not in ACROSS and near and (far or to_far) and not _only_indices(operation, args):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu"
            f" ({operation}, cpu {[tuple(tensor.shape) for tensor in near]})"
        )
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    inner, named = tree_map(lambda leaf: leaf.held if isinstance(leaf, Far) else leaf, (args, kwargs))
    out = operation(*inner, **named)
    if operation is torch.ops.aten.copy_.default:
        return args[0]
    if operation is torch.ops.aten._to_copy.default and out is inner[0]:
        out = out.clone()
    if not to_far:
        return out
    wrapped = tree_map(lambda leaf: Far(leaf) if isinstance(leaf, Tensor) and not isinstance(leaf, Far) else leaf, out)
    return return_and_correct_aliasing(operation, args, kwargs, wrapped) if far else wrapped


def _only_indices(operation: Any, args: tuple) -> bool:
    """Whether the tensors of the CPU are indices into a tensor of the device, which a GPU takes too."""
    return (
        "index" in str(operation)
        and isinstance(args[0], Far)
        and not any(isinstance(leaf, Far) for leaf in tree_leaves(args[1:2]))
    )

"""A pretended accelerator: tensors of a device of their own that the CPU computes.

Code that works on it works on a GPU as far as devices go: it mixes no tensors of two devices, and
every time that the host reads a value, where a GPU would have to be waited for, is recorded.

    with PretendedAccelerator() as accelerator:
        state = TrainState(config, accelerator.device)
        ...
        print(*accelerator.reads)     # item read at resgan.py:41 in loss

FakeTensorMode is no substitute: it computes no values, and a build of torch for the CPU has no
generators for a device that it lacks.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from aigc.testing.place import Place, caller

DEVICE = torch.device("privateuseone", 0)
"""torch's name for a device that no backend of its own computes."""
_PRETENDED = (DEVICE.type, "meta")
"""Types of device that stand for it: inside torch a tensor without memory is one of `meta`."""

aten = torch.ops.aten
_TRANSFERS = (aten._to_copy.default, aten.copy_.default)
_SIZED_BY_VALUES = (
    aten.nonzero.default,
    aten.masked_select.default,
    aten.unique_consecutive.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.repeat_interleave.Tensor,
)
_PACKED = (
    aten._pack_padded_sequence_backward.default,
    aten._pack_padded_sequence.default,
    aten._pad_packed_sequence.default,
)
"""Operations of packed sequences: lengths and sizes of batches are on the CPU, on GPUs too."""
_INDEXED = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default)
_FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor)


class MixedDevicesError(RuntimeError):
    """An operation got tensors of two devices; on a GPU it would fail."""


@dataclass(frozen=True)
class HostRead:
    """The host's reading of a value: on a GPU it waits until everything before it is computed."""

    kind: str
    """item: a number, which an `if` and a bool() take as well; copy: a tensor, as cpu() and
    tolist() do; size: an operation whose result's size depends on values, such as a boolean
    mask."""
    place: Place

    def __str__(self) -> str:
        return f"{self.kind} read at {self.place}"


_DATA: Any = Tensor.data
"""torch's own attribute, which knows nothing of the memory behind a tensor."""


class PretendedTensor(Tensor):
    """A tensor of the pretended accelerator. Its memory is the CPU's: `memory`."""

    memory: Tensor

    def __new__(cls, memory: Tensor) -> Self:
        make: Any = Tensor._make_wrapper_subclass
        made: Self = make(
            cls,
            memory.shape,
            strides=memory.stride(),
            storage_offset=memory.storage_offset(),
            dtype=memory.dtype,
            layout=memory.layout,
            device="meta",
        )
        made.memory = memory
        return made

    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _compute(func, args, kwargs or {}, [])

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    @property
    def data(self) -> Tensor:
        return _DATA.__get__(self)  # type: ignore[no-any-return]

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, PretendedTensor):
            raise MixedDevicesError("the data of a tensor on the accelerator cannot be on the CPU")
        _DATA.__set__(self, value)
        self.memory = value.memory

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            "a tensor on the accelerator is no numpy array; copy it to the CPU with cpu() first"
        )

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.memory!r} on the pretended accelerator"


class PretendedAccelerator:
    """Context in which tensors can be made on, and moved to, the device `device`.

    Raises MixedDevicesError where an operation gets a tensor of the accelerator together with one
    of the CPU that has more than no dimensions. Not reentrant; for one thread.
    """

    device = DEVICE

    def __init__(self) -> None:
        self.reads: list[HostRead] = []
        """Everything that the host has read so far."""
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            module, generator = _BackendModule(f"torch.{DEVICE.type}"), torch.Generator
            register: Any = torch._register_device_module
            register(DEVICE.type, module)
            stack.callback(delattr, torch, DEVICE.type)
            stack.callback(sys.modules.pop, module.__name__, None)
            stack.callback(setattr, torch, "Generator", generator)
            torch.Generator = _Generator  # type: ignore[assignment, misc]
            stack.enter_context(_Kernels(self.reads))
            stack.enter_context(_Functions())
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)


class _BackendModule(ModuleType):
    """Functions that torch calls before it makes tensors on a device."""

    @staticmethod
    def _lazy_init() -> None:
        pass

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """Do nothing: values are drawn from the CPU's default generator."""


_CPUGenerator = torch.Generator
_DEVICE_OF: Any = torch.Generator.device


class _Generator(_CPUGenerator):
    """A generator on any device; that of the accelerator is the CPU's own."""

    pretended: bool

    def __new__(cls, device: torch.device | str = "cpu") -> Self:
        wanted = torch.device(device)
        pretended = wanted.type in _PRETENDED
        make: Any = _CPUGenerator.__new__
        made: Self = make(cls, torch.device("cpu") if pretended else wanted)
        made.pretended = pretended
        return made

    def __init__(self, device: torch.device | str = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE if self.pretended else _DEVICE_OF.__get__(self)


class _Functions(TorchFunctionMode):
    """Calls before their operations are dispatched: numbers to tensors, generators."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func in _FROM_NUMBERS and device is not None and _pretended(device):
            if func in (torch.as_tensor, torch.asarray) and isinstance(args[0], Tensor):
                return args[0].to(device, kwargs.get("dtype"))
            return func(*args, **{**kwargs, "device": "cpu"}).to(device)
        if func is Tensor.new_tensor and isinstance(args[0], PretendedTensor):
            like, number = args
            made = torch.tensor(number, dtype=kwargs.get("dtype") or like.dtype)
            return made.to(device or DEVICE)
        result = func(*args, **kwargs)
        generator = kwargs.get("generator")
        if generator is not None and isinstance(result, Tensor):
            theirs = isinstance(generator, _Generator) and generator.pretended
            if theirs != isinstance(result, PretendedTensor):
                raise MixedDevicesError(
                    f"{func.__name__}() of a tensor on {_place_of(result)} got a generator of"
                    f" {'the accelerator' if theirs else 'the CPU'}; make it by"
                    " torch.Generator(device)"
                )
        return result


class _Kernels(TorchDispatchMode):
    """Computes all operations that meet the accelerator."""

    def __init__(self, reads: list[HostRead]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {}, self._reads)


def _compute(func: Any, args: Any, kwargs: dict[str, Any], reads: list[HostRead]) -> Any:
    """Compute an operation on the CPU's memory of its arguments."""
    tensors = list(_tensors((args, kwargs)))
    ours = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
    target = kwargs.get("device")
    if not ours and not (target is not None and _pretended(target)):
        return func(*args, **kwargs)
    theirs = [t for t in tensors if t.dim() and not isinstance(t, PretendedTensor)]
    if ours and theirs and func not in _TRANSFERS and func not in _PACKED:
        raise MixedDevicesError(
            f"{func.overloadpacket.__name__} got a tensor of shape {tuple(theirs[0].shape)} on the"
            f" CPU and one of shape {tuple(ours[0].shape)} on the accelerator"
        )
    to_host = target is not None and not _pretended(target)
    kind = _read(func, args, to_host)
    if kind and ours:
        reads.append(HostRead(kind, caller()))
    owners = {id(tensor.memory): tensor for tensor in ours}
    inner_args, inner_kwargs = _map(_inner, (args, kwargs))
    if target is not None:
        inner_kwargs["device"] = torch.device("cpu")
    result = func(*inner_args, **inner_kwargs)
    if func in _PACKED[1:]:
        return PretendedTensor(result[0]), result[1]

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in owners:
            return _resized(owners[id(value)])
        to_cpu = to_host or any(value is tensor for tensor in tensors)
        return value if to_cpu else PretendedTensor(value)

    return _map(wrap, result)


def _read(func: Any, args: Any, to_host: bool) -> str:
    """Kind of read that an operation is; empty for none."""
    if func in (aten._local_scalar_dense.default, aten.equal.default):
        return "item"
    if to_host or (func is aten.copy_.default and not isinstance(args[0], PretendedTensor)):
        return "copy"
    masked = func in _INDEXED and any(
        t.dtype in (torch.bool, torch.uint8) for t in _tensors(args[1])
    )
    return "size" if masked or func in _SIZED_BY_VALUES else ""


def _resized(tensor: PretendedTensor) -> PretendedTensor:
    """A tensor that an operation changed in place, which may have another shape now."""
    if tensor.shape != tensor.memory.shape or tensor.stride() != tensor.memory.stride():
        with torch.no_grad():
            _DATA.__set__(tensor, PretendedTensor(tensor.memory))
    return tensor


def _pretended(device: Any) -> bool:
    return torch.device(device).type in _PRETENDED


def _place_of(tensor: Tensor) -> str:
    return "the accelerator" if isinstance(tensor, PretendedTensor) else "the CPU"


def _inner(value: Any) -> Any:
    return value.memory if isinstance(value, PretendedTensor) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    """`change` applied to the leaves of nested lists, tuples and dicts."""
    if isinstance(value, list | tuple):
        return type(value)([_map(change, item) for item in value])
    if isinstance(value, dict):
        return {key: _map(change, item) for key, item in value.items()}
    return change(value)

"""Arrays that the CUDA backend takes: those of its device as they are, others by way of NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.backends.cuda.device import Device
from graphc.backends.cuda.faults import waiting
from graphc.errors import InputError
from graphc.ir.storage import admit
from graphc.ir.tensor_type import DType, TensorType

ON_DEVICE = ("__cuda_array_interface__", "__dlpack_device__")  # what arrays of devices have


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """A C-contiguous array that lies on the device; `keep` is the caller's object."""

    address: int
    shape: tuple[int, ...]
    dtype: DType
    keep: Any

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __getitem__(self, i: int) -> DeviceArray:
        """The slice at index i of the leading axis."""
        part = DeviceArray(0, self.shape[1:], self.dtype, self.keep)
        return DeviceArray(self.address + i * part.nbytes, part.shape, self.dtype, self.keep)


def admit_on(device: Device, value: Any, what: str, wanted: TensorType) -> Any:
    """An array of the device as it is, anything else as a NumPy array to be uploaded; of the wanted
    dtype, of whatever shape. InputError, naming `what`, as on the host: arrays of the device are
    not cast."""
    found = device.admit(value)
    if found is None:
        if not isinstance(value, np.ndarray) and any(hasattr(value, name) for name in ON_DEVICE):
            return _from_elsewhere(device, value, what, wanted)
        return admit(value, what, wanted)
    array = DeviceArray(*found)
    if array.dtype != wanted.dtype:
        raise InputError(
            f"{what} has dtype {array.dtype}; need {wanted}: cast it yourself with "
            f".astype({wanted.dtype.name!r})"
        )
    return array


def _from_elsewhere(device: Device, value: Any, what: str, wanted: TensorType) -> np.ndarray:
    """An array of another library that is not on the device as a program wants it."""
    try:
        return admit(np.asarray(value), what, wanted)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{what} is a {type(value).__name__} that is not a C-contiguous array on "
            f"{device.name}; need {wanted}: move it there, and make it contiguous"
        ) from None


def fetch_from(device: Device, value: Any) -> np.ndarray:
    """An admitted array or a result as a NumPy array."""
    if isinstance(value, np.ndarray):
        return value
    with device.active():
        if not isinstance(value, DeviceArray):
            found = device.admit(value)
            assert found is not None
            value = DeviceArray(*found)
        array = np.empty(value.shape, value.dtype)
        if array.nbytes:
            with waiting(device):
                device.download(array, value.address)
        return array

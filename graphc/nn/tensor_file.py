"""Named arrays and a text in a safetensors file, written whole or not at all.

The header carries a checksum of everything in the file, so that a flipped bit is found; files that
others wrote have none and are read, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import graphc as gx

CHECKSUM = "graphc.sha256"
RUN = "graphc.run"  # the text of a file that holds a run, whose parameters have a prefix
PARAMETER = "parameter"
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
          "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
          "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool"}  # fmt: skip
Tensors = dict[str, np.ndarray]


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]
) -> None:
    """Write the file: to a temporary one beside it, to the disk, then under its name in one step.

    Whatever happens meanwhile, the name stands for the old file or for the new one.
    """
    from safetensors.numpy import save

    whole = {name: np.ascontiguousarray(t).reshape(t.shape) for name, t in tensors.items()}
    checked = {**texts, CHECKSUM: _checksum(whole, texts)}
    write_bytes(Path(path), save(whole, metadata=checked))


def read_tensors(path: str | os.PathLike[str]) -> tuple[Tensors, dict[str, str]]:
    """The arrays and the texts; CheckpointError for what is not such a file, or not whole."""
    import safetensors

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise gx.CheckpointError(f"{os.fspath(path)} cannot be read: {error}") from None
    try:
        rows = safetensors.deserialize(data)
        tensors = {name: _array(row) for name, row in rows}
        start = int.from_bytes(data[:8], "little")
        texts = dict(json.loads(data[8 : 8 + start]).get("__metadata__") or {})
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise gx.CheckpointError(
            f"{os.fspath(path)} is no safetensors file, or a damaged one: {error}"
        ) from None
    checksum = texts.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(tensors, texts):
        raise gx.CheckpointError(f"{os.fspath(path)} is damaged: its checksum does not fit")
    return tensors, texts


def read_parameters(path: str | os.PathLike[str]) -> Tensors:
    """The arrays of a file of parameters, or those of the parameters in a file of a run."""
    tensors, texts = read_tensors(path)
    return under(PARAMETER, tensors) if RUN in texts else tensors


def prefixed(part: str, tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Arrays as a file of a run holds those of one part of it."""
    return {f"{part}/{name}": value for name, value in tensors.items()}


def under(part: str, tensors: Mapping[str, np.ndarray]) -> Tensors:
    """The arrays of one part of a run, by their own names."""
    return {k.removeprefix(f"{part}/"): v for k, v in tensors.items() if k.startswith(f"{part}/")}


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file through a temporary one in the same folder: fsync, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise gx.CheckpointError(f"{path} cannot be written: {error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """The new name reaches the disk, too, where folders can be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _array(row: Any) -> np.ndarray:
    if row["dtype"] not in DTYPES:  # one that NumPy has not: its bytes, which fit no parameter
        return np.frombuffer(row["data"], "V1")
    return np.frombuffer(row["data"], np.dtype(DTYPES[row["dtype"]])).reshape(row["shape"])


def _checksum(tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    found = hashlib.sha256(json.dumps(sorted(texts.items())).encode())
    for name in sorted(tensors):
        array = tensors[name]
        found.update(f"{name} {array.dtype.name} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()

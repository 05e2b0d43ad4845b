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
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
          "I64": "int64", "I32": "int32", "BOOL": "bool"}  # fmt: skip
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
    dtype = gx.const(0, DTYPES[row["dtype"]]).dtype
    return np.frombuffer(row["data"], dtype).reshape(row["shape"])


def _checksum(tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    found = hashlib.sha256(json.dumps(sorted(texts.items())).encode())
    for name in sorted(tensors):
        array = tensors[name]
        found.update(f"{name} {array.dtype.name} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()

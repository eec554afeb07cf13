"""Turns numpy's arrays, which Triton's client takes and gives, into the agent's tensors and back.

Decides nothing. Runs where the client does, and knows no connection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from waypost_agent.ports import Tensor

# BF16 has no type in numpy: the client gives it as FP32.
_TYPES: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}


def array_of(tensor: Tensor) -> npt.NDArray[Any]:
    return np.array(tensor.values, dtype=_TYPES[tensor.datatype]).reshape(tensor.shape)


def tensor_of(name: str, array: npt.NDArray[Any]) -> Tensor:
    return Tensor(
        name=name,
        datatype=_NAMES[array.dtype],
        shape=tuple(array.shape),
        values=tuple(array.reshape(-1).tolist()),
    )

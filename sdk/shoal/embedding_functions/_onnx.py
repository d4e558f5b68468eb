"""Write an ONNX model: as little of it as a transformer needs.

The `onnx` package would do this, and everything else that has to do with ONNX; for the few messages
here (``onnx/onnx.proto``: ModelProto and what is below it) protobuf's encoding is written by hand.
Weights stay out of the model, which would copy them several times: it names them, and the session
is given them beside it (`SessionOptions.add_external_initializers`).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["OPSET", "Graph"]

OPSET: Final = 17
"""The first with LayerNormalization; every onnxruntime since 1.12 reads it."""

_IR_VERSION: Final = 8  # The one of opset 17.

_ELEMENT_TYPES: Final = {np.dtype(np.float32): 1, np.dtype(np.int64): 7}

_VARINT, _BYTES, _FLOAT32 = 0, 2, 5  # Protobuf's wire types.

_MAX_INLINE_BYTES: Final = 64
"""Shapes, axes and factors are part of the model: onnxruntime reads them to plan."""

_EXTERNAL: Final = 1  # TensorProto.DataLocation


class Graph:
    """A graph under construction. Values are named by strings, as in ONNX itself.

    Attributes:
        weights: The arrays that are not in the model, by name.
    """

    def __init__(self) -> None:
        self.weights: dict[str, npt.NDArray[Any]] = {}
        self._nodes: list[bytes] = []
        self._initializers: list[bytes] = []
        self._names = 0

    def constant(self, array: npt.NDArray[Any]) -> str:
        """Put in an array of float32 or int64, in C order, and name it."""
        name = self._new_name()
        if array.nbytes <= _MAX_INLINE_BYTES:
            data = _bytes(9, array.tobytes())
        else:
            self.weights[name] = array
            # There is no such file: the session gets the array under the tensor's name.
            place = _bytes(1, b"location") + _bytes(2, b"weights")
            data = _bytes(13, place) + _int(14, _EXTERNAL)
        sizes = b"".join(_int(1, size) for size in array.shape)
        kind = _int(2, _ELEMENT_TYPES[array.dtype])
        self._initializers.append(sizes + kind + _bytes(8, name.encode()) + data)
        return name

    def node(
        self, operator: str, *inputs: str, output: str | None = None, **attributes: Any
    ) -> str:
        """Put in an operator, and name its output.

        Args:
            operator: Of ONNX's own operator set.
            inputs: Names of its inputs, in order.
            output: The name that its output is to have.
            attributes: Of type float, int, or list of int.
        """
        name = output or self._new_name()
        self._nodes.append(
            b"".join(
                [
                    *(_bytes(1, value.encode()) for value in inputs),
                    _bytes(2, name.encode()),
                    _bytes(4, operator.encode()),
                    *(_bytes(5, _attribute(*item)) for item in attributes.items()),
                ]
            )
        )
        return name

    def model(
        self, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, Sequence[str]]
    ) -> bytes:
        """Encode the model.

        Args:
            inputs: Name to dimensions' names, of int64 inputs.
            outputs: The same, of float32 outputs.
        """
        int64, float32 = (_ELEMENT_TYPES[np.dtype(t)] for t in (np.int64, np.float32))
        graph = b"".join(
            [
                *(_bytes(1, node) for node in self._nodes),
                _bytes(2, b"shoal"),
                *(_bytes(5, tensor) for tensor in self._initializers),
                *(_bytes(11, _value(name, int64, shape)) for name, shape in inputs.items()),
                *(_bytes(12, _value(name, float32, shape)) for name, shape in outputs.items()),
            ]
        )
        opset = _bytes(1, b"") + _int(2, OPSET)
        return b"".join(
            [_int(1, _IR_VERSION), _bytes(2, b"shoal"), _bytes(7, graph), _bytes(8, opset)]
        )

    def _new_name(self) -> str:
        self._names += 1
        return f"v{self._names}"


def _attribute(name: str, value: Any) -> bytes:
    encoded = _bytes(1, name.encode())
    match value:
        case float():
            return encoded + _tag(2, _FLOAT32) + struct.pack("<f", value) + _int(20, 1)
        case int():
            return encoded + _int(3, value) + _int(20, 2)
        case _:
            return encoded + b"".join(_int(8, item) for item in value) + _int(20, 7)


def _value(name: str, element_type: int, shape: Sequence[str]) -> bytes:
    dimensions = b"".join(_bytes(1, _bytes(2, dimension.encode())) for dimension in shape)
    tensor_type = _int(1, element_type) + _bytes(2, dimensions)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor_type))


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _int(field: int, value: int) -> bytes:
    return _tag(field, _VARINT) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _tag(field, _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # A negative int64 is its two's complement.
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)

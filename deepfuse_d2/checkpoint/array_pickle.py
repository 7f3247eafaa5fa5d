"""Pickles of NumPy arrays in plain containers, read without calling anything they name.

A pickle is a program: it names functions and calls them. detectron2's model zoo consists of
pickles, in which a few of NumPy's functions rebuild the arrays. Even those are not safe to call
with arguments out of a file: a data type can be made to claim that raw bytes are pointers to
objects. Therefore the names below stand for functions and classes of this file, which accept
numbers of a fixed size and nothing else, and every other name is refused. Not the pickle but the
code here calls NumPy, at the end.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DamagedWeightsError, WeightsError

__all__ = ["load_pickle_of_arrays"]

# booleans, integers, floats: their bytes are data whatever they are
_PLAIN_KINDS = "biuf"
# Containers in containers; the model zoo needs three levels.
_MAX_DEPTH = 32


def load_pickle_of_arrays(path: str | Path) -> Any:
    """Return the contents of a ``.pkl`` file of arrays, numbers and strings in plain containers.

    Raises:
        WeightsError: the file asks for anything else.
        DamagedWeightsError: it is damaged or was cut short.
    """
    try:
        with open(path, "rb") as file:
            return _plain(_ArrayUnpickler(file, str(path)).load())
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything: it is a damaged program
        raise DamagedWeightsError(
            f"{path} cannot be read as a pickle of arrays; it is damaged or was cut short, or "
            f"holds arrays of something else than numbers ({type(error).__name__}: {error}). "
            "Copy or download it again."
        ) from error


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, file, path: str):
        super().__init__(file, encoding="latin1")  # the model zoo's files come from python 2
        self._path = path

    def find_class(self, module: str, name: str):
        # NumPy 2 renamed numpy.core to numpy._core
        stand_in = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if stand_in is None:
            raise WeightsError(
                f"{self._path} asks for {module}.{name}, which is no array and no plain container; "
                "it was not loaded, because a pickle can run code. If you trust the file, convert "
                "it once, with its own libraries installed:\n"
                "  python -c 'import pickle, sys, torch; "
                'd = pickle.load(open(sys.argv[1], "rb"), encoding="latin1"); '
                'd = d.get("model", d); '
                "torch.save({k: torch.as_tensor(v) for k, v in d.items()}, sys.argv[2])' "
                f"{self._path} NEW.pth"
            )
        return stand_in


class _Function:
    """Something a pickle can call but not change: the opcode BUILD would set its attributes."""

    __slots__ = ("_function",)

    def __init__(self, function):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args):
        return self._function(*args)

    def __setattr__(self, name, value):
        raise pickle.UnpicklingError("an attempt to change a function")

    def __setstate__(self, state):
        raise pickle.UnpicklingError("an attempt to change a function")


class _DType:
    """A number type, as a pickle builds it: ``dtype("f4")``, then a state with the byte order."""

    def __init__(self, spec: str):
        found = np.dtype(spec) if isinstance(spec, str) else None
        if found is None or found.kind not in _PLAIN_KINDS or found.hasobject:
            raise pickle.UnpicklingError(f"an array of {spec!r}, which is no number type")
        self.value = found

    def __setstate__(self, state):
        _, order, subarray, names, fields = state[:5]
        if subarray is not None or names is not None or fields is not None:
            raise pickle.UnpicklingError("an array of records, not of numbers")
        if order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"a byte order {order!r}")
        self.value = self.value.newbyteorder(order)


class _Array:
    """An array, as a pickle builds it: empty first, then a state with shape, type and bytes."""

    value: np.ndarray | None = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        self.value = _from_bytes(data, dtype, shape, "F" if fortran else "C")


def _from_bytes(data, dtype: _DType, shape, order: str) -> np.ndarray:
    if isinstance(data, str):  # bytes of python 2, which the unpickler decodes as latin-1
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, _DType):
        raise pickle.UnpicklingError("an array that is not made of bytes")
    if any(not isinstance(n, int) or n < 0 for n in shape):
        raise pickle.UnpicklingError(f"an array of shape {shape}")
    # Raises where the bytes are not as many as the shape says. A copy, for it shall be writable.
    return np.frombuffer(data, dtype.value).reshape(shape, order=order).copy()


def _reconstruct(kind, shape, code) -> _Array:
    return _Array()


def _frombuffer(data, dtype, shape, order="C") -> _Array:
    array = _Array()
    array.value = _from_bytes(data, dtype, shape, order)
    return array


def _scalar(dtype: _DType, data) -> np.generic:
    return _from_bytes(data, dtype, (), "C")[()]


def _dtype(spec, align=False, copy=False) -> _DType:
    return _DType(spec)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""  # with arguments it could be asked for any amount of memory


def _no_array(*args):
    raise pickle.UnpicklingError("an array that is not made of bytes")


_STAND_INS = {
    ("numpy", "ndarray"): _Function(_no_array),  # only named, as the type to rebuild
    ("numpy", "dtype"): _Function(_dtype),
    ("numpy.core.multiarray", "_reconstruct"): _Function(_reconstruct),
    ("numpy.core.multiarray", "scalar"): _Function(_scalar),
    ("numpy.core.numeric", "_frombuffer"): _Function(_frombuffer),
    ("collections", "OrderedDict"): _Function(OrderedDict),
    # how the old protocols spell bytes
    ("_codecs", "encode"): _Function(_encode),
    ("__builtin__", "bytes"): _Function(_no_bytes),
}


def _plain(value: Any, depth: int = 0) -> Any:
    """Return the same containers with arrays in place of what the pickle built."""
    if depth > _MAX_DEPTH:
        raise pickle.UnpicklingError(f"containers nested more than {_MAX_DEPTH} deep")
    if isinstance(value, _Array):
        return _no_array() if value.value is None else value.value
    if isinstance(value, dict):
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, depth + 1) for item in value)
    if isinstance(value, (_DType, _Function)):
        raise pickle.UnpicklingError("a type or a function where an array should be")
    return value

"""numpy's arrays, scalars and dtypes out of pickles, without numpy's own unpickling.

numpy believes what a pickle says of a dtype. A file can thus declare that an array of objects is
one of plain bytes, and have these bytes taken for addresses of objects. Here a pickle only fills
the stand-ins below; `settled` makes of each what it describes, with numpy's ordinary constructors,
which check what they are given.
"""

import sys

import numpy as np

NATIVE = "<" if sys.byteorder == "little" else ">"


class DType:
    """What a pickle says of a dtype. Called as `numpy.dtype` is in pickles."""

    def __init__(self, text: str, align: bool = False, copy: bool = False):
        self._dtype = np.dtype(_checked(text, str))

    def __setstate__(self, state: tuple) -> None:
        _version, order, subarray, names, fields, itemsize, *rest = state
        if names:
            parts = [fields[name] for name in names]
            formats, offsets = zip(*((_dtype(part[0]), part[1]) for part in parts), strict=True)
            self._dtype = np.dtype(
                dict(names=list(names), formats=formats, offsets=offsets, itemsize=itemsize)
            )
            return
        if subarray:
            self._dtype = np.dtype((_dtype(subarray[0]), subarray[1]))
            return
        kind = self._dtype.kind
        if kind in "SU" and self._dtype.itemsize == 0 and itemsize > 0:
            self._dtype = np.dtype(f"{kind}{itemsize // np.dtype(f'{kind}1').itemsize}")
        if kind in "mM" and len(rest) > 2:  # what is counted: (b"ms", 25, 1, 1) is 25 ms
            unit, count, divisor, _ = rest[2][1]
            unit = unit.decode() if isinstance(unit, bytes) else unit
            if divisor != 1:
                raise ValueError("a fraction of a unit of time")
            suffix = "" if unit == "generic" else f"[{int(count)}{unit}]"
            self._dtype = np.dtype(f"{kind}8{suffix}")
        self._dtype = self._dtype.newbyteorder("=" if order == NATIVE else order)

    def settled(self, settle) -> np.dtype:
        return self._dtype


class Array:
    """What a pickle says of an array."""

    def __init__(self):
        self._value: np.ndarray | None = None
        self._items: list | None = None

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, is_fortran, content = state
        self._value, self._items = _filled(shape, _dtype(dtype), is_fortran, content)

    def settled(self, settle) -> np.ndarray:
        if self._value is None:
            raise ValueError("an array without a content")
        if self._items is not None:
            items, self._items = self._items, None
            for i, item in enumerate(items):
                self._value.flat[i] = settle(item)
        return self._value


class MaskedArray(Array):
    """What a pickle says of a masked array."""

    def __setstate__(self, state: tuple) -> None:
        *plain, mask, self._fill = state
        super().__setstate__(tuple(plain))
        dtype = np.ma.make_mask_descr(self._value.dtype)
        self._mask, _ = _filled(self._value.shape, dtype, plain[3], mask)

    def settled(self, settle) -> np.ma.MaskedArray:
        data = super().settled(settle)
        if not isinstance(data, np.ma.MaskedArray):
            self._value = np.ma.MaskedArray(data, self._mask, fill_value=settle(self._fill))
        return self._value


def reconstruct(kind, shape: tuple, typecode) -> Array:
    """`numpy.core.multiarray._reconstruct`: an array that is filled later."""
    return Array()


def reconstruct_masked(kind, base, shape: tuple, typecode) -> MaskedArray:
    """`numpy.ma.core._mareconstruct`."""
    return MaskedArray()


def scalar(dtype: DType, content: bytes = b"") -> np.generic:
    """`numpy.core.multiarray.scalar`."""
    dtype = _dtype(dtype)
    if dtype.hasobject:
        raise ValueError("a scalar that is an object")
    return _filled((1,), dtype, False, content)[0][0]


def _filled(shape: tuple, dtype: np.dtype, is_fortran: bool, content) -> tuple:
    """An array, and the items that have to go into it where it is one of objects."""
    order = "F" if is_fortran else "C"
    if dtype.kind == "O":
        items = _checked(content, list)
        value = np.empty(len(items), object).reshape(shape, order=order)
        return value, items
    if dtype.hasobject:
        raise ValueError("objects among the fields of an array")
    content = _checked(content, (bytes, bytearray))
    if not dtype.itemsize or 0 in shape:
        if content:
            raise ValueError("an empty array with a content")
        return np.zeros(shape, dtype, order), None
    flat = np.frombuffer(content, dtype)  # [number of elements]; refuses a remainder
    return flat.reshape(shape, order=order).copy("K"), None


def _dtype(stand_in: DType) -> np.dtype:
    return _checked(stand_in, DType)._dtype


def _checked(value, kind):
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} in the pickle of an array")
    return value

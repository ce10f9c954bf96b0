"""The file of what was learnt, or of a shard's calls: arrays and words in HDF5, whole, with a checksum, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from reading import guard

VERSION = 1
FORMAT = "scpretrain-{kind}"
PIECE = 1 << 24  # values that are hashed at a time
PACKED = 1 << 16  # values from which an array is compressed, where that is asked for


def put(file: h5py.File, kind: str, words: dict[str, Any], arrays: Mapping[str, np.ndarray], packed: str = "") -> None:
    """Write arrays and words beside what the open file holds already, then the checksum over all of it.

    The order in memory is kept: a product of the same numbers in another order rounds otherwise. packed: the
    arrays whose names begin so are compressed.
    """
    for name, array in arrays.items():
        turned = array.ndim == 2 and array.flags.f_contiguous and not array.flags.c_contiguous
        small = not packed or not name.startswith(packed) or array.size < PACKED
        how = {} if small else {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        node = file.create_dataset(name, data=array.T if turned else array, **how)
        node.attrs["turned"] = turned
    text = json.dumps(words, default=_plain)
    file.create_dataset("words", data=np.frombuffer(text.encode(), np.uint8))
    file.attrs.update({"format": FORMAT.format(kind=kind), "version": VERSION, "checksum": checksum(file)})


def get(
    path: Path, kind: str, again: str, leave: str = "", unbounded: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Words and arrays of a file that `put` wrote. ValueError or FileNotFoundError with its name, and what to do.

    again: how the file is made anew. leave: an array that is checked but stays in the file. unbounded: arrays that
    may hold infinity.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {kind} {path}; check the spelling, or {again}")
    guard.regular(path, str(path))
    try:
        with h5py.File(path, "r") as file:
            guard.inside_only(file, str(path))
            form, version = str(file.attrs.get("format")), int(file.attrs.get("version", 0))
            if form == FORMAT.format(kind=kind) and version == VERSION:
                stated, found = file.attrs["checksum"], checksum(file)
                words = json.loads(file["words"][...].tobytes())
                names = [name for name in file if name not in ("words", leave)]
                arrays = {name: _array(file[name]) for name in names}
    except Exception as error:  # HDF5 raises half a dozen kinds for a damaged or foreign file
        what = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no {kind}, or a damaged one ({what}); {again}") from error
    if form != FORMAT.format(kind=kind):
        raise ValueError(f"{path} is not a {kind} of scPretrain; name another, or {again}")
    if version != VERSION:
        raise ValueError(
            f"{path} is a {kind} of version {version}, this program reads version {VERSION}; "
            f"{'update scPretrain' if version > VERSION else again}"
        )
    if stated != found:
        raise ValueError(f"{path} does not hold what it was saved with (checksum); it is damaged: {again}")
    for name, array in arrays.items():
        wrong = np.isnan(array) if name in unbounded else ~np.isfinite(array)
        if wrong.any():
            raise ValueError(f"{path}: {int(wrong.sum()):,} of the values {name} are not finite; {again}")
    return words, arrays


def checksum(file: h5py.File) -> str:
    """A hash of all arrays of the open file: names, kinds, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(file):
        node = file[name]
        found.update(f"{name} {node.dtype.str} {node.shape} {bool(node.attrs.get('turned', False))}\n".encode())
        if not node.shape or not node.size:
            found.update(np.asarray(node[()]).tobytes())
            continue
        step = max(1, PIECE // max(1, int(np.prod(node.shape[1:]))))
        for start in range(0, len(node), step):
            found.update(np.ascontiguousarray(node[start : start + step]))
    return found.hexdigest()


def fingerprint(words: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """A short hash of the same content while it is in memory."""
    found = hashlib.sha256(json.dumps(words, default=_plain, sort_keys=True).encode())
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        found.update(np.ascontiguousarray(arrays[name]))
    return found.hexdigest()[:16]


def _array(node: h5py.Dataset) -> np.ndarray:
    array = np.asarray(node[()])
    return array.T if node.attrs["turned"] else array


def _plain(value: Any) -> Any:
    """What JSON cannot spell: numpy's numbers as Python's, paths as text."""
    return value.item() if isinstance(value, np.generic) else str(value)

"""Add fields to an .h5ad without reading its matrix, or begin one from row blocks."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from reading import guard

if TYPE_CHECKING:
    from anndata import AnnData

CHUNK = 1 << 20  # entries of a chunk of the sparse arrays
KEPT = 64 << 20  # bytes kept of what could not be written


class Disk(io.FileIO):
    """A file under HDF5 that keeps a failed write to itself, in `failed`, and lets later ones go.

    HDF5 does not survive one: it tries again at close and at exit, and brings the interpreter down. What it writes of
    its own order after that it reads back, and it does not survive that this is not there either: so it is `kept`.
    """

    failed: OSError | None = None

    def __init__(self, *how: Any):
        super().__init__(*how)
        self.kept: dict[tuple[int, int], bytes] = {}
        self.room = KEPT

    def write(self, data: Any) -> int:
        """All of the bytes: HDF5 does not ask how many were taken."""
        rest = memoryview(data).cast("B")
        size, at, piece = len(rest), self.tell(), rest
        try:
            while len(rest) and self.failed is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failed = error
        if self.failed is not None and size <= min(CHUNK, self.room):
            self.room += len(self.kept.pop((at, size), b"")) - size
            self.kept[at, size] = bytes(piece)  # the last one last
        return size

    def readinto(self, buffer: Any) -> int:
        """All of the bytes asked for: HDF5 does not ask how many there were, and takes what was in memory before."""
        view, at = memoryview(buffer).cast("B"), self.tell()
        found = super().readinto(view) or 0
        view[found:] = bytes(len(view) - found)
        for (start, size), piece in self.kept.items():
            low, high = max(at, start), min(at + len(view), start + size)
            if low < high:
                view[low - at : high - at] = piece[low - start : high - start]
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """HDF5 ends a file with it."""
        try:
            return super().truncate(size) if self.failed is None else size or 0
        except OSError as error:
            self.failed = error
            return size or 0


@contextmanager
def opened(target: Path, mode: str = "r+") -> Iterator[h5py.File]:
    """An HDF5 file to write; refused where it has parts in other files. A write that failed is an OSError at the end.

    After a failed write HDF5 may read what is not there: what h5py raises then is of that write.
    """
    with Disk(target, "w+" if mode == "w" else mode) as disk:
        try:
            with h5py.File(disk, mode) as file:
                guard.inside_only(file, str(target))
                yield file
        except Exception:
            if disk.failed is None:
                raise
        if disk.failed is not None:
            raise OSError(disk.failed.errno, disk.failed.strerror or str(disk.failed))


def copy_file(source: Path, target: Path) -> None:
    """A copy of the bytes; the matrix never passes through this program's memory."""
    shutil.copyfile(source, target)


def whole(target: Path, adata: AnnData) -> None:
    """Write an AnnData that is in memory, on a disk that may be full."""
    from anndata.io import write_elem

    with opened(target, "w") as file:
        write_elem(file, "/", adata)


def new_file(target: Path, blocks: Iterable[tuple[int, csr_matrix]], obs: pd.DataFrame, genes: list[str]) -> None:
    """Write an .h5ad with X in CSR from row blocks (start, (B, G)), obs (N rows, named cells) and gene names (G)."""
    from anndata.io import write_elem

    unique = unique_names(genes)
    var = pd.DataFrame(index=pd.Index(unique, dtype=object))
    if unique != genes:
        var["gene_symbols"] = np.array(genes, dtype=object)
    with opened(target, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        x = file.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (len(obs), len(genes))})
        data = x.create_dataset("data", (0,), np.float32, maxshape=(None,), chunks=(CHUNK,))
        indices = x.create_dataset("indices", (0,), np.int32, maxshape=(None,), chunks=(CHUNK,))
        indptr, entries = np.zeros(len(obs) + 1, np.int64), 0
        for start, block in blocks:
            for node, values in ((data, block.data), (indices, block.indices)):
                node.resize((entries + block.nnz,))
                node[entries:] = values
            indptr[start + 1 : start + 1 + block.shape[0]] = entries + block.indptr[1:]
            entries += block.nnz
        x.create_dataset("indptr", data=indptr)
        write_elem(file, "obs", obs)
        write_elem(file, "var", var)
        for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
            write_elem(file, name, {})


def unique_names(names: list[str]) -> list[str]:
    """The names, a doubled one with -1, -2 ... behind it from its second place on."""
    taken, seen, out = set(names), {}, []
    for name in names:
        if name in seen:
            while (new := f"{name}-{seen[name]}") in taken:
                seen[name] += 1
            taken.add(new)
            out.append(new)
        else:
            seen[name] = 1
            out.append(name)
    return out


def embedding(file: h5py.File, key: str, shape: tuple[int, int]) -> h5py.Dataset:
    """An empty float32 array obsm[key] of the open file, to be written by rows."""
    if isinstance(file.get("obs"), h5py.Dataset):
        modernise(file)
    obsm = _group(file, "obsm")
    if key in obsm:
        del obsm[key]
    rows = max(1, min(shape[0], CHUNK // max(1, shape[1])))
    node = obsm.create_dataset(key, shape, np.float32, chunks=(rows, shape[1]))
    node.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return node


def add_fields(
    file: h5py.File, columns: Mapping[str, Any], arrays: Mapping[str, np.ndarray], uns: Mapping[str, Any]
) -> None:
    """Put columns (N,) into obs, arrays (N, D) into obsm and entries into uns; an older field of a name gives way."""
    from anndata.io import write_elem

    if isinstance(file["obs"], h5py.Dataset):
        modernise(file)
    obs = file["obs"]
    order = [_text(name) for name in obs.attrs.get("column-order", ())]
    for name, values in columns.items():
        if name in obs:
            del obs[name]
        write_elem(obs, name, values)
    obs.attrs["column-order"] = np.array([*(n for n in order if n not in columns), *columns], dtype=h5py.string_dtype())
    for group, content in (("obsm", arrays), ("uns", uns)):
        node = _group(file, group)
        for name, values in content.items():
            if name in node:
                del node[name]
            write_elem(node, name, values)


def _group(file: h5py.File, name: str) -> h5py.Group:
    from anndata.io import write_elem

    if name not in file:
        write_elem(file, name, {})
    return file[name]


def modernise(file: h5py.File) -> None:
    """Turn the layout of anndata 0.6 into today's: each table of records becomes a group, and no field is lost.

    There obs, var, raw.var, obsm and varm are one table of records each; a group of today's kind cannot be put into
    one, and anndata reads no file that is half the one and half the other.
    """
    for old, new in (("raw.X", "raw/X"), ("raw.var", "raw/var"), ("raw.varm", "raw/varm")):
        if old in file:
            file.move(old, new)
    taken: set[str] = set()
    for name in ("obs", "var", "raw/var"):
        if isinstance(file.get(name), h5py.Dataset):
            frame, used = _frame(file[name], file)
            taken |= used
            _put(file, name, frame)
    for name in taken:  # the categories are in the columns now, where anndata looks for them
        del file[name]
    for name in ("obsm", "varm", "raw/varm"):
        if isinstance(file.get(name), h5py.Dataset):
            records = file[name][...]
            _put(file, name, {key: records[key] for key in records.dtype.names or ()})
    for name in ("X", "raw/X", *(f"layers/{layer}" for layer in file.get("layers", ()))):
        _say_encoding(file.get(name))
    for name in ("raw", "obsm", "varm", "layers", "uns"):
        if isinstance(file.get(name), h5py.Group) and "encoding-type" not in file[name].attrs:
            kind = "raw" if name == "raw" else "dict"
            file[name].attrs.update({"encoding-type": kind, "encoding-version": "0.1.0"})
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def _put(file: h5py.File, name: str, value) -> None:
    from anndata.io import write_elem

    del file[name]
    write_elem(file, name, value)


def _say_encoding(node: h5py.Group | h5py.Dataset | None) -> None:
    """Attributes that tell today's anndata what a matrix is; h5sparse, before 0.7, called them something else."""
    if node is None or "encoding-type" in node.attrs:
        return
    if isinstance(node, h5py.Dataset):
        node.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        return
    storage = _text(node.attrs.get("h5sparse_format", "csr"))
    shape = np.asarray(node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"])
    node.attrs.update({"encoding-type": f"{storage}_matrix", "encoding-version": "0.1.0", "shape": shape})


def _frame(node: h5py.Dataset, file: h5py.File) -> tuple[pd.DataFrame, set[str]]:
    """A table of records as a frame, and the places in the file whose categories its columns hold now."""
    records = node[...]
    index, *others = records.dtype.names
    table, used = {}, set()
    for name in others:
        values = records[name]
        place = f"uns/{name}_categories"
        if place in file and values.dtype.kind in "iu":
            levels = [_text(level) for level in np.atleast_1d(file[place][...])]
            codes = np.where((values >= 0) & (values < len(levels)), values, -1).astype(int)
            values, used = pd.Categorical.from_codes(codes, levels), used | {place}
        elif values.dtype.kind in "SO":
            values = np.array([_text(value) for value in values], dtype=object)
        table[name] = values
    return pd.DataFrame(table, index=pd.Index([_text(value) for value in records[index]], dtype=object)), used


def _text(value) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

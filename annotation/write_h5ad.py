"""Add fields to an .h5ad without reading its matrix, or begin one from row blocks."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from reading import guard

CHUNK = 1 << 20  # entries of a chunk of the sparse arrays


class Disk(io.FileIO):
    """A file under HDF5 that keeps a failed write to itself, in `failed`, and lets later ones go.

    HDF5 does not survive one: it tries again at close and at exit, and brings the interpreter down.
    """

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        """All of the bytes: HDF5 does not ask how many were taken."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and self.failed is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failed = error
        return size

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

    obs = file["obs"]
    if isinstance(obs, h5py.Dataset):  # a table of records, before anndata 0.7
        obs = _modern_obs(file)
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


def _modern_obs(file: h5py.File) -> h5py.Group:
    from anndata.io import write_elem

    old = file["obs"][...]
    index, *others = old.dtype.names
    table = {}
    for name in others:
        values = old[name]
        categories = file.get(f"uns/{name}_categories")
        if categories is not None:
            values = pd.Categorical.from_codes(values.astype(int), [_text(c) for c in categories[...]])
        elif values.dtype.kind in "SO":
            values = np.array([_text(v) for v in values], dtype=object)
        table[name] = values
    frame = pd.DataFrame(table, index=pd.Index([_text(v) for v in old[index]], dtype=object))
    del file["obs"]
    write_elem(file, "obs", frame)
    return file["obs"]


def _text(value) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

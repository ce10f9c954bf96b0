"""What a .zarr store must be before a library reads it: files inside one folder, no larger than they can be."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reading.guard import PACKED, SMALL
from reading.matrix import REWRITE, Unreadable

METADATA = (".zarray", ".zmetadata", "zarr.json")
LONGEST = 64 << 20  # bytes of metadata
CHUNKS, CHUNKS_A_FILE = 20_000, 100  # each is looked for, whether it is there or not


def look_through(folder: Path, where: str) -> None:
    """Refuse a store with links, pipes or devices, with arrays that declare more than it holds, or that runs pickles.

    Links are refused altogether: what they lead to, another's file perhaps, would be read as cells.
    """
    held, files, metadata = 0, 0, []
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *names)):
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                raise Unreadable(
                    f"{where}: {path.relative_to(folder)} is a link, which is neither read nor written; put the file "
                    "itself there"
                )
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise Unreadable(f"{where}: {path.relative_to(folder)} is a pipe, a device or a socket; remove it")
            if stat.S_ISREG(status.st_mode):
                held, files = held + status.st_size, files + 1
            if path.name in METADATA:
                metadata.append(path)
    for path in metadata:
        if path.stat().st_size > LONGEST:
            raise Unreadable(f"{where}: {path.relative_to(folder)} has {path.stat().st_size:,} bytes; {REWRITE}")
        try:
            said = json.loads(path.read_bytes())
        except ValueError as error:
            raise Unreadable(f"{where}: {path.relative_to(folder)} is damaged ({error}); {REWRITE}") from error
        for one in _dictionaries(said):
            _refuse(one, f"{where}: {path.relative_to(folder)}", held, files)


def _dictionaries(value: Any) -> Iterator[dict]:
    """Every dictionary in what a file of JSON says."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value


def _refuse(said: dict, where: str, held: int, files: int) -> None:
    for key in ("id", "name"):  # a codec
        if "pickle" in str(said.get(key)).lower():
            raise Unreadable(f"{where} holds Python objects, which are not opened because that could run a program")
    shape = said.get("shape")
    if not isinstance(shape, list):
        return
    grid = said.get("chunk_grid")  # of zarr 3
    how = grid.get("configuration") if isinstance(grid, dict) else None
    chunks = how.get("chunk_shape") if isinstance(how, dict) else said.get("chunks")
    width = int((re.findall(r"\d+", str(said.get("dtype", said.get("data_type", "")))) or ["8"])[-1])
    size, number = _product(shape) * max(1, width), 1.0
    if isinstance(chunks, list) and len(chunks) == len(shape):
        pairs = zip(shape, chunks, strict=True)
        number = math.prod(_number(n) / min(_number(n) or 1.0, max(1.0, _number(chunk))) for n, chunk in pairs)
        size = max(size, _product(chunks) * max(1, width))
    if size > SMALL + PACKED * held or number > CHUNKS + CHUNKS_A_FILE * files:
        raise Unreadable(
            f"{where} declares {size / 2**30:,.1f} GB in {number:,.0f} pieces, more than a store of {held:,} bytes in "
            f"{files:,} files can hold; {REWRITE}"
        )


def _product(values: list) -> float:
    return math.prod(_number(value) for value in values)


def _number(value: Any) -> float:
    """A size as it is stated; what is none is left to the library."""
    return float(min(value, 1 << 100)) if isinstance(value, int) else 0.0

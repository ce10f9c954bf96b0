"""Files that appear whole or not at all, and a cache of arrays keyed by what they were made from."""

import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock, Timeout
from scipy.sparse import csr_matrix, vstack

CACHE_VERSION = 1  # raise it when what a cached array means changes: older entries are then never found
OLD_PART = 24 * 3600.0  # seconds
_PART = re.compile(r"(?:\.(\d+)-?([0-9a-f]{8})?-?[0-9a-f]{0,8}\.part)+")  # process, machine, chance; of a part too
LONGEST_LOCK = 60.0  # seconds: a table is read and replaced in milliseconds
WHOLE = 16 * 1024 * 1024  # bytes: a cached array up to this size is checked whole, a longer one by BLOCKS of BLOCK
BLOCKS, BLOCK = 64, 64 * 1024


class NotWritten(OSError):
    """A file that could not be written; the sentence names it."""


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a `.part` path beside `path`; it takes the name `path` only if the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_parts(path)
    part = _part_of(path)
    try:
        with writing(path):
            yield part
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong in writing, as a sentence that names `path`; for several files at once the innermost counts."""
    try:
        yield
    except NotWritten:  # of a file that is written at the same time
        raise
    except OSError as error:
        words = f"{path} could not be written ({error.strerror or error}); what was there is intact"
        raise NotWritten(words) from error


def clear_parts(path: Path) -> None:
    """Remove what killed runs left of `path`: parts whose process is gone, or that nobody has touched for a day."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        if not (found := _PART.fullmatch(part.name[len(path.name) :])):
            continue
        with suppress(OSError):
            ours = found[2] == _machine()  # elsewhere the same number is another process
            if (ours and _gone(int(found[1]))) or time.time() - part.lstat().st_mtime > OLD_PART:
                shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink()


def _part_of(path: Path) -> Path:
    """A name beside `path` that says who writes it; the chance in it keeps two writers of one process apart."""
    return path.with_name(f"{path.name}.{os.getpid()}-{_machine()}-{secrets.token_hex(4)}.part")


@cache
def _machine() -> str:
    """Eight digits that only processes which see each other's ids have in common: machine, boot and container."""
    parts = [socket.gethostname()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        lambda: str(os.stat("/proc/self/ns/pid").st_ino),
    ):
        with suppress(OSError):  # they are Linux's
            parts.append(read())
    return fingerprint(*parts)[:8]


def _gone(process: int) -> bool:
    """Whether there is no process of this number any more; False where that cannot be asked."""
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


@contextmanager
def locked(path: str | Path, wait: float = LONGEST_LOCK) -> Iterator[None]:
    """One process at a time between reading `path` and replacing it; the lock lies beside it, hidden, and stays.

    wait: seconds for another run to let go of it. On a file system without locks the block runs all the same.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        raise OSError(
            f"{path} is held by another run; wait for it, or delete {lock.lock_file} if there is none"
        ) from None
    except (NotImplementedError, PermissionError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def fingerprint(*parts: object) -> str:
    """A short hash of anything JSON can spell; the same parts give the same hash on every machine."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stamp(path: Path) -> tuple[str, int, int]:
    """What identifies a version of a file without reading it: name, size in bytes, modification time in ns."""
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns


def writable(folder: Path) -> bool:
    """Whether files may be made in `folder` (or in its nearest existing parent).

    A folder whose write bits are all off counts as read-only for root too, who could write there all the same.
    """
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


class Cache:
    """Arrays on disk, one folder an entry; `folder=None` keeps nothing and makes everything anew."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def arrays(
        self, kind: str, name: str, key: tuple, make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The arrays made by `make()`, read back memory-mapped where an entry with this very key is on disk."""
        if self.folder is None:
            return make()
        entry = self.folder / f"{kind}-{name}-{fingerprint(CACHE_VERSION, kind, name, key)}"
        if (found := _read(entry)) is not None:
            return found
        arrays = make()

        def save(part: Path) -> None:
            for array_name, array in arrays.items():
                with _written(entry):
                    np.save(part / f"{array_name}.npy", array)

        self._write(entry, save)
        found = _read(entry)
        return arrays if found is None else found

    def _write(self, entry: Path, save: Callable[[Path], None]) -> None:
        """The entry of the arrays that `save` puts into a folder; it appears whole."""
        assert self.folder is not None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            clear_parts(entry)
            (part := _part_of(entry)).mkdir()
        except OSError as error:
            raise OSError(
                f"the cache folder {self.folder} cannot be written ({error.strerror}); name another with --cache_dir"
            ) from error
        try:
            save(part)
            with _written(entry):
                checks = {path.stem: _check(path) for path in sorted(part.glob("*.npy"))}
                (part / "arrays.json").write_text(json.dumps(checks))
                with locked(self.folder / "entries"):
                    if _read(entry) is None:  # else another run was first, with the same content
                        shutil.rmtree(entry, ignore_errors=True)
                        os.rename(part, entry)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def matrix(self, kind: str, name: str, key: tuple, make: Callable[[], Iterable[csr_matrix]]) -> csr_matrix:
        """The same for one csr matrix float32 that `make()` gives as blocks of its rows, at least one.

        No more than a block of it is in memory while it is made; read back, its arrays stay on disk until their rows
        are asked for.
        """
        if self.folder is None:
            return _stacked(make())
        entry = self.folder / f"{kind}-{name}-{fingerprint(CACHE_VERSION, kind, name, key)}"
        if (found := _read(entry)) is None:
            self._write(entry, lambda part: _save_rows(part, make(), entry))
            if (found := _read(entry)) is None:  # somebody has cleared the cache away
                return _stacked(make())
        shape = tuple(int(size) for size in found["shape"])
        counts = csr_matrix(shape, dtype=np.float32)
        counts.data, counts.indices, counts.indptr = found["data"], found["indices"], found["indptr"]
        return counts


@contextmanager
def _written(entry: Path) -> Iterator[None]:
    """What goes wrong in writing an entry, as a sentence that names it."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"the cache entry {entry} could not be written ({error.strerror or error}); free some "
            "space, or name another folder with --cache_dir"
        ) from error


def _stacked(blocks: Iterable[csr_matrix]) -> csr_matrix:
    blocks = list(blocks)
    return blocks[0] if len(blocks) == 1 else vstack(blocks, format="csr")


def _save_rows(part: Path, blocks: Iterable[csr_matrix], entry: Path) -> None:
    """Write blocks of rows one after the other as the arrays of one csr matrix."""
    lengths, genes = [np.zeros(1, np.int64)], 0
    with ExitStack() as stack:
        files = {}
        for name, kind in (("data", np.float32), ("indices", np.int32)):
            with _written(entry):
                files[name] = stack.enter_context(open(part / f"{name}.npy", "wb"))
                _head(files[name], 0, kind)  # numpy leaves room in it for the length to grow
        for counts in blocks:
            lengths.append(np.diff(counts.indptr))
            genes = counts.shape[1]
            with _written(entry):
                np.ascontiguousarray(counts.data, np.float32).tofile(files["data"])
                np.ascontiguousarray(counts.indices, np.int32).tofile(files["indices"])
        indptr = np.concatenate(lengths).cumsum()
        with _written(entry):
            for name, kind in (("data", np.float32), ("indices", np.int32)):
                files[name].seek(0)
                _head(files[name], int(indptr[-1]), kind)
            narrow = indptr[-1] <= np.iinfo(np.int32).max
            np.save(part / "indptr.npy", indptr.astype(np.int32) if narrow else indptr)
            np.save(part / "shape.npy", np.array([len(indptr) - 1, genes]))


def _head(file: IO[bytes], entries: int, kind: type) -> None:
    """The header of a .npy file with so many entries."""
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": (entries,)}
    np.lib.format.write_array_header_1_0(file, described)


def _read(entry: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an entry, memory-mapped; None where it is not there or does not hold what was written."""
    try:
        checks = json.loads((entry / "arrays.json").read_text())
        if not isinstance(checks, dict) or not checks:  # a list of names: written before there were checksums
            return None
        if any(_check(entry / f"{name}.npy") != stated for name, stated in checks.items()):
            return None
        return {name: np.load(entry / f"{name}.npy", mmap_mode="r") for name in checks}
    except (OSError, ValueError, EOFError):
        return None


def _check(path: Path) -> list[int]:
    """Size and CRC-32 of a file of the cache: over all its bytes, or over blocks spread from its first to its last.

    Opening a mapped array takes no time, reading gigabytes of it would; whatever is cut, moved or overwritten in
    lengths is noticed, a single bit in the middle of a long array need not be.
    """
    size = path.stat().st_size
    starts, length = ([0], size) if size <= WHOLE else (np.linspace(0, size - BLOCK, BLOCKS, dtype=int), BLOCK)
    found = 0
    with open(path, "rb") as file:
        for start in starts:
            file.seek(start)
            found = zlib.crc32(file.read(length), found)
    return [size, found]

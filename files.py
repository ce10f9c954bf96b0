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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from scipy.sparse import csr_matrix

CACHE_VERSION = 1  # raise it when what a cached array means changes: older entries are then never found
OLD_PART = 24 * 3600.0  # seconds
_PART = re.compile(r"\.(\d+)-?([0-9a-f]{8})?-?[0-9a-f]{0,8}\.part")  # process, machine, chance
LONGEST_LOCK = 60.0  # seconds: a table is read and replaced in milliseconds
WHOLE = 16 * 1024 * 1024  # bytes: a cached array up to this size is checked whole, a longer one by BLOCKS of BLOCK
BLOCKS, BLOCK = 64, 64 * 1024


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a `.part` path beside `path`; it takes the name `path` only if the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_parts(path)
    part = _part_of(path)
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise OSError(f"{path} could not be written ({error.strerror or error}); what was there is intact") from error
    finally:
        part.unlink(missing_ok=True)


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
        self._write(entry, arrays := make())
        found = _read(entry)
        return arrays if found is None else found

    def _write(self, entry: Path, arrays: dict[str, np.ndarray]) -> None:
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
            for name, array in arrays.items():
                np.save(part / f"{name}.npy", array)
            checks = {name: _check(part / f"{name}.npy") for name in arrays}
            (part / "arrays.json").write_text(json.dumps(checks))
            with locked(self.folder / "entries"):
                if _read(entry) is None:  # else another run was first, with the same content
                    shutil.rmtree(entry, ignore_errors=True)
                    os.rename(part, entry)
        except OSError as error:
            raise OSError(
                f"the cache entry {entry} could not be written ({error.strerror or error}); free some "
                "space, or name another folder with --cache_dir"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def matrix(self, kind: str, name: str, key: tuple, make: Callable[[], csr_matrix]) -> csr_matrix:
        """The same for one csr matrix; read back, its arrays stay on disk until their rows are asked for."""

        def parts() -> dict[str, np.ndarray]:
            counts = make()
            return {
                "data": counts.data,
                "indices": counts.indices,
                "indptr": counts.indptr,
                "shape": np.array(counts.shape),
            }

        found = self.arrays(kind, name, key, parts)
        shape = tuple(int(size) for size in found["shape"])
        counts = csr_matrix(shape, dtype=np.float32)
        counts.data, counts.indices, counts.indptr = found["data"], found["indices"], found["indptr"]
        return counts


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

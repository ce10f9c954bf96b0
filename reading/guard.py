"""What a file must be before a library reads it, or writes into it: a regular file whose parts all lie inside it."""

from __future__ import annotations

import atexit
import csv
import gzip
import json
import math
import os
import re
import select
import signal
import stat
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import h5py

from reading.matrix import REWRITE, Unreadable

INSIDE = (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)
DAMAGE = (OSError, EOFError, ValueError, OverflowError, zlib.error, csv.Error)  # what damaged text may raise
PACKED = 1032  # bytes that one byte of deflate can hold at most
LARGEST_CHUNK = 1 << 30  # bytes: usual are under one million
SMALL = 64 << 20  # what may be declared whatever the file's size: chunks never written take no room
MTX_HEAD = re.compile(rb"%%MatrixMarket\s+matrix\s+coordinate\s+(real|integer|pattern)\s+general\s*", re.IGNORECASE)
MTX_SIZES = re.compile(rb"\s*(\d{1,15})\s+(\d{1,15})\s+(\d{1,15})\s*")
MTX_LINE = re.compile(rb"\s*\d+\s+\d+(\s+[-+.\deEinfaINFA]+)?\s*")
MTX_BYTES = b"0123456789+-.eE \t\r\ninfaINFA"  # numbers, blanks, and how inf and nan are spelled
LONGEST = 1 << 16  # bytes of a line of a .mtx
PIECE = 16 << 20
HEAP = b"GCOL\1\0\0\0"  # how a global heap of HDF5 begins: texts of any length lie in these
SCANNED = 32 << 20
SILENCE = 60.0  # seconds without a sign of life, after which a scout is ended; a healthy one gives thousands a second


@contextmanager
def named(where: str) -> Iterator[None]:
    """The one boundary of a reader: whatever a library raises over a damaged file becomes Unreadable, with its name."""
    try:
        yield
    except (Unreadable, FileNotFoundError, PermissionError):
        raise
    except MemoryError as error:
        what = _one_line(error) or "more than the machine has"
        raise Unreadable(
            f"{where}: it does not fit into memory ({what}); if it is not that large, {REWRITE}"
        ) from error
    except Exception as error:  # the libraries' own kinds have no common base: zlib.error, IORegistryError, TokenError
        raise Unreadable(f"{where}: cannot be read as cells ({_one_line(error)}); {REWRITE}") from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text.encode("utf-8", "replace").decode()  # half characters of a damaged file cannot be printed


def regular(path: Path, where: str) -> None:
    """Refuse pipes, devices and sockets: to read them may never end. What is not there is left to the opener."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise Unreadable(f"{where}: not a regular file but a pipe, a device or a socket; save it as a file first")


def heaps_end(path: Path, where: str) -> None:
    """Refuse an HDF5 file with a heap of texts that has free room of no size: the library would walk it for ever.

    Looked for in the first SCANNED bytes: where texts beyond them are damaged so, the reader still hangs.
    """
    with path.open("rb") as file:
        data = file.read(SCANNED)
    at = data.find(HEAP)
    while at >= 0:
        end = at + int.from_bytes(data[at + 8 : at + 16], "little")
        place = at + 16
        while place + 16 <= min(end, len(data)):
            index = int.from_bytes(data[place : place + 2], "little")
            size = int.from_bytes(data[place + 8 : place + 16], "little")
            if index == 0 and size == 0:
                raise Unreadable(f"{where}: its heap of texts at byte {at:,} is damaged; {REWRITE}")
            place += size if index == 0 else 16 + (size + 7) // 8 * 8
        at = data.find(HEAP, at + len(HEAP))


SCOUT = Path(__file__).with_name("scout.py")
_fine: set[tuple] = set()  # versions of files that were looked through


def looked_through(path: Path, where: str) -> None:
    """Refuse an HDF5 file over which the library crashes, never ends, or takes more than 2 GB: tried by a scout.

    It is a process of its own, the same for all files of a run; each version of a file is tried once. Where none can be
    started the file is opened all the same.
    """
    status = path.stat()
    version = str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino
    if version in _fine:
        return
    heaps_end(path, where)
    answer = _scouts.ask(str(path.absolute()))
    if answer not in ("fine", ""):
        raise Unreadable(f"{where}: {answer}; {REWRITE}")
    _fine.add(version)


class _Scouts:
    """The scout of this process; one that dies is replaced, and the file tried once more before it is blamed."""

    def __init__(self, script: Path = SCOUT) -> None:
        self.script = script
        self.process: subprocess.Popen | None = None
        self.of, self.lock = 0, threading.Lock()

    def ask(self, path: str) -> str:
        """ "fine", what is wrong with the file, or "" where it cannot be found out."""
        with self.lock:
            answer = ""
            for _ in range(2):
                try:
                    if not self._started():
                        return ""
                    answer = self._answer(path)
                except BaseException:  # Ctrl-C: what it still says would be taken for the answer about the next file
                    self.end()
                    raise
                if "crashes" not in answer:
                    return answer
                self.end()  # it may have been an earlier file that broke it
            return answer

    def _answer(self, path: str) -> str:
        process = self.process
        assert process and process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(path).encode() + b"\n")
            process.stdin.flush()
            said = self._line()
        except OSError:
            said = b""
        if said.endswith(b"memory\n"):
            return "what it declares does not fit into 2 GB of memory"
        if said.endswith(b"fine\n"):
            return "fine"
        if process.poll() is None:
            process.kill()
        self.process = None
        hangs = process.wait() in {-getattr(signal, name, 0) for name in ("SIGKILL", "SIGXCPU")} - {0}
        return "the HDF5 library never ends reading it" if hangs else "the HDF5 library crashes over it"

    def _line(self) -> bytes:
        """What the scout says up to the end of a line; cut short where it dies, or says nothing for SILENCE."""
        assert self.process and self.process.stdout
        said = b""
        while not said.endswith(b"\n"):
            ready = select.select([self.process.stdout], [], [], SILENCE)[0] if os.name == "posix" else True
            more = os.read(self.process.stdout.fileno(), 65_536) if ready else b""
            if not more:
                break
            said = (said + more)[-64:]
        return said

    def _started(self) -> bool:
        if self.process and self.of == os.getpid() and self.process.poll() is None:
            return True
        if getattr(sys, "frozen", False) or not sys.executable:
            return False
        words = [sys.executable, "-P", str(self.script)]
        try:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0)
            self.of = os.getpid()
            return self._line().endswith(b"ready\n")
        except OSError:
            return False

    def end(self) -> None:
        """Let the scout go; one whose parent is killed ends by itself, when nothing more can come."""
        process, self.process = self.process, None
        if process and self.of == os.getpid():
            with suppress(OSError):
                process.kill()
                process.stdin.close()
                process.stdout.close()
                process.wait(timeout=5)


_scouts = _Scouts()
atexit.register(_scouts.end)


def inside_only(file: h5py.File, where: str) -> None:
    """Refuse an HDF5 file of which a part lies in another file: that one would be read, or written into.

    Soft links are not followed: what they lead to is met by its own name. Every group is looked at once, so loops end.
    """
    waiting, seen = [(file["/"].id, "")], {_address(file["/"].id)}
    while waiting:
        group, name = waiting.pop()
        for raw in list(group):
            path = f"{name}/{raw.decode('utf-8', 'replace')}"
            kind = group.links.get_info(raw).type
            if kind not in INSIDE:
                _refuse(where, path, "a link to another file", COPIED)
            if kind == h5py.h5l.TYPE_SOFT:
                continue
            node = h5py.h5o.open(group, raw)
            if isinstance(node, h5py.h5d.DatasetID):
                _refuse_storage(node, where, path)
                _refuse_size(node, where, path)
            elif isinstance(node, h5py.h5g.GroupID) and (address := _address(node)) not in seen:
                seen.add(address)
                waiting.append((node, path))


def _refuse_size(node: h5py.h5d.DatasetID, where: str, path: str) -> None:
    """Refuse a dataset that declares more than the whole file could hold: memory is taken before it is read."""
    declared = node.get_type().get_size() * node.get_space().get_simple_extent_npoints()
    held = h5py.h5i.get_file_id(node).get_filesize()
    if declared > SMALL + PACKED * held:
        raise Unreadable(
            f"{where}: {path} declares {declared / 2**30:,.1f} GB, more than a file of {held:,} bytes "
            f"can hold; {REWRITE}"
        )
    plan = node.get_create_plist()
    piece = plan.get_chunk() if plan.get_layout() == h5py.h5d.CHUNKED else ()
    if (taken := math.prod(piece) * node.get_type().get_size()) > LARGEST_CHUNK:
        raise Unreadable(
            f"{where}: {path} is packed in pieces of {taken / 2**30:,.1f} GB, which are only read whole; write it in "
            "smaller chunks"
        )


def matrix_market(path: Path, where: str) -> None:
    """Refuse a .mtx whose head, sizes or lines are not what they must be; the C parser may crash over these."""
    regular(path, where)
    packed = path.suffix == ".gz"
    with (gzip.open if packed else open)(path, "rb") as file:
        fault = _fault_of_head(file, path.stat().st_size * (PACKED if packed else 1))
    if fault:
        raise Unreadable(f"{where}: {path.name} is not a whole Matrix Market file ({fault}); fetch it again")


def _fault_of_head(file: BinaryIO, room: int) -> str:
    """What is wrong with a .mtx, "" where nothing is; room: bytes that it can hold."""
    if not MTX_HEAD.fullmatch(file.readline(LONGEST)):
        return "it does not begin with %%MatrixMarket matrix coordinate integer, real or pattern general"
    line = file.readline(LONGEST)
    while line.startswith(b"%") or (line and not line.strip()):
        line = file.readline(LONGEST)
    sizes = MTX_SIZES.fullmatch(line)
    if not sizes:
        return "it does not say rows, columns and entries in three numbers"
    entries = int(sizes[3])
    if 4 * entries > room:
        return f"it declares {entries:,} entries, more than it has room for"
    return _fault_of_lines(file, entries)


def _fault_of_lines(file: BinaryIO, entries: int) -> str:
    found, last = 0, b""
    while piece := file.read(PIECE):
        if strange := piece.translate(None, MTX_BYTES):
            return f"it holds {strange[:8]!r}, which is no part of a number"
        found += piece.count(b"\n")
        last = (last + piece)[-LONGEST:]
    tail = last.rstrip()
    found += bool(tail) and not last.endswith(b"\n")
    found -= max(0, last[len(tail) :].count(b"\n") - 1)  # empty lines at the end
    if found != entries:
        return f"it declares {entries:,} entries and has {found:,} lines of them"
    if entries and not MTX_LINE.fullmatch(tail.rpartition(b"\n")[2]):
        return "its last line is cut"
    return ""


COPIED = (
    "old = h5py.File('FILE'); new = h5py.File('whole.h5ad', 'w'); [old.copy(old[name], new, name, "
    "expand_external=True) for name in old]; new.attrs.update(old.attrs); new.close()"
)
BROUGHT_IN = (
    "file = h5py.File('FILE', 'r+'); node = file['{path}']; values, said = node[...], dict(node.attrs); "
    "del file['{path}']; file['{path}'] = values; file['{path}'].attrs.update(said); file.close()"
)


def _refuse_storage(node: h5py.h5d.DatasetID, where: str, path: str) -> None:
    plan = node.get_create_plist()
    if plan.get_layout() == h5py.h5d.CONTIGUOUS and plan.get_external_count():
        _refuse(where, path, "stored in another file", BROUGHT_IN)
    if plan.get_layout() == h5py.h5d.VIRTUAL:
        files = {plan.get_virtual_filename(i) for i in range(plan.get_virtual_count())}
        if files - {"."}:
            _refuse(where, path, "a view of another file", BROUGHT_IN)


def _refuse(where: str, path: str, what: str, remedy: str) -> None:
    raise Unreadable(
        f"{where}: {path} is {what}, which is neither read nor written; if you trust it, bring that into the file with "
        f"Python: import h5py; {remedy.replace('{path}', path)}"
    )


def _address(node: h5py.h5g.GroupID) -> int:
    return h5py.h5o.get_info(node).addr

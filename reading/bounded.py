"""Text that is read with bounds: neither a line that never ends nor lines without number can fill the memory."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from reading.guard import regular
from reading.matrix import REWRITE, Unreadable

LONGEST = 64 << 20  # bytes of a line: the names of two million cells
SHORTEST_BOUND = 4 << 20  # bytes that a line of few fields may have
FIELD = 64  # bytes of a field, in the mean over a line
MOST = 5_000_000  # lines of a file, or fields of a line: cells or genes


class Bounded(io.RawIOBase):
    """The bytes of a file; raises Unreadable where a line is longer than `longest`, or there are more than MOST."""

    def __init__(self, file: BinaryIO, where: str, longest: int):
        super().__init__()
        self.file, self.where, self.longest, self.run, self.lines = file, where, longest, 0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        sign = b"\n" if b"\n" in data or b"\r" not in data else b"\r"  # an old spreadsheet ends lines with \r alone
        first, last = data.find(sign), data.rfind(sign)
        longest = self.run + (len(data) if first < 0 else first)
        self.run = longest if first < 0 else len(data) - 1 - last
        self.lines += data.count(sign)
        if longest > self.longest:
            raise Unreadable(
                f"{self.where}: a line of more than {self.longest:,} bytes is no row of a table; {REWRITE}"
            )
        if self.lines > MOST:
            raise Unreadable(f"{self.where}: more than {MOST:,} lines; {REWRITE}, or give it as .h5ad")
        return len(data)


def longest_of(fields: int) -> int:
    """The bytes that a line of so many fields may have."""
    return min(4 * LONGEST, max(SHORTEST_BOUND, FIELD * fields))


@contextmanager
def opened(path: Path, where: str, longest: int = LONGEST) -> Iterator[io.BufferedReader]:
    """A file of text as bytes, unpacked where it is gzip (told by its first bytes), with bounds."""
    regular(path, where)
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    with (gzip.open if zipped else open)(path, "rb") as file:
        yield io.BufferedReader(Bounded(file, where, longest), 1 << 18)


def lines(path: Path, where: str, encoding: str = "utf-8") -> Iterator[str]:
    """The lines of a file of text, without their ends. Raises what a damaged one raises, or Unreadable."""
    with opened(path, where, SHORTEST_BOUND) as file, io.TextIOWrapper(file, encoding, newline="\n") as text:
        for line in text:
            yield line.rstrip("\r\n")

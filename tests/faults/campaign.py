"""Damage small valid files of every format and read them, and kill every command: the whole campaign, as two tables.

Each case loads, or ends in our own error that names the file.

Run: python tests/faults/campaign.py   (exit 1 where a case was unclean; in pieces: --formats, --first, --commands)
"""

from __future__ import annotations

import argparse
import queue
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from formats import FORMATS

LIMIT_SECONDS = 10  # of processor time, a case
SILENCE = 120.0  # seconds of a machine that others use too, after which a case hangs
LIMIT_BYTES = 4 << 30  # of address space for the child: 2 GB of data beside what the libraries map
CRASHES = (
    "h5ad",
    "h5ad gzip",
    "10x h5",
    "loom",
    "cellblast",
    "h5mu",
    "mtx folder",
    "mtx.gz folder",
    "zarr",
    "checkpoint",
    "state",
)


# -- damage


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with bits turned, a stretch set to zero, overwritten, cut out or doubled, cut off, another number."""
    at, kind = chance.randrange(len(data)), chance.randrange(8)
    length = chance.choice((1, 2, 4, 8, 64, 512))
    if kind < 2:
        changed = bytearray(data)
        for _ in range(1 if kind == 0 else 8):
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    if kind == 7:
        numbers = list(re.finditer(rb"\d+", data))
        if numbers:
            start, stop = chance.choice(numbers).span()
            return (
                data[:start] + chance.choice((b"0", b"-1", b"1", b"2147483648", b"99999999999", b"1e400")) + data[stop:]
            )
        kind = 6
    middle = {2: b"\0" * length, 3: chance.randbytes(length), 4: data[at : at + length] * 2, 5: b"", 6: b""}[kind]
    return data[:at] + middle + (b"" if kind == 6 else data[at + length :])


def cases(kind: str, folder: Path, numbers: range) -> Iterator[tuple[int, str]]:
    """(number, verdict) of each case: "loads", "refused", or what was unclean; the same for the same number."""
    make, read = FORMATS[kind]
    path, parts = make(folder)
    whole = {part: part.read_bytes() for part in parts}
    read(path)  # as it is, it must load
    for number in numbers:
        chance = random.Random(f"{kind} {number}")
        part = chance.choice(parts)
        part.unlink()
        part.write_bytes(damaged(whole[part], chance))
        yield number, verdict(read, path)
        part.write_bytes(whole[part])


def verdict(read: Callable, path: Path) -> str:
    """What became of one file."""
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
        found = "loads"
    except (ValueError, OSError) as error:
        ours = type(error).__module__ in ("reading.matrix", "builtins")
        found = "refused" if ours and path.stem in str(error) else f"not ours: {type(error).__name__}: {error}"
    except Exception as error:
        found = f"escaped: {type(error).__name__}: {error}"
    slow = time.process_time() - start > LIMIT_SECONDS
    return "slow" if slow else " ".join(found.split())[:300]


# -- many cases in children, each of which may die


def in_child(kind: str, numbers: range, folder: Path) -> Iterator[tuple[int, str]]:
    """As `cases`, in child processes: where one dies or hangs, that case is told and the next child goes on."""
    at = numbers.start
    while at < numbers.stop:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        words = [sys.executable, __file__, "--child", kind, str(at), str(numbers.stop), str(folder)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_lines_of, args=(child, lines), daemon=True).start()
        while at < numbers.stop:
            try:
                line = lines.get(timeout=SILENCE)
            except queue.Empty:
                line = "hangs"
            number, _, said = line.partition(" ")
            if number.isdigit():
                yield int(number), said
                at = int(number) + 1
                continue
            child.kill()
            yield at, "hangs" if line == "hangs" else f"crash: the process ended with {child.wait()}"
            at += 1
            break
        child.kill()
        child.wait()


def _lines_of(child: subprocess.Popen, lines: queue.Queue) -> None:
    for line in child.stdout or ():
        lines.put(line.rstrip("\n"))
    lines.put("")


def _child(kind: str, first: str, stop: str, folder: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number, said in cases(kind, Path(folder), range(int(first), int(stop))):
        print(number, said, flush=True)


def clean(said: str) -> bool:
    return said in ("loads", "refused")


def fuzz(number: int, first: int, names: list[str]) -> int:
    """Print the table of so many cases, all formats together; returns how many were unclean."""
    each, unclean = -(-number // len(names)), 0
    print("| format | cases | load | refused | unclean |\n|---|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for kind in names:
            found = list(in_child(kind, range(first, first + each), Path(folder) / "cases"))
            bad = [(number, said) for number, said in found if not clean(said)]
            tally = Counter(said for _, said in found)
            print(f"| {kind} | {len(found)} | {tally['loads']} | {tally['refused']} | {len(bad)} |", flush=True)
            for number, said in bad:
                print(f"{kind} {number}: {said}", file=sys.stderr, flush=True)
            unclean += len(bad)
    return unclean


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="of damage, all formats together; 0: none")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each format")
    parser.add_argument("--kills", type=int, default=30, help="of each command; 0: none")
    parser.add_argument("--commands", nargs="+", default=[], help="which are killed (default: all)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.child:
        _child(*words.child)
        return 0
    unclean = fuzz(words.cases, words.first, words.formats) if words.cases else 0
    if words.kills:
        import kills  # it has all the commands' imports

        print(flush=True)
        unclean += kills.table(words.kills, words.commands or list(kills.COMMANDS))
    return 1 if unclean else 0


if __name__ == "__main__":
    sys.exit(main())

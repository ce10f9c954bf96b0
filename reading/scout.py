"""Look through HDF5 files in a process of its own, which may crash or never end: that is what it is for.

A path a line comes in, in JSON; a dot goes out with every step, and a line ends when a file is looked through. Started
by reading.guard; it imports nothing of ours, because it is there for its own sake within a tenth of a second.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

try:
    import resource
except ImportError:  # not there on Windows: a step may take for ever, and whoever waits has to end it
    resource = None  # type: ignore[assignment]

STEP_SECONDS = 5  # of processor time: a step takes milliseconds
MEMORY = 2 << 30  # bytes beside what the libraries map
PIECE = 65_536  # texts read at once
WHOLE = 4 << 20  # bytes: numbers up to this size are read whole, of more the first and the last
SMALL, PACKED = 64 << 20, 1032  # as in reading.guard, which refuses what declares more


def step() -> None:
    """A sign of life; from here on the next step has its time."""
    os.write(1, b".")
    if resource:
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + STEP_SECONDS + 1, most))


def look(path: str) -> None:
    """Every link, attribute and text of a file, and its numbers at both ends; links to other files are not followed."""
    with h5py.File(path, "r") as file:
        waiting, seen = [file["/"].id], set()
        while waiting:
            group = waiting.pop()
            _attributes(group)
            for name in list(group):
                step()
                if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                    continue
                try:
                    node = h5py.h5o.open(group, name)
                    address = h5py.h5o.get_info(node).addr
                    if address in seen:
                        continue
                    seen.add(address)
                    if isinstance(node, h5py.h5g.GroupID):
                        waiting.append(node)
                    elif isinstance(node, h5py.h5d.DatasetID):
                        _attributes(node)
                        _values(h5py.Dataset(node), Path(path).stat().st_size)
                except MemoryError:
                    raise
                except Exception:  # what is only damaged is said by the reader, where it is read at all
                    continue


def _attributes(node: h5py.h5g.GroupID | h5py.h5d.DatasetID) -> None:
    attributes = h5py.AttributeManager(h5py.Group(node) if isinstance(node, h5py.h5g.GroupID) else h5py.Dataset(node))
    for name in list(attributes):
        step()
        try:
            attributes[name]
        except MemoryError:
            raise
        except Exception:
            continue


def _values(node: h5py.Dataset, held: int) -> None:
    plan = node.id.get_create_plist()
    if not node.shape or not node.size or plan.get_layout() == h5py.h5d.VIRTUAL or node.external:
        if node.shape == () and not node.external:
            _read(node, ())
        return
    if node.nbytes > SMALL + PACKED * held:
        return
    step()
    if node.chunks:
        if int(np.prod(node.chunks, dtype=float)) * node.dtype.itemsize > SMALL:
            return
        node.id.get_num_chunks()
    if node.dtype.kind in "OV" or node.nbytes <= WHOLE:
        rows = max(1, PIECE // max(1, node.size // node.shape[0]))
        for start in range(0, node.shape[0], rows):
            _read(node, np.s_[start : start + rows])
    else:
        _read(node, tuple(0 for _ in node.shape))
        _read(node, tuple(size - 1 for size in node.shape))


def _read(node: h5py.Dataset, which: tuple | slice) -> None:
    step()
    try:
        node[which]
    except MemoryError:
        raise
    except Exception:
        return


def main() -> None:
    """Answer one path after another until there is none: "fine", or "memory" where that did not do."""
    if resource:
        with suppress(OSError, ValueError):
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.write(1, b"ready\n")
    for line in sys.stdin:
        answer = b"fine\n"
        try:
            look(json.loads(line))
        except MemoryError:
            answer = b"memory\n"
        except Exception:  # cannot be opened, or walked: the reader says why
            pass
        os.write(1, answer)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()

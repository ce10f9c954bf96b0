"""What a file must be before a library reads it, or writes into it: a regular file whose parts all lie inside it."""

from __future__ import annotations

import stat
from pathlib import Path

import h5py

from reading.matrix import Unreadable

INSIDE = (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)


def regular(path: Path, where: str) -> None:
    """Refuse pipes, devices and sockets: to read them may never end. What is not there is left to the opener."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise Unreadable(f"{where}: not a regular file but a pipe, a device or a socket; save it as a file first")


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
                _refuse(where, path, "a link to another file")
            if kind == h5py.h5l.TYPE_SOFT:
                continue
            node = h5py.h5o.open(group, raw)
            if isinstance(node, h5py.h5d.DatasetID):
                _refuse_storage(node, where, path)
            elif isinstance(node, h5py.h5g.GroupID) and (address := _address(node)) not in seen:
                seen.add(address)
                waiting.append((node, path))


def _refuse_storage(node: h5py.h5d.DatasetID, where: str, path: str) -> None:
    plan = node.get_create_plist()
    if plan.get_layout() == h5py.h5d.CONTIGUOUS and plan.get_external_count():
        _refuse(where, path, "stored in another file")
    if plan.get_layout() == h5py.h5d.VIRTUAL:
        files = {plan.get_virtual_filename(i) for i in range(plan.get_virtual_count())}
        if files - {"."}:
            _refuse(where, path, "a view of another file")


def _refuse(where: str, path: str, what: str) -> None:
    raise Unreadable(
        f"{where}: {path} is {what}, which is neither read nor written; copy the file with its links resolved: "
        "h5repack --merge, or adata = anndata.read_h5ad(FILE); adata.write_h5ad('whole.h5ad')"
    )


def _address(node: h5py.h5g.GroupID) -> int:
    return h5py.h5o.get_info(node).addr

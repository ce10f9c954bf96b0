"""A query that outgrows one machine: every n-th block of it labelled by itself, and the parts joined."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from annotation import outcome, saved, write_h5ad
from annotation.keep import model_of
from annotation.outcome import Calls, Found
from annotation.work import Work
from files import whole
from voice import RESULT, log

KIND = "shard"
ASKED = ("consensus", "umap", "probabilities")  # wishes that a part holds something for
TIMES = ("seconds", "processor")
EMBEDDING = "embedding"  # the one array that is not read at once


def path_of(out: Path, share: tuple[int, int]) -> Path:
    """What the part of this share of the query is called, beside the .h5ad it will be a part of."""
    return out.with_name(f"{out.stem}.{share[0]}of{share[1]}.shard")


def found_beside(out: Path) -> list[Path]:
    """The parts that lie beside the .h5ad to write, by their names. ValueError where there is none."""
    found = sorted(out.parent.glob(f"{glob.escape(out.stem)}.*of*.shard"))
    if not found:
        raise ValueError(
            f"no part {out.stem}.1of2.shard or the like lies in {out.parent.absolute()}; make them with --shard"
        )
    return found


def starts_of(cells: int, share: tuple[int, int]) -> range:
    """Where the blocks of a share (i of n, from 1) begin."""
    i, n = share
    return range((i - 1) * outcome.BLOCK, cells, n * outcome.BLOCK)


def write(path: Path, work: Work, share: tuple[int, int]) -> None:
    """Label a share of the query's blocks and write down what its cells are by themselves."""
    starts = starts_of(len(work.query), share)
    n = outcome.cells_in(starts, len(work.query))
    with whole(path) as part, write_h5ad.opened(part, "w") as file:
        sink = file.create_dataset(EMBEDDING, (n, work.labeller.width), np.float32)
        calls = outcome.look(work, sink, starts)
        arrays = {one.name: getattr(calls, one.name) for one in fields(Calls) if one.name not in TIMES}
        words = describe(work) | {"share": share} | {name: getattr(calls, name) for name in TIMES}
        saved.put(file, KIND, words, {name: array for name, array in arrays.items() if array is not None})
    log.log(RESULT, f"{path} written: {n:,} of {len(work.query):,} cells, share {share[0]} of {share[1]}")


def describe(work: Work) -> dict[str, Any]:
    """What parts must have in common to be joined."""
    return {
        "model": model_of(work),
        "cells": len(work.query),
        "block": outcome.BLOCK,
        "asked": {name: getattr(work.wishes, name) for name in ASKED},
    }


def joined(work: Work, paths: Sequence[Path], sink: Callable[[int], Any]) -> Found:
    """What one run would have found, from its parts. sink: handed the width H, gives what takes the embedding (N, H).

    ValueError where a part is missing, there twice, damaged, or of another model, with its name.
    """
    parts = {path: saved.get(path, KIND, "label that share again with --shard", EMBEDDING) for path in paths}
    shares = check(describe(work), {path: words for path, (words, _) in parts.items()})
    target = sink(work.labeller.width)
    calls = Calls.none(len(work.query), work)
    for path, share in shares.items():
        words, arrays = parts.pop(path)
        with h5py.File(path, "r") as file:
            place(calls, arrays, file[EMBEDDING], starts_of(len(work.query), share), target)
        for name in TIMES:
            setattr(calls, name, getattr(calls, name) + words[name])
    log.info(f"{len(shares)} parts joined: {len(work.query):,} cells")
    return outcome.conclude(work, calls, target)


def check(mine: dict[str, Any], theirs: dict[Path, dict[str, Any]]) -> dict[Path, tuple[int, int]]:
    """The share that each part is of, all of them there once. Raises ValueError, naming the part that is not right."""
    shares: dict[tuple[int, int], Path] = {}
    sizes = {words["share"][1]: path for path, words in theirs.items()}
    if len(sizes) > 1:
        listed = ", ".join(f"{path} is of {n}" for n, path in sorted(sizes.items()))
        raise ValueError(f"the parts are of different divisions: {listed}; name those of one with --merge")
    for path, words in theirs.items():
        share = tuple(words["share"])
        if share in shares:
            raise ValueError(f"{path} and {shares[share]} are both share {share[0]} of {share[1]}; leave one out")
        shares[share] = path
        if words["cells"] != mine["cells"] or words["block"] != mine["block"]:
            raise ValueError(
                f"{path} is of {words['cells']:,} cells, the query has {mine['cells']:,}; name its own parts"
            )
        for name, value in words["asked"].items():
            if value != mine["asked"][name]:
                flag = f"--{name}" if value else f"--no-{name}" if name != "probabilities" else "no --probabilities"
                raise ValueError(f"{path} was made with {flag}; say the same with --merge as with --shard")
        if words["model"] != mine["model"]:
            raise ValueError(
                f"{path} was labelled by another model ({words['model']}, here {mine['model']}): flags, data or "
                "machine differ. Learn once with --save_labeller, and give that file to every --shard and the --merge "
                "with --labeller"
            )
    n = next(iter(sizes))
    if missing := [i for i in range(1, n + 1) if (i, n) not in shares]:
        listed = ", ".join(f"{i} of {n}" for i in missing)
        there = ", ".join(str(path) for path in theirs)
        raise ValueError(f"share {listed} is missing among the parts ({there}); make it with --shard {missing[0]}/{n}")
    return {path: share for share, path in sorted(shares.items())}


def place(calls: Calls, arrays: dict[str, np.ndarray], embedding: h5py.Dataset, starts: range, target: Any) -> None:
    """Put what a part says of its blocks, which begin at `starts`, where they are in the query."""
    done, n = 0, len(calls.first)
    for start in starts:
        rows = slice(start, min(start + outcome.BLOCK, n))
        theirs = slice(done, done + rows.stop - rows.start)
        for name, array in arrays.items():
            getattr(calls, name)[rows] = array[theirs]
        target[rows] = embedding[theirs]
        done = theirs.stop

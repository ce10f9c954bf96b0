"""Hostile links: a file whose parts lie in another is neither read nor written into.

Run: python -m pytest tests/faults/test_links.py
"""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from conftest import HUMAN, write_dataset
from test_annotate import few, world

import annotate
from reading.cells import Unreadable, read


def external_link(file, victim):
    file["uns/away"] = h5py.ExternalLink(victim, "/kept")


def external_group(file, victim):
    del file["obsm"]
    file["obsm"] = h5py.ExternalLink(victim, "/")


def external_storage(file, victim):
    file.create_dataset("obs/secret", (120,), "u1", external=[(str(victim), 0, 120)])


def virtual(file, victim):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(str(victim), "kept", (3,))
    file.create_virtual_dataset("obsm/away", layout)


def deep_link(file, victim):
    file["uns/a/b/c"] = h5py.ExternalLink(victim, "/kept")


@pytest.fixture
def world_of_two(tmp_path):
    """A query, and a file that is nobody's business."""
    few(world()).write_h5ad(tmp_path / "query.h5ad")
    with h5py.File(tmp_path / "victim.h5", "w") as file:
        file["kept"] = np.arange(3, dtype="f4")
    return tmp_path / "query.h5ad", tmp_path / "victim.h5"


@pytest.mark.parametrize("hostile", [external_link, external_group, external_storage, virtual, deep_link])
def test_a_link_out_of_the_file_is_refused_and_the_other_file_stays_as_it_is(world_of_two, capsys, hostile):
    query, victim = world_of_two
    with h5py.File(query, "r+") as file:
        hostile(file, victim)
    before = victim.read_bytes()
    with pytest.raises(Unreadable, match="query.*another file"):
        read(query)
    out = query.with_name("out.h5ad")
    assert annotate.main(["--query", str(query), "--out", str(out), "--embed_only", "--no-umap", "--offline"]) == 2
    assert "another file" in capsys.readouterr().err
    assert victim.read_bytes() == before
    assert sorted(path.name for path in query.parent.iterdir()) == ["query.h5ad", "victim.h5"]


@pytest.mark.parametrize("hostile", [external_link, external_group, external_storage, virtual, deep_link])
def test_what_is_proposed_for_a_file_in_parts_makes_it_a_file_that_is_read(world_of_two, monkeypatch, hostile):
    query, victim = world_of_two
    monkeypatch.chdir(query.parent)
    with h5py.File(query, "r+") as file:
        hostile(file, victim)
    with pytest.raises(Unreadable) as refused:
        read(query)
    code = str(refused.value).split("with Python: ")[1].replace("FILE", query.name)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    mended = query.with_name("whole.h5ad") if "whole.h5ad" in code else query
    victim.unlink()
    assert len(read(mended).cells) == 120


def test_links_inside_the_file_and_loops_are_read_as_ever(world_of_two):
    query, _ = world_of_two
    with h5py.File(query, "r+") as file:
        file["uns/soft"] = h5py.SoftLink("/X")
        file["uns/nowhere"] = h5py.SoftLink("/not/there")
        file["uns/loop"] = file["/"]  # a hard link to its own root
    assert len(read(query).cells) == 120


def test_a_cell_blast_file_with_its_matrix_elsewhere_is_refused(tmp_path):
    path, other = write_dataset(tmp_path / "a.h5", 1, HUMAN), write_dataset(tmp_path / "b.h5", 2, HUMAN)
    with h5py.File(path, "r+") as file:
        del file["exprs"]
        file["exprs"] = h5py.ExternalLink(other, "/exprs")
    with pytest.raises(Unreadable, match="a.h5.*exprs is a link to another file"):
        read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5ad")
    with pytest.raises(ValueError, match="pipe.h5ad.*regular file"):
        read(tmp_path / "pipe.h5ad")

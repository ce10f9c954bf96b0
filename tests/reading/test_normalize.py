"""What the numbers are, and how they become log1p of CP10k. Run: pytest tests/reading/test_normalize.py"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, vstack

from reading.normalize import NAMED, Values, choose, detect, to_log1p, values_named

QUICK = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)  # derandomize: the same worlds every time, a failure is never a matter of luck


def make_counts(seed=0, cells=40, genes=300, depth=2000.0, dispersed=False):
    """Counts (cells, genes) of a few strong and many weak genes, every cell of another depth, none empty."""
    rng = np.random.default_rng(seed)
    share = rng.gamma(0.5, size=genes) + 1e-3
    mean = np.outer(depth * rng.uniform(0.5, 2, cells), share / share.sum())
    if dispersed:
        mean = mean * rng.gamma(2.0, 0.5, mean.shape)
    counts = rng.poisson(mean)
    counts[:, 0] += 1
    return counts.astype(np.float64)


def scaled(counts, total):
    return counts / counts.sum(axis=1, keepdims=True) * total


def slow_log1p(counts):
    return np.log1p(scaled(counts, 1e4))


WAYS = {
    "counts": lambda c: c,
    "cp10k": lambda c: scaled(c, 1e4),
    "cpm": lambda c: scaled(c, 1e6),
    "proportions": lambda c: scaled(c, 1.0),
    "log1p": slow_log1p,
    "log1p of the median depth": lambda c: np.log1p(scaled(c, np.median(c.sum(axis=1)))),
    "log1p of CPM": lambda c: np.log1p(scaled(c, 1e6)),
    "log2 of CP10k": lambda c: np.log2(scaled(c, 1e4) + 1),
    "log2 of TPM/10": lambda c: np.log2(scaled(c, 1e5) + 1),
    "log2 of CPM": lambda c: np.log2(scaled(c, 1e6) + 1),
    "log10 of CP10k": lambda c: np.log10(scaled(c, 1e4) + 1),
    "log1p of counts": np.log1p,
    "log2 of counts": lambda c: np.log2(c + 1),
}
worlds = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "cells": st.integers(10, 60),
        "genes": st.integers(60, 400),
        "depth": st.floats(300, 60_000),
        "dispersed": st.booleans(),
    }
)


def sparse(values):
    return csr_matrix(np.asarray(values, dtype=np.float32))


@pytest.mark.parametrize("way", WAYS)
@QUICK
@given(world=worlds)
def test_counts_brought_into_any_form_come_back_as_the_same_log1p(way, world):
    counts = make_counts(**world)
    stored = sparse(WAYS[way](counts))
    values = detect(stored)
    assert values.sure
    np.testing.assert_allclose(to_log1p(stored, values).toarray(), slow_log1p(counts), atol=2e-3)


@pytest.mark.parametrize("way", ["cp10k", "cpm", "log1p", "log2 of CP10k", "log2 of CPM", "log10 of CP10k"])
@QUICK
@given(world=worlds, share=st.floats(0.3, 0.8))
def test_a_selection_of_genes_keeps_the_scale_of_all_of_them(way, world, share):
    counts = make_counts(**world | {"genes": 400, "depth": min(world["depth"], 4000)})
    kept = np.random.default_rng(world["seed"]).random(400) < share
    stored = sparse(WAYS[way](counts)[:, kept])
    result = to_log1p(stored, detect(stored)).toarray()
    np.testing.assert_allclose(result, slow_log1p(counts)[:, kept], atol=2e-3)


@QUICK
@given(world=worlds, clip=st.sampled_from([None, 10.0]), logged=st.booleans())
def test_z_scores_are_always_refused(world, clip, logged):
    values = slow_log1p(make_counts(**world)) if logged else make_counts(**world)
    z = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-9)
    with pytest.raises(ValueError, match="negative values.*supply the raw counts"):
        detect(sparse(z if clip is None else z.clip(-clip, clip)))


@QUICK
@given(world=worlds)
def test_counts_corrected_for_collisions_are_counts(world):
    counts = make_counts(**world | {"depth": min(world["depth"], 3000)})
    corrected = -4096 * np.log1p(-counts.clip(max=4000) / 4096)  # as CEL-seq counts are, with 4,096 barcodes
    for way, kind in (
        ("counts", "counts"),
        ("log1p of counts", "log_counts"),
        ("log2 of counts", "log_counts"),
    ):
        stored = sparse(WAYS[way](corrected))
        assert detect(stored).kind == kind
        result = to_log1p(stored, detect(stored)).toarray()
        np.testing.assert_allclose(result, slow_log1p(corrected), atol=2e-3)


@pytest.mark.parametrize("way", ["counts", "log1p of counts", "log2 of counts"])
def test_counts_with_shared_reads_are_counts_and_so_are_their_logarithms(way):
    counts = make_counts()
    counts[:, ::7] *= 0.45
    stored = sparse(WAYS[way](counts))
    values = detect(stored)
    assert values.kind == ("counts" if way == "counts" else "log_counts") and values.sure
    np.testing.assert_allclose(to_log1p(stored, values).toarray(), slow_log1p(counts), atol=2e-3)


def test_blocks_give_what_the_whole_gives():
    stored = sparse(np.log2(scaled(make_counts(cells=50), 1e6) + 1))
    values = detect(stored[:20])
    blocks = vstack([to_log1p(stored[a : a + 7], values) for a in range(0, 50, 7)])
    assert abs(blocks - to_log1p(stored, values)).max() == 0


def test_the_input_is_left_as_it_was():
    stored = sparse(make_counts())
    before = stored.copy()
    for name in NAMED:
        to_log1p(sparse(np.log1p(make_counts())), values_named(name))
    to_log1p(stored, Values("counts"))
    assert abs(stored - before).max() == 0 and to_log1p(stored, Values("counts")).dtype == np.float32


def test_a_cell_without_counts_stays_zero_and_does_not_disturb():
    counts = make_counts(cells=30)
    counts[[0, 7, 29]] = 0
    for way in ("counts", "log1p of counts"):
        stored = sparse(WAYS[way](counts))
        result = to_log1p(stored, detect(stored)).toarray()
        assert np.isfinite(result).all() and not result[[0, 7, 29]].any()
    whole = counts.sum(axis=1) > 0
    logged = np.zeros_like(counts)
    logged[whole] = slow_log1p(counts[whole])
    assert detect(sparse(logged)).is_log1p()


def test_a_block_of_empty_cells_is_a_block_of_zeros():
    for name in NAMED:
        assert to_log1p(csr_matrix((3, 5), dtype=np.float32), values_named(name)).nnz == 0


def test_stored_zeros_do_not_disturb():
    stored = sparse(slow_log1p(make_counts()))
    stored.data[::5] = 0
    assert detect(stored).kind == "log"


@pytest.mark.parametrize("way", ["counts", "cp10k", "log1p", "log2 of CPM"])
def test_one_cell_is_enough(way):
    counts = make_counts(cells=1, genes=2000, depth=5000)
    stored = sparse(WAYS[way](counts))
    np.testing.assert_allclose(to_log1p(stored, detect(stored)).toarray(), slow_log1p(counts), atol=2e-3)


@pytest.mark.parametrize("decimals", [2, 3])
def test_rounded_logarithms_are_told_all_the_same(decimals):
    stored = sparse(slow_log1p(make_counts(cells=60, genes=1000, depth=4000)).round(decimals))
    assert detect(stored).is_log1p()


def test_counts_thinned_to_one_depth_are_counts():
    rng = np.random.default_rng(0)
    counts = rng.multinomial(3000, rng.dirichlet(np.full(200, 0.3)), size=30)
    assert detect(sparse(counts)) == Values("counts")


def test_tpm_of_some_genes_under_log2_is_guessed_and_says_so():
    rng = np.random.default_rng(0)
    tpm = scaled(make_counts(cells=50, genes=900, depth=100_000) / rng.uniform(0.3, 8, 900), 1e5)
    values = detect(sparse(np.log2(tpm + 1)[:, :500]))
    assert (values.kind, values.base, values.sure) == ("log", 2.0, False) and "--values" in values.describe()


def test_small_unknown_logarithms_are_rescaled_by_cell():
    rng = np.random.default_rng(0)
    values = detect(sparse(rng.gamma(1.0, 0.05, (40, 300))))
    assert values == Values("log", np.e, None, sure=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_numbers_are_refused(bad):
    stored = sparse(make_counts())
    stored.data[5] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        detect(stored)
    with pytest.raises(ValueError, match="NaN or infinite"):
        to_log1p(stored, Values("counts"))


def test_only_zeros_are_refused():
    with pytest.raises(ValueError, match="only zeros"):
        detect(csr_matrix((20, 30), dtype=np.float32))


def test_a_negative_value_that_the_sample_did_not_hold_is_refused_later():
    stored = sparse(make_counts())
    stored.data[-1] = -1
    with pytest.raises(ValueError, match="negative"):
        to_log1p(stored, Values("counts"))


def test_descriptions_say_what_was_found_and_what_is_done():
    counts = make_counts()
    said = {way: detect(sparse(make(counts))).describe() for way, make in WAYS.items()}
    assert said["counts"] == "X holds raw counts: scaled to 10,000 a cell and log1p"
    assert said["cp10k"] == "X holds CP10k, not logged: log1p"
    assert said["log1p"] == "X holds log1p of CP10k: used as it is"
    assert said["log2 of CPM"] == (
        "X holds log2(x + 1) of CPM or TPM: log2(x + 1) undone, rescaled to 10,000 a cell and log1p"
    )
    assert said["log1p of counts"] == ("X holds log1p of raw counts: log1p undone, rescaled to 10,000 a cell and log1p")
    assert len(set(said.values())) == len(said)


def test_a_name_overrides_and_an_unknown_one_lists_the_names():
    stored = sparse(np.log2(scaled(make_counts(), 1e6) + 1))
    assert abs(to_log1p(stored, values_named("log2_cpm")) - to_log1p(stored, detect(stored))).max() < 1e-5
    with pytest.raises(ValueError, match="log2_tpm10"):
        values_named("rpkm")


def test_raw_counts_are_chosen_wherever_they_are():
    counts = make_counts()
    z = counts - counts.mean(axis=0)
    logged = slow_log1p(counts)
    c, z, x = sparse(counts), sparse(z), sparse(logged)
    assert choose({".raw": x, "layers['counts']": c, "X": z})[0] == "layers['counts']"
    assert choose({".raw": c, "X": x}) == (".raw", Values("counts"))
    assert choose({".raw": x, "X": c})[0] == "X"
    assert choose({".raw": x, "X": x})[0] == ".raw"
    assert choose({"layers['spliced']": c, "X": x})[0] == "X"
    assert choose({"layers['spliced']": c, "X": z})[0] == "layers['spliced']"
    assert choose({".raw": x, "X": c[:, :50]})[0] == ".raw"
    with pytest.raises(ValueError, match="layers.*negative.*X holds negative"):
        choose({"layers['scaled']": z, "X": z})


# -- what is doubtful is said, with the number that gives it away
@pytest.mark.parametrize("way", ["counts", "log1p", "log2 of CP10k"])
def test_a_logarithm_taken_twice_is_told_and_both_are_undone(way):
    counts = make_counts()
    once = np.log1p(counts) if way == "counts" else WAYS[way](counts)
    twice = csr_matrix(np.log1p(once))
    found = detect(twice)
    assert found.twice and "twice" in found.doubt and f"{twice.max():.3g}" in found.doubt
    assert "log1p of log" in found.describe() and not found.is_log1p()
    np.testing.assert_allclose(to_log1p(twice.astype(np.float32), found).toarray(), slow_log1p(counts), rtol=2e-3)


@pytest.mark.parametrize("way", sorted(WAYS))
def test_what_people_usually_have_is_not_doubted(way):
    found = detect(csr_matrix(WAYS[way](make_counts(cells=60))))
    assert not found.doubt and not found.twice


def test_square_roots_residuals_and_shares_of_the_largest_are_doubted():
    counts = make_counts(cells=60)
    assert "square roots" in detect(csr_matrix(np.sqrt(counts))).doubt
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
    residuals = np.clip((counts - expected) / np.sqrt(expected + expected**2 / 100 + 1e-9), 0, None) * 10
    found = detect(csr_matrix(residuals))
    assert not found.sure and f"{residuals.max():,.4g}" in found.doubt
    corrected = csr_matrix(counts * np.random.default_rng(0).uniform(0.8, 1, counts.shape) * 20)
    assert detect(corrected).doubt and not detect(corrected, "layers['counts']").doubt  # its owner says what it is
    log = slow_log1p(counts)
    found = detect(csr_matrix(log / np.maximum(log.max(0), 1e-9)))
    assert not found.sure and "the largest is 1," in found.doubt


def test_values_that_leave_no_gene_at_0_are_doubted_as_denoised_but_a_panel_is_not():
    counts = make_counts(cells=20, genes=2500)
    denoised = scaled(counts + 0.02 * counts.mean(0) + 1e-4, 1e4)
    assert "100% of all entries are above 0" in detect(csr_matrix(np.log1p(denoised))).doubt
    assert not detect(csr_matrix(np.log1p(scaled(denoised[:, :300], 1e4)))).doubt


def test_a_doubtful_matrix_gives_way_to_one_that_is_clear():
    counts = make_counts()
    matrices = {".raw": csr_matrix(np.sqrt(counts)), "X": csr_matrix(slow_log1p(counts))}
    assert choose(matrices)[0] == "X"

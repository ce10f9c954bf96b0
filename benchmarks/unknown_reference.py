"""Does a labeller with references know what it does not know: pairs of one tissue, halves of a set, foreign queries.

Each with all types in the reference and with each type left out of it. Beside it the highest probability of logistic
regression and the distance to the nearest reference cell in 50 components.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from annotation import foreign, road
from annotation import labeller as learn
from annotation.encoder import pretrain_here
from reading import align, catalogue, normalize
from reading import source as q
from reading.cells import Cells, read
from stages import reduce

# Sets of one inner list share cells, or may: they are no pair.
TISSUES = {
    "blood": [
        ["PBMC3k_10x"],
        ["Kang_PBMC_ctrl", "Kang_PBMC_ifnb_2800"],
        ["Zheng_CellO_PBMC", "Zheng_garnett_PBMC", "Zheng_singleCellNet_PBMC"],
    ],
    "islets": [["Baron_human_subset"], ["Xin_subset_980genes"], ["panc8_small"]],
    "mouse pancreas": [["TabulaMuris_pancreas_facs_1092genes"], ["BastidasPonce_pancreas_E15"]],
    "lung lines": [["Tian_celseq2_3cl"], ["Tian_celseq2_5cl_p1"], ["Tian_celseq2_5cl_p2"], ["Tian_dropseq_3cl"]],
}
# Sets between which it is open whether they are of one world: no foreign query.
KIN = (
    {"PBMC3k_10x", "Kang_PBMC_ctrl", "Kang_PBMC_ifnb_2800", "Zheng_CellO_PBMC", "Zheng_garnett_PBMC",
     "Zheng_singleCellNet_PBMC", "Puram_headneck"},
    {"Baron_human_subset", "Xin_subset_980genes", "panc8_small", "TabulaMuris_pancreas_facs_1092genes",
     "BastidasPonce_pancreas_E15"},
    {"Tian_celseq2_3cl", "Tian_celseq2_5cl_p1", "Tian_celseq2_5cl_p2", "Tian_dropseq_3cl"},
    {"Tirosh_oligodendroglioma", "Marques_oligodendrocyte", "Zeisel_subset_1100genes", "Camp_fetal_neocortex",
     "Pollen"},
    {"Su_fetal_liver_1000genes", "Schlitzer_DC_progenitors"},
)  # fmt: skip
# What types are called in several sets, at the level that they share; a name that is not here stands for itself.
SAME = {
    "B cell": ("B", "B cells", "B Activated", "b_cell", "bcell_cd19"),
    "T cell": ("CD8 T", "Memory CD4 T", "Naive CD4 T", "CD4 T cells", "CD8 T cells", "CD4 Memory T", "CD4 Naive T",
               "T activated", "cd4_cd25_regulatory_t_cell", "cd4_cd45ra_naive_t_cell", "cd4_cd45ro_memory_t_cell",
               "cd4_helper_t_cell", "cd8_cd45ra_naive_t_cell", "cd8_t_cell", "tcell_cd4_helper", "tcell_cd8_cytotoxic"),
    "monocyte": ("CD14+ Mono", "FCGR3A+ Mono", "CD14+ Monocytes", "FCGR3A+ Monocytes", "CD14 Mono", "CD16 Mono",
                 "monocyte", "monocytes_cd14"),
    "NK cell": ("NK", "NK cells", "cd56_nk_cell", "nkcell_cd56"),
    "dendritic cell": ("DC", "Dendritic cells"),
    "platelet": ("Platelet", "Megakaryocytes", "Mk"),
    "CD34": ("cd34_cell", "cd34"),
    "alpha": ("alpha", "Alpha", "pancreatic A cell"), "beta": ("beta", "Beta", "type B pancreatic cell"),
    "delta": ("delta", "Delta", "pancreatic D cell"), "gamma": ("gamma", "pancreatic PP cell"),
    "ductal": ("ductal", "Ductal", "pancreatic ductal cell"), "acinar": ("acinar", "pancreatic acinar cell"),
    "activated_stellate": ("activated_stellate", "pancreatic stellate cell"),
}  # fmt: skip
COLUMNS = ("known lost", "worst type", "unknown found", "AUROC", "max LR", "PC distance", "accuracy", "ECE",
           "errors above .9", "new above .9")  # fmt: skip
COMMON = {name: common for common, names in SAME.items() for name in names}


def jobs(sets: dict[str, Cells], seed: int) -> list[tuple[str, str, str]]:
    """(kind, reference, query): ordered pairs of one tissue, halves of sets of 400 cells, three foreign ones each."""
    found = [
        ("pair", a, b)
        for families in TISSUES.values()
        for mine in families
        for others in families
        for a in mine
        for b in others
        if mine is not others and a in sets and b in sets
    ]
    found += [("half", name, name) for name in sets if len(sets[name].labels) >= 400]
    for i, a in enumerate(sets):
        rng = np.random.default_rng((seed, i))
        rest = [b for b in rng.permutation(sorted(sets)) if b != a and not any({a, b} <= kin for kin in KIN)]
        found += [("foreign", a, str(b)) for b in rest[:3]]
    return found


def source(cells: Cells, rows: np.ndarray, table) -> q.Source:
    part = Cells(cells.name, cells.path, cells.counts[rows], cells.genes, [cells.cells[i] for i in rows])
    with contextlib.redirect_stdout(io.StringIO()):
        return q.in_memory(part, table, "X", normalize.detect(cells.counts[:1000]))


def unknown_reference(args) -> list[dict]:
    """One row for each reference, query and type left out; args.cells bounds the cells of either side.

    args.out is written after every pair; pairs that are in it are not measured again.
    """
    table = catalogue.orthologs(args.data_dir, offline=True)
    with open(args.data_dir / "datasets.csv") as file:
        names = pd.read_csv(file)["name"]
    wanted = args.datasets.split(",") if args.datasets else list(names)
    sets = {name: read(Path(args.data_dir) / f"{name}.h5") for name in names if name in wanted}
    sets = {name: cells for name, cells in sets.items() if cells.labels is not None}
    rows = pd.read_csv(args.out).to_dict("records") if args.out and args.out.exists() else []
    rows = [row | {"left out": "" if pd.isna(row["left out"]) else row["left out"]} for row in rows]
    done = {(row["kind"], row["reference"], row["query"]) for row in rows}
    for kind, a, b in jobs(sets, 0):
        if (kind, a, b) in done:
            continue
        rng = np.random.default_rng(0)
        mine, theirs = (np.flatnonzero(sets[name].labels.astype(str) != "") for name in (a, b))
        if kind == "half":
            mixed = rng.permutation(mine)
            mine, theirs = np.sort(mixed[: len(mixed) // 2]), np.sort(mixed[len(mixed) // 2 :])
        codes = np.unique(sets[a].labels[mine].astype(str), return_inverse=True)[1]
        mine = mine[road.evenly(codes, args.cells, rng)]
        theirs = np.sort(rng.choice(theirs, min(args.cells, len(theirs)), replace=False))
        rows += of_pair(kind, sets[a], mine, sets[b], theirs, table, kind != "foreign")
        print(json.dumps(rows[-1], default=float), flush=True)
        if args.out:
            pd.DataFrame(rows).to_csv(args.out, index=False, float_format="%.4f")
    tell(pd.DataFrame(rows))
    return rows


def of_pair(kind, reference: Cells, mine, cells: Cells, theirs, table, leave_out: bool) -> list[dict]:
    """All types known, then each type of both sides (5 cells and more in the query) left out of the reference."""
    known, truth = reference.labels[mine].astype(str), cells.labels[theirs].astype(str)
    has, is_ = (np.array([COMMON.get(name, name) for name in names]) for names in (known, truth))
    gone = [name for name in np.unique(has) if (is_ == name).sum() >= 5] if leave_out else []
    whole, query = source(reference, mine, table), source(cells, theirs, table)
    encoder, rows = None, []
    for out in [None, *gone]:
        kept = np.flatnonzero(has != out)
        if len(np.unique(known[kept])) < 2:
            continue
        part = source(reference, mine[kept], table)
        if encoder is None:  # made without labels: the same whatever type is left out, as published ones are
            shared = q.shared_genes([query, whole])
            checkpoint = pretrain_here([query, whole], shared, 0)
            linear = checkpoint.encoder.linear
            weight, bias = (x.detach().cpu().numpy() for x in (linear.weight, linear.bias))
            encoder = learn.Embedder(checkpoint.genes, weight.T.copy(), bias.copy())
        classes, codes = np.unique(known[kept], return_inverse=True)
        labeller = learn.fit(query, encoder, np.full(len(query), -1), list(classes), [(part, codes)], error=0.05)
        row = {"kind": kind, "reference": reference.name, "query": cells.name, "left out": out or "",
               "genes": len(shared), "familiarity": labeller.learnt.familiarity or np.nan,
               "foreign": labeller.learnt.foreign}  # fmt: skip
        rows.append(row | measure(labeller, classes, has[kept], is_, out, part, query, known[kept], truth))
    return rows


def measure(labeller, classes, has, is_, out, part, query, known, truth) -> dict:
    fitted = labeller.fitted
    is_, scores, flagged = is_[fitted.rows], fitted.scores, fitted.strange
    p, common = fitted.probabilities, np.array([COMMON.get(str(name), str(name)) for name in classes])
    same, new = np.isin(is_, has), ~np.isin(is_, has) if out is None else is_ == out
    row = {"unexplained": labeller.unexplained, "top confidence": float(p.max())}
    if same.any():
        called = common[p.argmax(axis=1)]
        sure = (p * (common == called[:, None])).sum(axis=1)  # at the level that both sides share
        right = called == is_
        shares = {name: flagged[is_ == name].mean() for name in np.unique(is_[same]) if (is_ == name).sum() >= 10}
        row |= {
            "known": int(same.sum()),
            "known lost": flagged[same].mean(),
            "worst type": max(shares.values(), default=np.nan),
        }
        in_bin = np.minimum((sure[same] * 15).astype(int), 14)
        off = np.abs(np.bincount(in_bin, weights=sure[same] - right[same], minlength=15)).sum() / same.sum()
        high = same & (sure > 0.9)
        row |= {"accuracy": right[same].mean(), "ECE": off, "errors above .9": (high & ~right).sum() / same.sum()}
    if new.sum() >= 5:
        row["unknown found"] = flagged[new].mean()
        row["new above .9"] = (p.max(axis=1)[new] > 0.9).mean()
    if same.sum() >= 5 and new.sum() >= 5:
        use = same | new
        genes = q.shared_genes([query, part])
        x, y = (align.align(one.log(one.take(np.arange(len(one))))[0], one.genes, genes) for one in (part, query))
        y = y[fitted.rows]
        regression = LogisticRegression(max_iter=100, tol=1e-3).fit(x, known)
        axes = reduce.components(x, min(50, min(x.shape) - 1))
        near = (
            NearestNeighbors(n_neighbors=1).fit(reduce.project(x, *axes)).kneighbors(reduce.project(y, *axes))[0][:, 0]
        )
        for name, one in (
            ("AUROC", scores),
            ("max LR", -regression.predict_proba(y).max(axis=1)),
            ("PC distance", near),
        ):
            row[name] = roc_auc_score(new[use], one[use])
    return row


def tell(t: pd.DataFrame) -> None:
    """The means of all types known and of one left out, the worst pairs, and the alarms."""
    for kind in ("pair", "half"):
        for words, part in (("all types known", t["left out"] == ""), ("one left out", t["left out"] != "")):
            some = t[(t["kind"] == kind) & part]
            if len(some):
                some = some.reindex(columns=[*COLUMNS, "foreign", "reference", "query"])
                worst = some.loc[some["known lost"].idxmax()]
                print(f"{kind}, {words} ({len(some)}): "
                      + ", ".join(f"{name} {some[name].mean():.3f}" for name in COLUMNS)
                      + f"; told foreign {int(some['foreign'].sum())}; worst: {worst['known lost']:.3f}, "
                      f"{worst['reference']} -> {worst['query']}")  # fmt: skip
    far = t[t["kind"] == "foreign"]
    if len(far):
        enough = far[far["genes"] >= foreign.LEAST_GENES]
        print(f"foreign queries told: {int(enough['foreign'].sum())} of {len(enough)} with {foreign.LEAST_GENES} genes "
              f"shared, {int(far['foreign'].sum())} of {len(far)} in all; highest confidence "
              f"{far.loc[far['foreign'], 'top confidence'].max():.2f}")  # fmt: skip

"""Does more corpus help, and do more steps on it? Held-out loss and nearest neighbours by shares of a corpus.

    python benchmarks/corpus.py --data_dir DIR                            shares 1/4, 1/2 and 1 with the recipe's steps
    python benchmarks/corpus.py --data_dir DIR --shares 1 --times 1 4     four times as many steps
    python benchmarks/corpus.py --data_dir DIR --exclude Kang_PBMC_ctrl   whole datasets less instead of cells

A fifth of every dataset's cells is held out. The pseudo-labels are those of all other cells (held-out ones join the
nearest cluster), whatever share of these cells the recipe scpretrain2 then learns from, so losses can be compared.
Printed are the loss on held-out cells, and how many of them have the type that most of their 5 nearest neighbours have
among the cells that were not held out, in the embedding; the mean over datasets.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.neighbors import KNeighborsClassifier

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import data_loader as data
from files import Cache, fingerprint
from model import CentredMultiTask, embed_counts
from reading import align, catalogue
from recipes import Corpus, ScPretrain2
from stages import cluster, reduce, train
from stages.batch import SparseRows

HELD_OUT, JUDGED = 0.2, 100  # share of cells; of each dataset as many are in the held-out loss
CPU = torch.device("cpu")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", help="these only")
    parser.add_argument("--exclude", nargs="+", default=[], help="not learnt from, but judged all the same")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--times", type=int, nargs="+", default=[1], help="as many times the recipe's steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache_dir", type=Path, default=Path(tempfile.gettempdir()) / "scpretrain-corpus")
    args = parser.parse_args()
    entries = catalogue.read_catalogue(args.data_dir, datasets=args.datasets)
    named = data.gene_names(entries, catalogue.orthologs(args.data_dir, offline=True))
    genes = align.vocabulary([names.genes for names in named], [names.entry.species for names in named])
    recipe = ScPretrain2(seed=args.seed)
    cache, genes_hash = Cache(args.cache_dir), fingerprint(genes)
    sets = []
    for names in named:
        matrix = data.aligned(names, genes, cache, genes_hash, normalise=data.log_normalised, recipe=recipe.scale)
        types = data.load(names.entry).labels
        sets.append(Set(names, matrix[:], types, recipe, genes, names.entry.name not in args.exclude))
    print(f"{len(sets)} datasets, {sum(len(one.rows) for one in sets):,} cells not held out, {len(genes):,} genes")
    print(f"{'share':>6}{'steps':>7}{'cells seen':>12}{'held-out loss':>15}{'5 neighbours':>14}{'seconds':>9}")
    for share in args.shares:
        for times in args.times:
            begin = time.process_time()
            loss, right, steps, seen = measure(recipe, sets, genes, share, times)
            spent = time.process_time() - begin
            print(f"{share:>6.2f}{steps:>7,}{seen:>12,}{loss:>15.4f}{right:>14.4f}{spent:>9.1f}", flush=True)
    return 0


class Set:
    """A dataset, its held-out cells and the pseudo-labels of both sides."""

    def __init__(self, names: data.Names, x: csr_matrix, types, recipe: ScPretrain2, genes: list[str], used: bool):
        order = np.random.default_rng(recipe.seed).permutation(x.shape[0])
        held = max(1, int(HELD_OUT * len(order)))
        self.name, self.x, self.types, self.used = names.entry.name, x, types, used
        self.held, self.rows = order[:held], order[held:]
        self.measured = np.isin(genes, names.genes)
        taught = x[self.rows]
        fitted = reduce.components(taught, recipe.POINTS, seed=recipe.seed)
        points, others = reduce.project(taught, *fitted), reduce.project(x[self.held], *fitted)
        self.labels = cluster.pseudo_labels(points, tuple(recipe.sizes(len(points))), seed=recipe.seed, spread=True)
        one_each = np.unique(np.concatenate([np.unique(column, return_index=True)[1] for column in self.labels.T]))
        order = np.concatenate([one_each, np.setdiff1d(np.arange(len(self.rows)), one_each)])  # any share has them all
        self.rows, self.labels, points = self.rows[order], self.labels[order], points[order]
        self.targets = np.column_stack([nearest(points, column, others) for column in self.labels.T])


def nearest(points: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The cluster whose mean among `points` (N, D) is nearest to each of `others` (M, D): (M,)."""
    means = np.stack([points[labels == k].mean(axis=0) for k in range(labels.max() + 1)])
    return (np.square(means).sum(axis=1) - 2 * others @ means.T).argmin(axis=1)


def measure(
    recipe: ScPretrain2, sets: list[Set], genes: list[str], share: float, times: int
) -> tuple[float, float, int, int]:
    """Held-out loss, share of held-out cells that their neighbours name, steps, and cells that training sees."""
    used = [one for one in sets if one.used]
    few = [slice(0, max(recipe.LEAST_STEP_CELLS, round(share * len(one.rows)))) for one in used]
    matrices = [one.x[one.rows[part]] for one, part in zip(used, few, strict=True)]
    labels = [one.labels[part] for one, part in zip(used, few, strict=True)]
    torch.manual_seed(recipe.seed)
    epochs = times * recipe.EPOCHS[1]
    many = ScPretrain2(seed=recipe.seed, pt_epoch=epochs)
    corpus = Corpus(genes, [one.measured for one in used], matrices, labels)
    training = many.network(corpus, None, CPU)
    tasks = [
        train.Task(one.name, SparseRows(matrix), torch.from_numpy(targets))
        for one, matrix, targets in zip(used, matrices, labels, strict=True)
    ]
    train.pretrain(
        training.model, tasks, training.optimizer, epochs=epochs, steps=many.batch_num, patience=epochs, seed=many.seed,
        sizes=training.sizes,
    )  # fmt: skip
    training.model.eval()
    judged = [one.held[:JUDGED] for one in used]
    x = torch.cat([torch.from_numpy(one.x[rows].toarray()) for one, rows in zip(used, judged, strict=True)])
    targets = [torch.from_numpy(one.targets[:JUDGED]) for one in used]
    with torch.no_grad():
        loss = training.model(x, [len(rows) for rows in judged], targets).item()
    assert isinstance(training.model, CentredMultiTask)
    encoder = many.encoder(training.model)
    found = [
        named_by_neighbours(one, embed_counts(encoder, one.x, log1p=False)) for one in sets if one.types is not None
    ]
    return loss, float(np.mean(found)), epochs * many.batch_num, epochs * many.batch_num * sum(training.sizes or [])


def named_by_neighbours(one: Set, points: np.ndarray) -> float:
    """Share of the held-out cells with a type that most of their 5 nearest neighbours not held out have."""
    types = one.types.astype(str)
    rows, held = (part[types[part] != ""] for part in (one.rows, one.held))
    model = KNeighborsClassifier(5).fit(points[rows], types[rows])
    return float((model.predict(points[held]) == types[held]).mean())


if __name__ == "__main__":
    raise SystemExit(main())

"""Simulate: the built-in corpus, in the published file layout.

    python simulate.py FOLDER              ten datasets, about 2,600 genes, a few seconds
    python simulate.py FOLDER --quick      six smaller ones, 800 genes
    python simulate.py FOLDER --large      15,000 cells x 15,000 genes, for the speed benchmark
    python simulate.py FOLDER --name FILE  name the groups of annotate.py --explore by what was simulated

Written are NAME.h5 per dataset (the Cell BLAST layout), `datasets.csv`, and the ortholog table under its
published name.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import scipy.sparse as sp

from files import whole
from reading.align import ORTHOLOG_FILE

# Lineage -> family -> types. A type's programme is the sum of the three, so siblings are hard to tell apart.
LINEAGES = {
    "blood": {
        "T": ("CD4-positive T cell", "CD8-positive T cell", "regulatory T cell", "natural killer cell"),
        "B": ("naive B cell", "memory B cell", "plasma cell"),
        "myeloid": ("monocyte", "macrophage", "dendritic cell", "mast cell"),
    },
    "epithelium": {
        "islet": ("alpha cell", "beta cell", "delta cell", "gamma cell"),
        "gland": ("acinar cell", "ductal cell", "hepatocyte"),
        "gut": ("enterocyte", "goblet cell", "Paneth cell"),
    },
    "stroma": {
        "vessel": ("endothelial cell", "pericyte"),
        "connective": ("fibroblast", "stellate cell", "smooth muscle cell"),
    },
    "nerve": {
        "neuron": ("excitatory neuron", "inhibitory neuron"),
        "glia": ("astrocyte", "oligodendrocyte", "microglial cell"),
    },
}
FAMILIES = {family: kinds for families in LINEAGES.values() for family, kinds in families.items()}
TYPES = [kind for kinds in FAMILIES.values() for kind in kinds]
BLOOD = (*FAMILIES["T"], *FAMILIES["B"], *FAMILIES["myeloid"])
PANCREAS = (
    "beta cell",
    "alpha cell",
    "acinar cell",
    "ductal cell",
    "delta cell",
    "gamma cell",
    "stellate cell",
)
SPLEEN = (*FAMILIES["B"][::-1], *FAMILIES["T"][::-1])
LIVER = ("hepatocyte", *FAMILIES["vessel"], *FAMILIES["connective"], "monocyte", "macrophage")
GUT = (*FAMILIES["gut"], "CD8-positive T cell", "regulatory T cell", "natural killer cell")
BRAIN = (*FAMILIES["neuron"], *FAMILIES["glia"])
MIXED = tuple(TYPES[:-2])
TUMOUR = tuple(TYPES[::-2])

# How far apart things are: standard deviations over the genes concerned, in natural-log units of expression.
BASE_SPREAD = 1.5  # between genes
LINEAGE_STEP, FAMILY_STEP, TYPE_STEP = 0.8, 0.95, 1.25  # each on its own random share of the genes
PROGRAMMES, PROGRAMME_STEP = 10, 0.35  # activities every cell has more or less of, whatever its type
SPECIES_STEP, DATASET_STEP = 0.5, 0.35  # gene-wise shifts between species and between datasets
TECHNOLOGY_STEP = 0.4  # between technologies: what one captures well another loses, in every dataset alike
DISPERSION = 0.6  # of the negative binomial: variance = mean + 0.6 mean^2
# Counts without molecular identifiers scatter more, and lose a gene altogether more often; (dispersion, dropout).
TECHNOLOGIES = {"10x": (0.6, 0.1), "inDrop": (0.6, 0.3), "Smart-seq2": (1.2, 0.2)}


@dataclass(frozen=True)
class Plan:
    """One dataset to be made: who is in it (commonest type first) and how well it was measured."""

    name: str
    species: str  # human or mouse
    labelled: bool
    organ: str
    types: tuple[str, ...]
    cells: int
    depth: float  # median counts of a cell
    measured: float  # share of the genes in the file
    technology: str  # one of TECHNOLOGIES, or "" for an even-handed one
    fold: float  # each type is that much rarer than the one before
    rare: bool = False  # the last type has three to six cells only


# Tissues come more than once, by other technologies and depths; one set is small and one shallow, as real ones are.
CORPUS = [
    Plan("Sim_human_blood", "human", True, "Blood", BLOOD, 1200, 1500, 0.95, "10x", 1.25, rare=True),
    Plan("Sim_mouse_pancreas", "mouse", True, "Pancreas", PANCREAS, 700, 3000, 0.90, "Smart-seq2", 1.4),
    Plan("Sim_human_blood_unlabelled", "human", False, "Blood", BLOOD[::-1], 1500, 800, 0.80, "inDrop", 1.15),
    Plan("Sim_mouse_spleen_shallow", "mouse", True, "Spleen", SPLEEN, 600, 500, 0.85, "10x", 1.2),
    Plan("Sim_human_pancreas_small", "human", True, "Pancreas", PANCREAS, 120, 1200, 0.85, "inDrop", 1.3),
    Plan("Sim_mouse_mixed_unlabelled", "mouse", False, "Several", MIXED, 1400, 1400, 0.90, "10x", 1.05),
    # The quick corpus ends here.
    Plan("Sim_human_liver", "human", True, "Liver", LIVER, 450, 1300, 0.75, "10x", 1.3),
    Plan("Sim_mouse_gut_shallow", "mouse", True, "Intestine", GUT, 400, 600, 0.90, "inDrop", 1.3),
    Plan("Sim_mouse_brain", "mouse", True, "Brain", BRAIN, 800, 4000, 0.85, "Smart-seq2", 1.3),
    Plan("Sim_human_tumour_unlabelled", "human", False, "Tumour", TUMOUR, 900, 1100, 0.80, "10x", 1.1),
]


@dataclass(frozen=True)
class World:
    """What is true of all datasets: G genes and how every type uses them."""

    symbols: dict[str, np.ndarray]  # species -> (G,) symbol, "" where the species has no such gene
    base: dict[str, np.ndarray]  # species -> (G,) log expression of an average cell
    steps: np.ndarray  # (types, G) log fold change of a type
    programmes: np.ndarray  # (PROGRAMMES, G) log fold change of a unit of activity
    technologies: dict[str, np.ndarray]  # technology -> (G,) log fold change of what it captures
    table: list[tuple[str, str, str]]  # rows of the ortholog table: lemur, human, mouse


def simulate_corpus(
    folder: Path | str, *, quick: bool = False, seed: int = 0, genes: int | None = None
) -> list[dict[str, str]]:
    """Write a small corpus: two species, shared and private types, technologies, small, shallow and unlabelled sets.

    quick: six datasets of 120-320 cells and 800 genes, in place of ten of 120-1,500 cells and 2,600 genes.
    genes: how many genes both species have (each has about a tenth more of its own).
    The same arguments give the same files, byte for byte. Labelled sets have the layout's column
    `cell_ontology_class`; all have a column `simulated_type` with the truth.
    Returns the rows of datasets.csv: dicts of name, species ("human", "mouse") and labelled ("yes", "no").
    Raises OSError where it cannot write.
    """
    plans = CORPUS[:6] if quick else CORPUS
    genes = genes or (800 if quick else 2600)
    world = make_world(genes, genes // 10, np.random.default_rng([seed, 0]))
    chosen = []
    for plan in plans:
        # Fewer genes share fewer counts, but not in proportion: that would leave all noise.
        depth = plan.depth * (genes / 2600) ** 0.4
        cells = 150 + plan.cells // 9 if quick and plan.cells > 150 else plan.cells
        chosen.append(replace(plan, cells=cells, depth=depth))
    return _write_corpus(Path(folder), world, chosen, seed)


def simulate_large(
    folder: Path | str, cells: int = 15_000, genes: int = 15_000, datasets: int = 6, seed: int = 0
) -> list[dict[str, str]]:
    """Write the corpus of the speed benchmark: `cells` cells in `datasets` sets, each measuring all `genes`.

    Both species, so the vocabulary is the `genes` shared ones; 8-17 % of the entries are not zero.
    Returns the rows of datasets.csv, as simulate_corpus does.
    """
    world = make_world(genes, genes // 50, np.random.default_rng([seed, 0]))
    share = np.linspace(1.0, 2.0, datasets)
    edges = np.rint(np.cumsum(share) / share.sum() * cells).astype(int)
    sizes = np.diff(edges, prepend=0)
    depths = np.linspace(1.0, 2.0, datasets) * 2400 * (genes / 15_000)
    chosen = []
    for i, (size, depth) in enumerate(zip(sizes, depths, strict=True)):
        species = ("human", "mouse")[i % 2]
        types = tuple(np.roll(TYPES, 5 * i)[:12])
        name = f"Large_{i + 1}_{species}"
        chosen.append(Plan(name, species, True, "Several", types, int(size), float(depth), 1.0, "", 1.2))
    return _write_corpus(Path(folder), world, chosen, seed)


def make_world(shared: int, private: int, rng: np.random.Generator) -> World:
    """Names and programmes of `shared` genes that both species have and `private` more in each of them."""
    total = shared + 2 * private
    stems = [a + b + c for a in "BCDFGKLMNPRSTVWZ" for b in "acdelmnprstx" for c in "abdfgklmnprst"]  # 2,496
    stems = rng.permutation(stems)
    numbers = np.arange(shared)
    mouse = np.array([f"{stems[i % 1900]}{i // 1900 + 1}" for i in numbers], dtype=object)
    human = np.array([symbol.upper() for symbol in mouse], dtype=object)
    renamed = rng.random(shared) < 0.08  # one pair in twelve is spelt differently, so the table is needed
    human[renamed] = [f"{stems[1900 + i % 590]}{i // 590 + 1}L".upper() for i in range(renamed.sum())]
    listed = renamed | (rng.random(shared) < 0.95)  # the table knows most pairs; the rest match by case alone
    table = [(str(human[i]), str(human[i]), str(mouse[i])) for i in np.flatnonzero(listed)]

    nothing = np.full(private, "", dtype=object)
    only_mouse = np.array([f"Gm{10_000 + 7 * i}" for i in range(private)], dtype=object)
    only_human = np.array([f"LINC{10_000 + 3 * i}" for i in range(private)], dtype=object)
    symbols = {
        "mouse": np.concatenate([mouse, only_mouse, nothing]),
        "human": np.concatenate([human, nothing, only_human]),
    }

    common = rng.normal(0.0, BASE_SPREAD, total)
    base = {species: common + rng.normal(0.0, SPECIES_STEP, total) for species in ("human", "mouse")}
    # With fewer genes a larger share of them tells types apart, or a small corpus would be all noise.
    few = np.sqrt(2600 / shared)
    steps = []
    for families in LINEAGES.values():
        lineage = _sparse_steps(rng, total, 0.15 * few, LINEAGE_STEP)
        for kinds in families.values():
            family = lineage + _sparse_steps(rng, total, 0.10 * few, FAMILY_STEP)
            steps += [family + _sparse_steps(rng, total, 0.04 * few, TYPE_STEP) for _ in kinds]
    programmes = [_sparse_steps(rng, total, 0.15, PROGRAMME_STEP) for _ in range(PROGRAMMES)]
    bias = {technology: rng.normal(0.0, TECHNOLOGY_STEP, total) for technology in TECHNOLOGIES}
    return World(symbols, base, np.array(steps), np.array(programmes), bias, table)


def _sparse_steps(rng: np.random.Generator, genes: int, share: float, step: float) -> np.ndarray:
    """Log fold changes (genes,) of which only `share` are not zero."""
    return rng.normal(0.0, step, genes) * (rng.random(genes) < share)


def _draw(world: World, plan: Plan, rng: np.random.Generator) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Counts (N, G) of one dataset, its gene symbols (G,) and the type of every cell (N,)."""
    own = np.flatnonzero(world.symbols[plan.species] != "")
    columns = np.sort(rng.choice(own, int(round(plan.measured * len(own))), replace=False))
    columns = rng.permutation(columns)  # files agree on no order of genes
    kinds = _type_of_each_cell(plan, rng)  # (N,)

    dispersion, dropout = TECHNOLOGIES.get(plan.technology, (DISPERSION, 0.0))
    base = world.base[plan.species][columns] + rng.normal(0.0, DATASET_STEP, len(columns))
    if plan.technology:
        base += world.technologies[plan.technology][columns]
    steps = world.steps[:, columns] * rng.uniform(0.85, 1.15)
    depths = plan.depth * np.exp(rng.normal(0.0, 0.35, plan.cells))
    activity = rng.normal(0.0, 1.0, (plan.cells, PROGRAMMES))
    blocks = []
    for start in range(0, plan.cells, 512):  # a dense block, not a dense dataset
        rows = slice(start, start + 512)
        rate = steps[kinds[rows]] + activity[rows] @ world.programmes[:, columns]
        rate += base
        rate = np.exp(rate, dtype=np.float32, casting="same_kind")
        rate *= (depths[rows] / rate.sum(1))[:, None].astype(np.float32)  # expected counts (B, G)
        if dropout:  # a gene that is hardly expressed is lost by chance
            kept = rng.random(rate.shape, dtype=np.float32) >= dropout * np.exp(-rate)
        rate *= rng.standard_gamma(1 / dispersion, rate.shape, dtype=np.float32) * np.float32(dispersion)
        block = rng.poisson(rate).astype(np.int32)
        blocks.append(sp.csr_matrix(block * kept if dropout else block))
    return sp.vstack(blocks, format="csr"), world.symbols[plan.species][columns], np.array(TYPES)[kinds]


def _type_of_each_cell(plan: Plan, rng: np.random.Generator) -> np.ndarray:
    """Indices into TYPES, (cells,): geometric shares, at least three cells of each type, in random order."""
    shares = plan.fold ** -np.arange(len(plan.types), dtype=float)
    sizes = np.maximum(3, np.floor(shares / shares.sum() * plan.cells).astype(int))
    if plan.rare:
        sizes[-1] = rng.integers(3, 7)
    sizes[0] += plan.cells - sizes.sum()
    return rng.permutation(np.repeat([TYPES.index(kind) for kind in plan.types], sizes))


def _write_corpus(folder: Path, world: World, plans: list[Plan], seed: int) -> list[dict[str, str]]:
    """Draw and write every dataset, the table, and at last the catalogue, which so names whole files only."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for i, plan in enumerate(plans):
        rng = np.random.default_rng([seed, 1 + i])
        counts, genes, kinds = _draw(world, plan, rng)
        columns = {"simulated_type": kinds, "organ": np.full(plan.cells, plan.organ)}
        if plan.labelled:
            columns["cell_ontology_class"] = kinds
        names = [f"{plan.name}_{j:05d}" for j in range(plan.cells)]
        write_cellblast(folder / f"{plan.name}.h5", counts, list(genes), names, columns)
        entry = {"name": plan.name, "species": plan.species, "labelled": "yes" if plan.labelled else "no"}
        entries.append(entry)
    # The published table has an index first, and ends every line with a comma.
    header = ["", "mouse_lemur__gene_name", "human__gene_name", "mouse__gene_name", ""]
    _write_csv(folder / ORTHOLOG_FILE, header, ([i, *row, ""] for i, row in enumerate(world.table)))
    _write_csv(folder / "datasets.csv", list(entries[0]), (list(entry.values()) for entry in entries))
    return entries


def write_cellblast(
    path: Path, counts: sp.csr_matrix, genes: list[str], cells: list[str], columns: dict[str, np.ndarray]
) -> None:
    """Write one dataset in the Cell BLAST .h5 layout; `columns` are the obs columns, each (N,) of str."""
    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}

    with whole(path) as part:
        with h5py.File(part, "w") as file:
            file.create_dataset("exprs/data", data=counts.data, **packed)
            file.create_dataset("exprs/indices", data=counts.indices.astype(np.int32), **packed)
            file.create_dataset("exprs/indptr", data=counts.indptr.astype(np.int32), **packed)
            file.create_dataset("exprs/shape", data=np.array(counts.shape, dtype=np.int64))
            file.create_dataset("var_names", data=np.char.encode(np.array(genes, dtype=str)), **packed)
            file.create_dataset("obs_names", data=np.char.encode(np.array(cells, dtype=str)), **packed)
            for name, values in columns.items():
                file.create_dataset(f"obs/{name}", data=np.char.encode(np.array(values, dtype=str)), **packed)


def _write_csv(path: Path, header: list[str], rows: Iterator[list]) -> None:
    with whole(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def name_groups(folder: Path, explored: Path) -> Path:
    """Write EXPLORED.labels.csv: to each group of an explored dataset its commonest simulated type; returns the file.

    What a person does on the page, done by one who knows the truth.
    """
    with open(explored, newline="", encoding="utf-8") as file:
        group_of = {row["cell"]: row["group"] for row in csv.DictReader(file)}
    dataset = next(iter(group_of)).rsplit("_", 1)[0]
    with h5py.File(folder / f"{dataset}.h5") as file:
        kinds = dict(zip(file["obs_names"][...].astype(str), file["obs/simulated_type"][...].astype(str), strict=True))
    members: dict[str, Counter[str]] = {}
    for cell, group in group_of.items():
        members.setdefault(group, Counter())[kinds[cell]] += 1
    labels = explored.with_suffix(".labels.csv")
    rows = (
        [group, count.most_common(1)[0][0]] for group, count in sorted(members.items(), key=lambda one: int(one[0]))
    )
    with whole(labels) as part, open(part, "w", newline="", encoding="utf-8") as file:
        file.write(f"# groups: {explored.name}\n")
        csv.writer(file, lineterminator="\n").writerows([["group", "cell_type"], *rows])
    return labels


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go; made if it is missing")
    parser.add_argument("--quick", action="store_true", help="six small datasets, for a first try and for CI")
    parser.add_argument("--large", action="store_true", help="the corpus of the speed benchmark, about 40 MB")
    parser.add_argument("--name", type=Path, metavar="FILE", help="the .csv that annotate.py --explore wrote")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another corpus")
    args = parser.parse_args(argv)
    if args.quick and args.large:
        parser.error("--quick and --large exclude each other")
    if args.name and not args.name.is_file():
        parser.error(f"there is no {args.name}; name the .csv that annotate.py --explore wrote")
    try:
        if args.name:
            print(f"{name_groups(args.folder, args.name)} written")
            return
        if args.large:
            entries = simulate_large(args.folder, seed=args.seed)
        else:
            entries = simulate_corpus(args.folder, quick=args.quick, seed=args.seed)
    except OSError as error:
        parser.error(f"cannot write the corpus into {args.folder}: {error}")
    labelled = sum(entry["labelled"] == "yes" for entry in entries)
    print(f"{args.folder}: {len(entries)} datasets simulated, {labelled} of them labelled; seed {args.seed}")


if __name__ == "__main__":
    main()

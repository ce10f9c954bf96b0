"""A run: its flags, seed, device, checkpoint file and result file; nothing else."""

import argparse
import hashlib
import random
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from files import fingerprint, whole
from model import Encoder
from voice import heard

ARMS = ("scPretrain", "Without pretraining")
RECIPES = ("scpretrain2", "paper")  # the first is the default
CHECKPOINT_FORMAT, CHECKPOINT_VERSION = "scpretrain-checkpoint", 1
RESULT_COLUMNS = [
    "dataset",
    "arm",
    "seed",
    "n_train",
    "n_test",
    "accuracy",
    "kappa",
    "macro_f1",
    "auprc",
    "auroc",
    "seconds",
    "run",
]
CLUSTER_COLUMNS = ["dataset", "arm", "seed", "n_cells", "n_types", "ari", "nmi", "silhouette", "run"]
DATA_FLAGS = ("data_dir", "datasets", "exclude", "species", "np_input", "ann_input", "base_url", "offline")
VALUE_FLAGS = ("layer", "use_raw")
KEPT_FLAGS = (  # in a command that the program proposes
    *("data_dir", "datasets", "exclude", "species", "np_input", "ann_input", "base_url", "label_key", *VALUE_FLAGS),
    *("cache_dir", "pretrained_model", "gene_list", "hid", "save_result", "figs", "format", "offline"),
)
CLASSIFIERS = ("svm", "rf", "lr", "knn")
FORMATS = ("pdf", "png", "svg")
BASE_URL = "https://cblast.gao-lab.org"


# -- flags ----------------------------------------------------------------
def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def formats(text: str) -> list[str]:
    found = names(text.lower())
    if not found or set(found) - set(FORMATS):
        raise argparse.ArgumentTypeError(f"{text!r}: name one or more of {', '.join(FORMATS)}, with commas between")
    return found


def build_parser(description: str) -> argparse.ArgumentParser:
    """The flags of every command; those of the published code keep their names and defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    data = parser.add_argument_group("data")
    data.add_argument(
        "--data_dir",
        type=Path,
        default=Path("dataset"),
        metavar="DIR",
        help="where the datasets are; its datasets.csv is the catalogue, without one every "
        ".h5 and .h5ad in it (default: dataset)",
    )
    data.add_argument("--datasets", type=names, metavar="A,B", help="only these datasets")
    data.add_argument("--exclude", type=names, default=[], metavar="A,B", help="leave these datasets out")
    data.add_argument(
        "--np_input",
        type=Path,
        metavar="DIR",
        help="your own dataset instead of the catalogue: feature.npy, label.npy, gene_list.npy",
    )
    data.add_argument("--ann_input", type=Path, metavar="FILE", help="the same from an .h5ad file")
    data.add_argument(
        "--label_key", metavar="COLUMN", help="the column of cell types (default: cell_ontology_class, else cell_type)"
    )
    data.add_argument("--layer", metavar="NAME", help="take the values of this .h5ad layer instead of X")
    data.add_argument("--use_raw", action="store_true", help="take the values of .raw of an .h5ad instead of X")
    data.add_argument(
        "--species",
        choices=("human", "mouse"),
        help="species of all datasets (default: the catalogue's, else told from the gene symbols' case)",
    )
    data.add_argument("--base_url", default=BASE_URL, help="site of the public datasets (default: %(default)s)")
    data.add_argument("--offline", action="store_true", help="never touch the network")
    data.add_argument(
        "--cache_dir",
        type=Path,
        metavar="DIR",
        help="where aligned matrices and pseudo-labels are kept (default: cache in the data folder; "
        "deleting it is always safe)",
    )

    pre = parser.add_argument_group("pre-training")
    pre.add_argument("--is_pretrain", action="store_true", help="pre-train (without it: fine-tune and test)")
    pre.add_argument(
        "--recipe",
        choices=RECIPES,
        help="scpretrain2: log-normalised genes, every dataset, few steps from a closed-form start; paper: as "
        "published (default: scpretrain2; paper where a flag is given that only it has; in phase 2 the checkpoint's). "
        "Testing goes by the checkpoint's recipe",
    )
    pre.add_argument("--kmeans", action="store_true", help="pseudo-labels by k-means (without it: Ward's tree)")
    pre.add_argument(
        "--pretrain_output",
        action="store_true",
        help="phase 2: cluster the output of --pretrained_model and train on from it",
    )
    pre.add_argument(
        "--avg_cluster_num",
        type=int,
        default=100,
        metavar="CELLS",
        help="cells per cluster (default: 100); paper only, scpretrain2 makes 6, 12 and 25 clusters",
    )
    pre.add_argument(
        "--pt_epoch",
        type=int,
        default=50,
        help="at most so many epochs (default: 50; scpretrain2: 4, and 2 in phase 2)",
    )
    pre.add_argument("--batch_num", type=int, default=30, help="steps an epoch (default: 30)")
    pre.add_argument("--pt_lr", type=float, default=1e-4, help="learning rate (default: 1e-4); paper only")
    pre.add_argument(
        "--pt_patience", type=int, default=5, help="epochs to wait for a lower loss (default: 5); paper only"
    )
    pre.add_argument("--hid", type=int, default=200, help="hidden units of the encoder (default: 200)")
    pre.add_argument(
        "--pca_pt", action="store_true", help="let the encoder see --pca_dim components of the corpus; paper only"
    )
    pre.add_argument("--resume", action="store_true", help="go on from the last epoch of an interrupted run")

    fine = parser.add_argument_group(
        "fine-tuning and testing",
        "--ft_epoch, --ft_lr, --ft_batch_size, --patience and --pca_ft are of the network of a paper checkpoint",
    )
    fine.add_argument("--ft_epoch", type=int, default=500, help="at most so many epochs (default: 500)")
    fine.add_argument("--ft_lr", type=float, default=0.002, help="learning rate (default: 0.002)")
    fine.add_argument("--ft_batch_size", type=int, default=5000, help="cells a batch (default: 5000)")
    fine.add_argument("--patience", type=int, default=30, help="epochs to wait for a better accuracy (default: 30)")
    fine.add_argument("--per_train", type=float, default=0.6, help="share of cells to train on (default: 0.6)")
    fine.add_argument("--per_val", type=float, default=0.1, help="share of cells to validate on (default: 0.1)")
    fine.add_argument(
        "--max_tr_num", type=int, default=1000, help="at most so many cells to train and to validate on (default: 1000)"
    )
    fine.add_argument("--pca_ft", action="store_true", help="let the classifier see --pca_dim components of the cells")
    fine.add_argument("--pca_dim", type=int, default=500, help="number of components (default: 500)")
    fine.add_argument("--fold1", type=int, default=1, help="repeats: fold1 x fold2 runs, each with its own seed")
    fine.add_argument("--fold2", type=int, default=1, help="see --fold1")

    off = parser.add_argument_group("classifiers off the shelf (rf_svm_lr.py)")
    off.add_argument("--clf", choices=(*CLASSIFIERS, "all"), default="all", help="which of them (default: all)")
    off.add_argument(
        "--tuned",
        action="store_true",
        help="pick C, depth or k by cross-validation inside the training cells, instead of the published settings",
    )

    draw = parser.add_argument_group("pictures (clus.py, fig.py)")
    draw.add_argument(
        "--umap",
        metavar="NAME",
        help="dataset to draw, or none (default: Quake_10x_Kidney where it is there, else the largest labelled one)",
    )
    draw.add_argument("--figs", type=Path, default=Path("figs"), metavar="DIR", help="where they go (default: figs)")
    draw.add_argument(
        "--format", type=formats, default=["pdf", "png"], metavar="A,B", help="pdf, png, svg (default: pdf,png)"
    )
    draw.add_argument("--dpi", type=int, default=200, help="dots per inch of pixels (default: 200)")

    run = parser.add_argument_group("run")
    run.add_argument("--cuda", action="store_true", help="run on the GPU")
    run.add_argument("--seed", type=int, default=0, help="every chance comes from it (default: 0)")
    run.add_argument(
        "--pretrained_model",
        type=Path,
        default=Path("pretrain/scPretrain.out"),
        metavar="FILE",
        help="checkpoint to start from (default: %(default)s)",
    )
    run.add_argument(
        "--gene_list", type=Path, metavar="FILE", help="genes of a published bare checkpoint, one a line or a .npy"
    )
    run.add_argument(
        "--save_model",
        type=Path,
        default=Path("pretrain/scPretrain.out"),
        metavar="FILE",
        help="checkpoint to write (default: %(default)s)",
    )
    run.add_argument(
        "--save_result",
        type=Path,
        default=Path("results/result.out"),
        metavar="FILE",
        help="results in the published text format; the table lies beside it as .csv (default: %(default)s)",
    )
    run.add_argument("--mixed", action="store_true", help="accepted for the published command lines; has no effect")
    run.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    return parser


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse values no run can work with, with the flag's name; exits with 2."""
    for flag in (
        "avg_cluster_num",
        "pt_epoch",
        "batch_num",
        "pt_patience",
        "hid",
        "ft_epoch",
        "ft_batch_size",
        "patience",
        "max_tr_num",
        "pca_dim",
        "fold1",
        "fold2",
        "dpi",
    ):
        if getattr(args, flag) < 1:
            parser.error(f"--{flag} must be at least 1, not {getattr(args, flag)}")
    for flag in ("pt_lr", "ft_lr"):
        if not 0 < getattr(args, flag) < float("inf"):
            parser.error(f"--{flag} must be above 0, not {getattr(args, flag)}")
    if not 0 < args.per_train < 1 or not 0 <= args.per_val < 1 or args.per_train + args.per_val >= 1:
        parser.error(f"--per_train {args.per_train} and --per_val {args.per_val} must leave cells for testing")
    if args.save_result.suffix == ".csv":
        parser.error(f"--save_result {args.save_result}: the table takes this name; name the text file otherwise")
    if args.seed < 0:
        parser.error(f"--seed must not be negative, it is {args.seed}")


def run(
    command: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    check: Callable[[argparse.ArgumentParser, argparse.Namespace], None] | None = None,
) -> int:
    """Parse, run, and turn what a user can mend into one line and exit code 2; returns the exit code.

    `check` takes the place of `check_flags` for a command with flags of its own.
    """
    args = parser.parse_args(argv)
    args.given = given(parser, args, argv)
    (check or check_flags)(parser, args)
    try:
        with heard():
            command(args)
    except (ValueError, OSError) as error:
        if args.traceback:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; what was finished is saved, the same command (with --resume when pre-training) goes on",
            file=sys.stderr,
        )
        return 130
    return 0


def given(parser: argparse.ArgumentParser, args: argparse.Namespace, argv: Sequence[str] | None) -> set[str]:
    """The names of the flags that stand on the command line, whatever their values."""
    unset = object()
    probe = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args), unset)))
    return {name for name, value in vars(probe).items() if value is not unset}


def flags(args: argparse.Namespace, wanted: Sequence[str]) -> dict[str, Any]:
    """The values of some flags, to be handed on as keyword arguments."""
    return {name: getattr(args, name) for name in wanted}


def command_line(words: str, args: argparse.Namespace) -> str:
    """What to type for `words` (script and flags) with the data, folders and files that this run was given."""
    given = []
    for name in KEPT_FLAGS:
        value = getattr(args, name)
        if name not in args.given or value is False:
            continue
        text = "" if value is True else ",".join(value) if isinstance(value, list) else str(value)
        given += [f"--{name}", *([text] if text else [])]
    return f"python {words} {shlex.join(given)}".rstrip()


def checkpoint_of(args: argparse.Namespace) -> "Checkpoint":
    """The checkpoint a command needs; where there is none, FileNotFoundError with the command that makes it."""
    line = command_line("main.py --is_pretrain --kmeans", args).replace("--pretrained_model", "--save_model")
    return load_checkpoint(args.pretrained_model, gene_list=args.gene_list, made_by=line)


# -- chance and device ----------------------------------------------------------------
def seed_everything(seed: int) -> None:
    """Fix the random numbers a library may draw on its own; our own code is handed its seed."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def pick_device(cuda: bool) -> torch.device:
    """The device a run asks for. Raises ValueError where it asks for CUDA and there is none."""
    if cuda and not torch.cuda.is_available():
        raise ValueError("--cuda: PyTorch sees no CUDA device here; leave --cuda out to run on the CPU")
    return torch.device("cuda" if cuda else "cpu")


# -- checkpoint ----------------------------------------------------------------
@dataclass
class Checkpoint:
    """An encoder with all it takes to use it: the genes of its columns and how it came about."""

    encoder: Encoder
    genes: list[str]
    recipe: str = "paper"
    phase: int = 1
    species: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)

    def identity(self) -> str:
        """A hash of weights and genes: results made with other weights are not this checkpoint's."""
        weights = [
            hashlib.sha256(value.detach().cpu().contiguous().numpy()).hexdigest()
            for value in self.encoder.state_dict().values()
        ]
        return fingerprint(self.recipe, weights, fingerprint(self.genes))


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write one file that `load_checkpoint` opens anywhere, with or without CUDA."""
    content = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__ if name != "encoder"}
    content |= {
        "format": CHECKPOINT_FORMAT,
        "version": CHECKPOINT_VERSION,
        "genes_hash": fingerprint(checkpoint.genes),
        "weights": {name: value.detach().cpu() for name, value in checkpoint.encoder.state_dict().items()},
    }
    _save(path, content)


def _save(path: Path, content: dict[str, Any]) -> None:
    """Write a file of torch's whole, the same bytes for the same content. Raises OSError where the disk is full."""
    with whole(path) as part, open(part, "wb") as file:  # given a path, torch would write its name into the file
        try:
            torch.save(content, file)
        except RuntimeError as error:  # what torch makes of a failed write
            raise OSError(f"is the disk full? {str(error).splitlines()[0]}") from error


def load_checkpoint(path: Path, *, gene_list: Path | None = None, made_by: str = "") -> Checkpoint:
    """Open a checkpoint of ours, or a published bare {fc1.weight, fc1.bias} with the genes of `gene_list`.

    Raises FileNotFoundError with the command that makes it (`made_by`), or ValueError, with what to do.
    """
    path = Path(path)
    if not path.exists():
        made_by = made_by or f"python main.py --is_pretrain --kmeans --save_model {path}"
        raise FileNotFoundError(f"there is no checkpoint {path}; make it with: {made_by}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a damaged or foreign file
        raise ValueError(
            f"{path} is no checkpoint, or a damaged one ({type(error).__name__}); "
            "pre-train again, or name another with --pretrained_model"
        ) from error
    if isinstance(content, dict) and "fc1.weight" in content:
        return _published(path, content, gene_list)
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        raise ValueError(f"{path} is not a checkpoint of scPretrain; name another with --pretrained_model")
    if content.get("version", 0) > CHECKPOINT_VERSION:
        raise ValueError(
            f"{path} has checkpoint version {content['version']}, this program reads up to "
            f"{CHECKPOINT_VERSION}; update scPretrain"
        )
    try:
        genes, weight = content["genes"], content["weights"]["linear.weight"]
        encoder = Encoder(weight.shape[1], weight.shape[0])
        encoder.load_state_dict(content["weights"])
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} lacks parts of a checkpoint ({error}); it is damaged: pre-train again") from error
    if len(genes) != weight.shape[1] or fingerprint(genes) != content.get("genes_hash"):
        raise ValueError(
            f"{path} holds {len(genes):,} gene names for {weight.shape[1]:,} columns, or other names than "
            "it was saved with; it is damaged: pre-train again"
        )
    known = {name: content[name] for name in Checkpoint.__dataclass_fields__ if name in content}
    return Checkpoint(encoder=encoder, **known)


def _published(path: Path, content: dict, gene_list: Path | None) -> Checkpoint:
    weight = content["fc1.weight"]
    if gene_list is None:
        raise ValueError(
            f"{path} is a published checkpoint without gene names; name the file that lists its "
            f"{weight.shape[1]:,} genes with --gene_list"
        )
    if not gene_list.is_file():
        raise FileNotFoundError(f"there is no file {gene_list}; name the list of {path}'s genes with --gene_list")
    try:
        if gene_list.suffix == ".npy":
            genes = [str(gene) for gene in np.load(gene_list, allow_pickle=False)]
        else:
            genes = gene_list.read_text(encoding="utf-8").split()
    except (ValueError, EOFError) as error:
        raise ValueError(f"{gene_list} cannot be read as gene names ({error}); write it as plain text") from error
    if len(genes) != weight.shape[1]:
        raise ValueError(
            f"{gene_list} lists {len(genes):,} genes, {path} has {weight.shape[1]:,} columns; they are "
            "not of the same model"
        )
    encoder = Encoder(weight.shape[1], weight.shape[0])
    try:
        encoder.load_state_dict({"linear.weight": weight, "linear.bias": content["fc1.bias"]})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} lacks parts of a checkpoint ({error}); fetch it again") from error
    return Checkpoint(encoder, [gene.upper() for gene in genes], settings={"source": "published weights"})


# -- training state ----------------------------------------------------------------
def state_path(save_model: Path) -> Path:
    return save_model.with_name(save_model.name + ".state")


def save_state(path: Path, content: dict[str, Any]) -> None:
    """Write where pre-training stands, whole."""
    _save(path, content)


def load_state(path: Path, identity: str) -> dict[str, Any] | None:
    """Where an interrupted run stood, None where there is none. Raises ValueError for another run's state."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        same = content["identity"] == identity
    except Exception as error:
        raise ValueError(f"{path} is no training state, or a damaged one; delete it to start anew") from error
    if not same:
        raise ValueError(
            f"{path} is the state of a run with other data or settings; repeat its command, or leave "
            "--resume out to start anew"
        )
    return content


# -- results ----------------------------------------------------------------
def read_results(path: Path, columns: Sequence[str] = RESULT_COLUMNS) -> pd.DataFrame:
    """A table of results, one row a (dataset, arm, seed); empty where there is no file yet.

    `columns` are those of result.csv and CLF.csv, or CLUSTER_COLUMNS. Raises ValueError where it is something else.
    """
    if not Path(path).exists():
        return pd.DataFrame(columns=list(columns))
    try:
        table = pd.read_csv(path, dtype={"dataset": str, "arm": str, "run": str}, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a table of results ({error}); move it away") from error
    if missing := set(columns) - set(table.columns):
        raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}; move it away")
    return table


def write_result(path: Path, row: dict[str, Any], columns: Sequence[str] = RESULT_COLUMNS) -> None:
    """Add one row, in the place of an older one of the same dataset, arm and seed."""
    table = read_results(path, columns)
    same = (table["dataset"] == row["dataset"]) & (table["arm"] == row["arm"]) & (table["seed"] == row["seed"])
    new = pd.DataFrame([row], columns=list(columns))
    kept = table[~same]
    with whole(path) as part:
        (pd.concat([kept, new]) if len(kept) else new).to_csv(part, index=False, float_format="%.6g")


def classifier_results(save_result: Path, kind: str, tuned: bool) -> Path:
    """The table of one classifier, in the format of result.csv: CLF.csv beside it, CLF_tuned.csv with --tuned."""
    return save_result.with_name(f"{kind}{'_tuned' if tuned else ''}.csv")


def clustering_results(save_result: Path) -> Path:
    """The table of clus.py, with CLUSTER_COLUMNS."""
    return save_result.with_name("clus.csv")


def results_of(
    path: Path, wanted: dict[tuple[str, str, int], str], columns: Sequence[str] = RESULT_COLUMNS
) -> pd.DataFrame:
    """The rows of these runs: `wanted` says for (dataset, arm, seed) the hash of all that its result depends on."""
    table = read_results(path, columns)
    return table[[wanted.get((row.dataset, row.arm, row.seed)) == row.run for row in table.itertuples()]]


def unfinished(
    path: Path, wanted: dict[tuple[str, str, int], str], columns: Sequence[str] = RESULT_COLUMNS
) -> dict[tuple[str, str, int], str]:
    """The runs of `wanted` that the table does not hold as these very runs; says how many are kept."""
    there = results_of(path, wanted, columns)
    done = {(row.dataset, row.arm, row.seed) for row in there.itertuples()}
    if done:
        print(f"{len(done)} of {len(wanted)} runs are in {path} already and are kept")
    return {which: run for which, run in wanted.items() if which not in done}


def save_figure(figure: Any, stem: Path, kinds: Sequence[str], dpi: int) -> list[Path]:
    """A matplotlib figure as STEM.pdf, STEM.png ..., each whole; returns the files."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    for path, kind in zip(paths, kinds, strict=True):
        with whole(path) as part:
            figure.savefig(part, format=kind, dpi=dpi)
    return paths


def write_published(path: Path, table: pd.DataFrame) -> None:
    """The same results as the published code spells them: (accuracy, kappa, (AUPRC, AUROC)) a line."""
    lines = []
    for (dataset, _), rows in table.groupby(["dataset", "seed"], sort=False):
        lines.append(dataset)
        for row in sorted(rows.itertuples(), key=lambda row: ARMS.index(row.arm)):
            lines.append(f"{row.arm}:({row.accuracy:.6g}, {row.kappa:.6g}, ({row.auprc:.6g}, {row.auroc:.6g}))")
    with whole(path) as part:
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

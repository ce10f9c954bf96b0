"""The command line: every flag of the commands with its default, what is checked at once, errors as one line."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import shlex
import stat
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import ranks
from voice import RESULT, clean, heard

RECIPES = ("scpretrain2", "paper")  # the first is the default
CLASSIFIERS = ("svm", "rf", "lr", "knn")
FORMATS = ("pdf", "png", "svg")
VALUES = (  # what a query's numbers may be: the names of reading.normalize, which a test compares
    *("counts", "cp10k", "cpm", "tpm", "log1p", "log1p_cpm", "log1p_counts"),
    *("log2", "log2_cp10k", "log2_cpm", "log2_tpm10", "log2_counts", "log10"),
)
EXPLORED = 20  # groups, those of annotation.wishes, which a test compares too
BASE_URL = "https://cblast.gao-lab.org"

Made = TypeVar("Made")


# -- kinds of values ----------------------------------------------------------------
def names(text: str) -> list[str]:
    """A,B,C as a list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def formats(text: str) -> list[str]:
    found = names(text.lower())
    if not found or set(found) - set(FORMATS):
        raise argparse.ArgumentTypeError(f"{text!r}: name one or more of {', '.join(FORMATS)}, with commas between")
    return found


def number(kind: Callable[[str], Any], holds: Callable[[Any], bool], words: str) -> Callable[[str], Any]:
    """Reads a number of a kind that `holds`; `words` and the text say what is wrong with another."""

    def read(text: str) -> Any:
        with suppress(ValueError):
            if holds(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"{words} {text}")

    return read


count = number(int, lambda value: value >= 1, "must be at least 1, not")
natural = number(int, lambda value: value >= 0, "must not be negative, it is")


def share(text: str) -> tuple[int, int]:
    """2/3, the second of three, as (2, 3)."""
    with suppress(ValueError):
        i, n = (int(part) for part in text.split("/"))
        if 1 <= i <= n:
            return i, n
    raise argparse.ArgumentTypeError(f"{text!r}: say which of how many, such as 2/3")


rate = number(float, lambda value: 0 < value < float("inf"), "must be above 0, not")


# -- the flags ----------------------------------------------------------------
class Parser(argparse.ArgumentParser):
    """One that says which flag a misspelt one may have been meant for; its help is the command's docstring."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            known = [flag for flag in self._option_string_actions if flag.startswith("--")]
            for word in message.removeprefix("unrecognized arguments: ").split():
                if near := difflib.get_close_matches(word.split("=")[0], known, 1):
                    message += f"; did you mean {near[0]}?"
                    break
        # the reason alone: below fourteen lines of usage it was overlooked
        self.exit(2, f"error: {clean(message)} (python {self.prog} --help lists the flags)\n")

    @property
    def kept(self) -> list[str]:
        """The flags that a command which this one proposes is given too."""
        return [action.dest for action in self._actions if getattr(action, "kept", False)]


def keep(group: argparse._ArgumentGroup, *flags: str, **how: Any) -> None:
    """A flag that commands proposed by the program repeat: data, folders, files."""
    group.add_argument(*flags, **how).kept = True  # type: ignore[attr-defined]


def build_parser(description: str | None, *shown: Callable[[Parser], None]) -> Parser:
    """All flags of the published commands, with their published names and defaults; help lists those of `shown`.

    shown: groups below, such as `data`; none: all of them. The others are accepted, so that a published command line
    works with every command, but do nothing there.
    """
    parser = Parser(description)
    for group in GROUPS:
        before = len(parser._actions), len(parser._action_groups)
        group(parser)
        if shown and group not in shown:
            for action in parser._actions[before[0] :]:
                action.help = argparse.SUPPRESS
            for section in parser._action_groups[before[1] :]:
                section.description = None
    return parser


def data(parser: Parser) -> None:
    group = parser.add_argument_group("data")
    keep(group, "--data_dir", type=Path, default=Path("dataset"), metavar="DIR",
         help="where the datasets are; its datasets.csv is the catalogue, without one every file of cells in it "
         "(default: dataset)")  # fmt: skip
    keep(group, "--datasets", type=names, metavar="A,B", help="only these datasets")
    keep(group, "--exclude", type=names, default=[], metavar="A,B", help="leave these datasets out")
    keep(group, "--np_input", type=Path, metavar="DIR",
         help="your own dataset instead of the catalogue: feature.npy, label.npy, gene_list.npy")  # fmt: skip
    keep(group, "--ann_input", type=Path, metavar="FILE", help="the same from an .h5ad or any other file of cells")
    keep(group, "--label_key", metavar="COLUMN",
         help="the column of cell types (default: cell_ontology_class, else cell_type)")  # fmt: skip
    keep(group, "--layer", metavar="NAME", help="take the values of this .h5ad layer instead of X")
    keep(group, "--use_raw", action="store_true", help="take the values of .raw of an .h5ad instead of X")
    keep(group, "--species", choices=("human", "mouse"),
         help="species of all datasets (default: the catalogue's, else told from the gene symbols)")  # fmt: skip
    keep(group, "--base_url", default=BASE_URL, help="site of the public datasets (default: %(default)s)")
    keep(group, "--max_download", type=rate, default=20.0, metavar="GB",
         help="a file to fetch that is larger is left out (default: 20)")  # fmt: skip


def cache(parser: Parser) -> None:
    group = parser.add_argument_group("cache")
    keep(group, "--cache_dir", type=Path, metavar="DIR",
         help="where aligned matrices and pseudo-labels are kept (default: cache in the data folder; deleting it is "
         "always safe)")  # fmt: skip


def pretraining(parser: Parser) -> None:
    group = parser.add_argument_group("pre-training")
    add = group.add_argument
    add("--is_pretrain", action="store_true", help="pre-train (without it: fine-tune and test)")
    add("--recipe", choices=RECIPES,
        help="scpretrain2: log-normalised genes, every dataset, few steps from a closed-form start; paper: as "
        "published (default: scpretrain2; paper where a flag is given that only it has; in phase 2 the checkpoint's). "
        "Testing goes by the checkpoint's recipe")  # fmt: skip
    add("--kmeans", action="store_true", help="pseudo-labels by k-means (without it: Ward's tree)")
    add("--pretrain_output", action="store_true",
        help="phase 2: cluster the output of --pretrained_model and train on from it")  # fmt: skip
    add("--avg_cluster_num", type=count, default=100, metavar="CELLS",
        help="cells per cluster (default: 100); paper only, scpretrain2 makes 6, 12 and 25 clusters")  # fmt: skip
    add("--pt_epoch", type=count, default=50,
        help="at most so many epochs (default: 50; scpretrain2: 4, and 2 in phase 2)")  # fmt: skip
    add("--batch_num", type=count, default=30, help="steps an epoch (default: 30)")
    add("--pt_lr", type=rate, default=1e-4, help="learning rate (default: 1e-4); paper only")
    add("--pt_patience", type=count, default=5, help="epochs to wait for a lower loss (default: 5); paper only")
    add("--pca_pt", action="store_true", help="let the encoder see --pca_dim components of the corpus; paper only")
    add("--resume", action="store_true", help="go on from the last epoch of an interrupted run")
    add("--save_model", type=Path, default=Path("pretrain/scPretrain.out"), metavar="FILE",
        help="checkpoint to write (default: %(default)s)")  # fmt: skip


def splits(parser: Parser) -> None:
    group = parser.add_argument_group("training and test cells")
    add = group.add_argument
    add("--per_train", type=float, default=0.6, help="share of cells to train on (default: 0.6)")
    add("--per_val", type=float, default=0.1, help="share of cells to validate on (default: 0.1)")
    add("--max_tr_num", type=count, default=1000,
        help="at most so many cells to train and to validate on (default: 1000)")  # fmt: skip
    add("--fold1", type=count, default=1, help="repeats: fold1 x fold2 runs, each with its own seed")
    add("--fold2", type=count, default=1, help="see --fold1")


def network(parser: Parser) -> None:
    group = parser.add_argument_group("fine-tuning", "of the network of a paper checkpoint")
    add = group.add_argument
    add("--ft_epoch", type=count, default=500, help="at most so many epochs (default: 500)")
    add("--ft_lr", type=rate, default=0.002, help="learning rate (default: 0.002)")
    add("--ft_batch_size", type=count, default=5000, help="cells a batch (default: 5000)")
    add("--patience", type=count, default=30, help="epochs to wait for a better accuracy (default: 30)")
    add("--pca_ft", action="store_true", help="let the classifier see --pca_dim components of the cells")
    add("--pca_dim", type=count, default=500, help="number of components (default: 500)")


def off_the_shelf(parser: Parser) -> None:
    group = parser.add_argument_group("classifiers off the shelf")
    group.add_argument("--clf", choices=(*CLASSIFIERS, "all"), default="all", help="which of them (default: all)")
    group.add_argument("--tuned", action="store_true",
                       help="pick C, depth or k by cross-validation inside the training cells, instead of the "
                       "published settings")  # fmt: skip


def umap(parser: Parser) -> None:
    group = parser.add_argument_group("map")
    group.add_argument("--umap", metavar="NAME",
                       help="dataset to draw, or none (default: Quake_10x_Kidney where it is there, else the largest "
                       "labelled one)")  # fmt: skip


def pictures(parser: Parser) -> None:
    group = parser.add_argument_group("pictures")
    keep(group, "--figs", type=Path, default=Path("figs"), metavar="DIR", help="where they go (default: figs)")
    keep(
        group, "--format", type=formats, default=["pdf", "png"], metavar="A,B", help="pdf, png, svg (default: pdf,png)"
    )
    group.add_argument("--dpi", type=count, default=200, help="dots per inch of pixels (default: 200)")


def encoder(parser: Parser) -> None:
    group = parser.add_argument_group("encoder")
    keep(group, "--pretrained_model", type=Path, default=Path("pretrain/scPretrain.out"), metavar="FILE",
         help="checkpoint to start from (default: %(default)s)")  # fmt: skip
    keep(group, "--gene_list", type=Path, metavar="FILE",
         help="genes of a published bare checkpoint, one a line or a .npy")  # fmt: skip
    keep(group, "--hid", type=count, default=200, help="hidden units of the encoder (default: 200)")


def results(parser: Parser) -> None:
    group = parser.add_argument_group("results")
    keep(group, "--save_result", type=Path, default=Path("results/result.out"), metavar="FILE",
         help="results in the published text format; tables beside it as .csv (default: %(default)s)")  # fmt: skip


def running(parser: Parser) -> None:
    group = parser.add_argument_group("run")
    add = group.add_argument
    add("--cuda", action="store_true", help="run on the GPU")
    add("--seed", type=natural, default=0, help="every chance comes from it (default: 0)")
    keep(group, "--offline", action="store_true", help="never touch the network")
    add("--mixed", action="store_true",
        help="pre-train by products in bfloat16 where the processor has them: half the time, losses equal to 1e-3 "
        "(with --cuda always)")  # fmt: skip
    talking(group)


def labelled_cells(parser: Parser) -> None:
    """Of annotate.py: what is labelled, and what says the types."""
    group = parser.add_argument_group("cells")
    add = group.add_argument
    add("--query", type=Path, required=True, metavar="FILE", help="the cells to label")
    add("--reference", type=Path, nargs="+", default=[], metavar="FILE",
        help="labelled datasets to learn the types from")  # fmt: skip
    add("--labeller", type=Path, metavar="FILE",
        help="label by what --save_labeller wrote: the rest of the same query, or another sample")  # fmt: skip
    add("--out", type=Path, metavar="FILE", help="the .h5ad to write; a .csv and a .html lie beside it")
    add("--label_key", metavar="COLUMN",
        help="the column of cell types (default: cell_ontology_class, else cell_type)")  # fmt: skip
    add("--batch_key", metavar="COLUMN",
        help="of the references: their batches or donors; whole ones are held out")  # fmt: skip
    add("--unlabeled", nargs="+", default=[], metavar="LABEL",
        help="labels that mean a cell has none, such as Unknown; empty and NaN always do")  # fmt: skip
    add("--explore", type=count, nargs="?", const=EXPLORED, default=0, metavar="N",
        help=f"no labels yet: about N groups of cells (default: {EXPLORED}), and a page to name them on")  # fmt: skip
    add("--labels", type=Path, metavar="FILE",
        help="a table of labels: cell,cell_type or group,cell_type (groups of --explore); goes before "
        "--label_key")  # fmt: skip
    add("--markers", type=Path, metavar="FILE",
        help="marker genes of the types: type,gene[,sign]; or genes x types of 0 and 1; or scType's lists. With "
        "--explore they propose names")  # fmt: skip
    add("--embed_only", action="store_true", help="no labels, only the embedding")
    keep(group, "--species", choices=("human", "mouse"), help="of the query (default: told from its gene names)")
    add("--reference_species", choices=("human", "mouse"), help="of the references (default: likewise)")
    keep(group, "--values", choices=VALUES, help="what the query's numbers are (default: found out)")
    keep(group, "--layer", metavar="NAME", help="the query's matrix to use: X, raw or a layer (default: found out)")
    keep(group, "--modality", metavar="NAME", help="of a .h5mu query (default: rna, gex or the only one)")
    keep(group, "--force", action="store_true",
         help="go on with doubled gene names, or under 10 %% of the checkpoint's genes")  # fmt: skip


def labelling(parser: Parser) -> None:
    """Of annotate.py: how it is done, and what is written."""
    group = parser.add_argument_group("how")
    add, either = group.add_argument, argparse.BooleanOptionalAction
    keep(group, "--pretrained_model", type=Path, metavar="FILE",
         help="checkpoint (default: one is made of query and references)")  # fmt: skip
    keep(group, "--gene_list", type=Path, metavar="FILE", help="genes of a published bare checkpoint")
    add("--unknown", type=float, nargs="?", const=0.05, metavar="SHARE",
        help="call cells Unknown that no known type explains, wrongly so for at most about this share of the known "
        "ones (0.05 where no number is given; default: off)")  # fmt: skip
    add("--consensus", action=either, default=True, help="let small clusters vote (default: on)")
    add("--suggest", type=natural, default=0, metavar="N", help="list the N cells whose labels would help most")
    add("--probabilities", action="store_true", help="write the probability of every type for every cell too")
    add("--umap", action=either, default=True, help="compute a UMAP (default: on)")
    add("--report", action=either, default=True, help="write the .html (default: on)")
    add("--save_labeller", type=Path, metavar="FILE",
        help="keep what was learnt, for --labeller; without --out nothing else is done")  # fmt: skip
    add("--shard", type=share, metavar="I/N",
        help="label only every N-th block of the query, beginning with the I-th, into a part beside --out")  # fmt: skip
    add("--merge", type=Path, nargs="*", metavar="PART",
        help="join the parts that --shard wrote (default: those beside --out)")  # fmt: skip
    keep(group, "--data_dir", type=Path, default=Path("dataset"), metavar="DIR", help="where the ortholog table is")
    keep(group, "--offline", action="store_true", help="never touch the network")
    keep(group, "--seed", type=natural, default=0, help="every chance comes from it (default: 0)")
    talking(group)


def talking(group: argparse._ArgumentGroup) -> None:
    """The flags of every command about what it prints."""
    group.add_argument("--quiet", action="store_true", help="say nothing but warnings, the final table and files")
    group.add_argument("--traceback", action="store_true", help="show where in the code an error arose")


GROUPS = (data, cache, pretraining, encoder, splits, network, off_the_shelf, umap, results, pictures, running)


# -- what is checked at once ----------------------------------------------------------------
def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse values that do not go together, with the flags' names; exits with 2."""
    if not 0 < args.per_train < 1 or not 0 <= args.per_val < 1 or args.per_train + args.per_val >= 1:
        parser.error(f"--per_train {args.per_train} and --per_val {args.per_val} must leave cells for testing")
    if args.save_result.suffix == ".csv":
        parser.error(f"--save_result {args.save_result}: the table takes this name; name the text file otherwise")


def check_kinds(args: argparse.Namespace) -> None:
    """ValueError where a flag names a pipe, a device or a socket: reading may never end, and an output replaces it."""
    for name, value in vars(args).items():
        for path in value if isinstance(value, list) else [value]:
            with suppress(OSError):  # not there, or not to be seen: told by whoever opens it
                mode = path.stat().st_mode if isinstance(path, Path) else stat.S_IFREG
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise ValueError(
                        f"--{name} {path}: not a regular file but a pipe, a device or a socket; name a file"
                    )


def check_data(args: argparse.Namespace) -> None:
    """ValueError or FileNotFoundError where the data that a command is to read are not there."""
    own = [path for path in (args.np_input, args.ann_input) if path]
    for path in own:
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}; give the folder (--np_input) or the file (--ann_input)")
    if not own and not args.data_dir.is_dir():
        raise ValueError(f"--data_dir {args.data_dir} is not a folder; make it, or name the one with your datasets")


def check_files(args: argparse.Namespace) -> None:
    """FileNotFoundError where a file that annotate.py is to read is not there; ValueError for a --data_dir likewise."""
    files = [args.query, *args.reference, args.labels, args.markers, args.pretrained_model, args.gene_list]
    files += [args.labeller, *(args.merge or ())]
    for path in files:
        if path is not None and not path.exists():
            raise FileNotFoundError(f"there is no {path}; check the spelling")
    if "data_dir" in args.given and not args.data_dir.is_dir():
        raise ValueError(f"--data_dir {args.data_dir} is not a folder; name the one with the ortholog table")


def check_labelling(kind: type) -> Callable[[argparse.ArgumentParser, argparse.Namespace], None]:
    """The check of annotate.py: what the dataclass `kind` refuses of its flags, and a missing --out; exits with 2."""
    fills = check_fill(kind)

    def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
        if args.out is None and (args.save_labeller is None or args.shard or args.merge is not None):
            parser.error("the following arguments are required: --out")
        fills(parser, args)

    return check


def check_checkpoint(args: argparse.Namespace) -> None:
    """FileNotFoundError, with the command that makes it, where the checkpoint is not there."""
    if not args.pretrained_model.exists():
        raise FileNotFoundError(f"there is no checkpoint {args.pretrained_model}; make it with: {pretrain_line(args)}")


def check_outputs(args: argparse.Namespace) -> None:
    """ValueError where what a command makes could not be written: known now, not after all the work."""
    flag = "save_model" if args.is_pretrain else "save_result"
    path = getattr(args, flag)
    if path.is_dir():
        raise ValueError(f"--{flag} {path} is a folder; name a file in it")
    check_folder(f"--{flag} {path}", path.parent)
    if "figs" in args.given:
        check_folder(f"--figs {args.figs}", args.figs)


def check_folder(what: str, folder: Path) -> None:
    """ValueError where files cannot be made in a folder, or in the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"{what}: {folder} is a file, not a folder; name another place")
    bits = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH  # without any of them it is read-only for root too
    if not os.access(folder, os.W_OK) or not folder.stat().st_mode & bits:
        raise ValueError(f"{what}: the folder {folder} cannot be written; name another place")


def after_saving(args: argparse.Namespace) -> argparse.Namespace:
    """The flags of a command that takes the checkpoint which this one has written."""
    saved = {"pretrained_model"} if "save_model" in args.given else set()
    return argparse.Namespace(**vars(args) | {"pretrained_model": args.save_model, "given": args.given | saved})


def check_paths(args: argparse.Namespace) -> None:
    """Whether a command's data and checkpoint (if it needs one) are there, and what it makes can be written."""
    check_data(args)
    check_outputs(args)
    if args.pretrain_output or not args.is_pretrain:
        check_checkpoint(args)


def pretrain_line(args: argparse.Namespace) -> str:
    """The command that makes the checkpoint a command asks for."""
    return command_line("main.py --is_pretrain --kmeans", args).replace("--pretrained_model", "--save_model")


# -- running ----------------------------------------------------------------
def run(
    command: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    check: Callable[[argparse.ArgumentParser, argparse.Namespace], None] | None = None,
    check_paths: Callable[[argparse.Namespace], None] | None = None,
) -> int:
    """Parse, run, and turn what a user can mend into one line and exit code 2; returns the exit code.

    `check` takes the place of `check_flags` for a command with flags of its own; `check_paths` looks whether the
    files that it reads are there.
    """
    args = parser.parse_args(argv)
    args.given = given(parser, args, argv)
    args.kept = getattr(parser, "kept", [])
    (check or check_flags)(parser, args)
    try:
        check_kinds(args)
        if check_paths:
            check_paths(args)
        with heard(RESULT if getattr(args, "quiet", False) else logging.INFO):
            command(args)
    except (ValueError, OSError) as error:
        if args.traceback:
            traceback.print_exc()
        of = f" in process {ranks.rank()}" if ranks.rank() else ""
        print(f"error{of}: {clean(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; what was finished is saved, the same command (with --resume when pre-training) goes on",
            file=sys.stderr,
        )
        return 130
    return 0


def answer(
    parser: argparse.ArgumentParser,
    check_paths: Callable[[argparse.Namespace], None] | None = None,
    check: Callable[[argparse.ArgumentParser, argparse.Namespace], None] | None = None,
) -> None:
    """Answer --help, a wrong flag or a missing file now, in a script that is about to spend seconds on its imports."""
    sys.excepthook = _uncaught
    if code := run(lambda args: None, parser, None, check, check_paths):
        raise SystemExit(code)


def _uncaught(kind: type[BaseException], error: BaseException, where: Any) -> None:
    """Ctrl-C while the imports are made is a word, no traceback; all else as ever."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted before the work began", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, where)


def given(parser: argparse.ArgumentParser, args: argparse.Namespace, argv: Sequence[str] | None) -> set[str]:
    """The names of the flags that stand on the command line, whatever their values."""
    unset = object()
    probe = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args), unset)))
    return {name for name, value in vars(probe).items() if value is not unset}


def fill(kind: type[Made], args: argparse.Namespace) -> Made:
    """A dataclass whose fields are flags, or such dataclasses; a field marked `if_given` keeps its default else."""
    values = {}
    for one in fields(kind):  # type: ignore[arg-type]
        if is_dataclass(one.default_factory):
            values[one.name] = fill(one.default_factory, args)  # type: ignore[arg-type]
        elif one.name in args.given or not one.metadata.get("if_given"):
            values[one.name] = getattr(args, one.name)
    return kind(**values)


def check_fill(kind: type) -> Callable[[argparse.ArgumentParser, argparse.Namespace], None]:
    """A check that refuses what the dataclass `kind` refuses of its flags; exits with 2."""

    def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
        try:
            fill(kind, args)
        except ValueError as error:
            parser.error(str(error))

    return check


def command_line(words: str, args: argparse.Namespace) -> str:
    """What to type for `words` (script and flags) with the data, folders and files that this run was given."""
    repeated = []
    for name in args.kept:
        value = getattr(args, name)
        if name not in args.given or value is False:
            continue
        text = "" if value is True else ",".join(value) if isinstance(value, list) else str(value)
        repeated += [f"--{name}", *([text] if text else [])]
    return f"python {words} {shlex.join(repeated)}".rstrip()

"""A run: its chance, device, checkpoint file and result files; nothing else."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import data_loader as data
import ranks
from files import fingerprint, locked, whole
from model import Encoder
from reading import catalogue
from reading.guard import regular
from stages import score
from voice import log

ARMS = ("scPretrain", "Without pretraining")
FROZEN = "frozen encoder"  # the checkpoint's encoder as it is, beside the map of the cells that it is a prior for
CHECKPOINT_FORMAT, CHECKPOINT_VERSION = "scpretrain-checkpoint", 1
KEY_COLUMNS = ("dataset", "arm", "seed", "run")  # what a table of results must have to be one
RESULT_COLUMNS = ["dataset", "arm", "seed", "n_train", "n_test", *score.METRICS, "seconds", "run"]
CLUSTER_COLUMNS = ["dataset", "arm", "seed", "n_cells", "n_types", *score.CLUSTER_METRICS, "run"]


# -- chance and device ----------------------------------------------------------------
def seed_everything(seed: int) -> None:
    """Fix the random numbers a library may draw on its own; our own code is handed its seed."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def pick_device(cuda: bool) -> torch.device:
    """The device a run asks for, with torchrun a GPU for each process. Raises ValueError where there are too few."""
    if not cuda:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("--cuda: PyTorch sees no CUDA device here; leave --cuda out to run on the CPU")
    if ranks.size() == 1:
        return torch.device("cuda")
    if ranks.local() >= torch.cuda.device_count():
        cards = torch.cuda.device_count()
        raise ValueError(f"--cuda: a GPU for each process is needed; use torchrun --nproc_per_node {cards}")
    torch.cuda.set_device(ranks.local())
    return torch.device("cuda", ranks.local())


def bf16(device: torch.device, wanted: bool) -> bool:
    """Whether pre-training's products are in bfloat16: on a GPU always, on a processor that has it where wanted."""
    if device.type == "cuda":
        return True
    has = torch.cpu.get_capabilities()
    able = bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    if wanted and not able:
        log.info("--mixed: no effect, this processor has no products in bfloat16")
    return wanted and able


# -- data ----------------------------------------------------------------
@dataclass(frozen=True)
class Data:
    """Which datasets a run takes and how they are read; a field is the flag of its name."""

    data_dir: Path
    datasets: list[str] | None
    exclude: list[str]
    species: str | None
    np_input: Path | None
    ann_input: Path | None
    base_url: str
    offline: bool
    max_download: float
    label_key: str | None
    layer: str | None
    use_raw: bool

    @property
    def values(self) -> dict[str, Any]:
        """Which of a file's matrices is read."""
        return {"layer": self.layer, "use_raw": self.use_raw}

    def entries(self, labelled_because: str = "") -> list[data.Entry]:
        """The datasets with their files; with a reason only the labelled ones. Raises ValueError where none is left."""
        where = {name: getattr(self, name) for name in ("data_dir", "datasets", "exclude", "species")}
        own = {"np_input": self.np_input, "ann_input": self.ann_input}
        online = {"base_url": self.base_url, "offline": self.offline}
        online["max_download"] = self.max_download
        return catalogue.wanted(**where, **own, **online, labelled_because=labelled_because)

    def orthologs(self) -> dict[str, str]:
        return catalogue.orthologs(self.data_dir, offline=self.offline)

    def prepare(self, entry: data.Entry, orthologs: dict[str, str], normalise: Callable | None) -> data.Prepared:
        """One labelled dataset, ready for its splits."""
        return data.prepare(entry, orthologs, label_key=self.label_key, normalise=normalise, **self.values)

    def identity(self, entry: data.Entry, orthologs_hash: str) -> str:
        """A hash of all that the cells, genes and labels of a dataset depend on."""
        names = None if entry.species == "mouse" else orthologs_hash  # mouse genes need no ortholog table
        how = self.label_key, self.layer, self.use_raw, self.species
        return fingerprint(how, entry.species, names, data.stamp_of(entry.path))


@dataclass(frozen=True)
class Splits:
    """Which cells are trained on and how often; a field is the flag of its name."""

    per_train: float
    per_val: float
    max_tr_num: int
    fold1: int
    fold2: int
    seed: int

    @property
    def seeds(self) -> list[int]:
        """One for each repeat."""
        return [self.seed + repeat for repeat in range(self.fold1 * self.fold2)]

    def settings(self) -> dict[str, float]:
        """What a result depends on, beside its seed."""
        return {"per_train": self.per_train, "per_val": self.per_val, "max_tr_num": self.max_tr_num}

    def of(self, dataset: data.Prepared, seed: int) -> data.Split:
        """The cells of one repeat; says which types have too few."""
        return data.split_of(dataset, seed, self.per_train, self.per_val, self.max_tr_num)


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
    run: str = ""  # what its training depended on, weights to start from included; "": not known
    asked: str = ""  # the same without these weights, but with its length: what was asked for
    shares: torch.Tensor | None = None  # (G,) float32, the genes' signal shares in the corpus; None: not known

    def identity(self) -> str:
        """A hash of weights, genes and shares: results made with others are not this checkpoint's."""
        values = [*self.encoder.state_dict().values(), *([] if self.shares is None else [self.shares])]
        weights = [hashlib.sha256(value.detach().cpu().contiguous().numpy()).hexdigest() for value in values]
        return fingerprint(self.recipe, weights, fingerprint(self.genes))

    def prior(self, genes: Sequence[str]) -> np.ndarray | None:
        """Signal shares of these genes in the corpus, (len(genes),), NaN for one it has not; None: none are known."""
        if self.shares is None:
            return None
        known = dict(zip(self.genes, self.shares.tolist(), strict=True))
        return np.array([known.get(gene, np.nan) for gene in genes], dtype=float)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write one file that `load_checkpoint` opens anywhere, with or without CUDA."""
    content = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__ if name != "encoder"}
    if content["shares"] is None:  # such a file is what it was before there were shares
        del content["shares"]
    content |= {
        "format": CHECKPOINT_FORMAT,
        "version": CHECKPOINT_VERSION,
        "genes_hash": fingerprint(checkpoint.genes),
        "weights": {name: value.detach().cpu() for name, value in checkpoint.encoder.state_dict().items()},
    }
    _save(path, content | {"checksum": checksum(content)})


def checksum(content: Any) -> str:
    """A hash of all that a checkpoint or a state holds: tensors by their bytes, the rest as it is spelt."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            found.update(b"{%d" % len(value))
            for key, one in value.items():
                add(key)
                add(one)
        elif isinstance(value, list | tuple):
            found.update(b"[%d" % len(value))
            for one in value:
                add(one)
        elif isinstance(value, torch.Tensor):
            array = value.detach().cpu().contiguous().numpy()
            found.update(f"{array.dtype.str}{array.shape}".encode())
            found.update(array.reshape(-1).view(np.uint8))
        else:
            text = repr(value).encode("utf-8", "backslashreplace")
            found.update(b"%d:" % len(text) + text)

    add(content)
    return found.hexdigest()


def _save(path: Path, content: dict[str, Any]) -> None:
    """Write a file of torch's whole, the same bytes for the same content. Raises OSError where the disk is full."""
    with whole(path) as part, open(part, "wb") as file:  # given a path, torch would write its name into the file
        try:
            torch.save(content, file)
        except RuntimeError as error:  # what torch makes of a failed write
            raise OSError(f"is the disk full? {str(error).splitlines()[0]}") from error


def load_checkpoint(path: Path, *, gene_list: Path | None = None) -> Checkpoint:
    """Open a checkpoint of ours, or a published bare {fc1.weight, fc1.bias} with the genes of `gene_list`.

    Raises FileNotFoundError with the command that makes it, or ValueError, with what to do.
    """
    path = Path(path)
    if not path.exists():
        line = f"python main.py --is_pretrain --kmeans --save_model {path}"
        raise FileNotFoundError(f"there is no checkpoint {path}; make it with: {line}")
    regular(path, str(path))
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
    version = content.get("version", 0)
    if not isinstance(version, int):
        raise ValueError(f"{path} has {version!r} where a number of its version is due; it is damaged: pre-train again")
    if version > CHECKPOINT_VERSION:
        raise ValueError(
            f"{path} has checkpoint version {content['version']}, this program reads up to "
            f"{CHECKPOINT_VERSION}; update scPretrain"
        )
    try:
        genes, weight = content["genes"], content["weights"]["linear.weight"]
        encoder = Encoder(weight.shape[1], weight.shape[0])
        encoder.load_state_dict(content["weights"])
    except (KeyError, RuntimeError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} lacks parts of a checkpoint ({error}); it is damaged: pre-train again") from error
    _finite(path, encoder)
    if len(genes) != weight.shape[1] or fingerprint(genes) != content.get("genes_hash"):
        raise ValueError(
            f"{path} holds {len(genes):,} gene names for {weight.shape[1]:,} columns, or other names than "
            "it was saved with; it is damaged: pre-train again"
        )
    stated = content.pop("checksum", None)  # checkpoints from before `run` have none
    if stated != checksum(content) and (stated is not None or "run" in content):
        raise ValueError(f"{path} does not hold the bytes it was saved with (checksum); it is damaged: pre-train again")
    shares = content.get("shares")  # older checkpoints have none
    if shares is not None and not (
        torch.is_tensor(shares) and shares.shape == weight.shape[1:] and _numbers_only(shares)
    ):
        raise ValueError(f"{path}: its signal shares are no numbers, one a gene; it is damaged: pre-train again")
    known = {name: content[name] for name in Checkpoint.__dataclass_fields__ if name in content}
    return Checkpoint(encoder=encoder, **known)


def _numbers_only(values: torch.Tensor) -> bool:
    return values.is_floating_point() and bool(torch.isfinite(values).all())


def _finite(path: Path, encoder: Encoder) -> None:
    """Refuse weights that are not numbers, by name."""
    for name, value in encoder.state_dict().items():
        if bad := int((~torch.isfinite(value)).sum()):
            raise ValueError(f"{path}: {bad:,} of the weights {name} are not finite; it is damaged: pre-train again")


def _published(path: Path, content: dict, gene_list: Path | None) -> Checkpoint:
    weight = content["fc1.weight"]
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        raise ValueError(f"{path}: fc1.weight is no table of weights; fetch it again")
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
    _finite(path, encoder)
    return Checkpoint(encoder, [gene.upper() for gene in genes], settings={"source": "published weights"})


# -- training state ----------------------------------------------------------------
def state_path(save_model: Path) -> Path:
    return save_model.with_name(save_model.name + ".state")


def save_state(path: Path, content: dict[str, Any]) -> None:
    """Write where pre-training stands, whole."""
    _save(path, content | {"checksum": checksum(content)})


def load_state(path: Path, identity: str) -> dict[str, Any] | None:
    """Where an interrupted run stood, None where there is none. Raises ValueError for another run's state."""
    if not path.exists():
        return None
    regular(path, str(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        same = content["identity"] == identity
        if content.pop("checksum") != checksum(content):  # one without it may have lost it to what changed the weights
            raise ValueError("checksum")
    except Exception as error:
        raise ValueError(f"{path} is no training state, or a damaged one; delete it to start anew") from error
    if not same:
        raise ValueError(
            f"{path} is the state of a run with other data or settings; repeat its command, or leave "
            "--resume out to start anew"
        )
    return content


def is_finished(path: Path, start: Checkpoint | None, run: str, asked: str, *, resume: bool) -> bool:
    """Whether the checkpoint at `path` is what this very run has made: to go on with it there is nothing left to do.

    So it is where the state that is left is that of the run that made it (killed between the two), and, with `resume`,
    where no state is left. A checkpoint that was started from and replaced (phase 2 in place) is known by what was
    asked for. Else it is trained anew: that is what a repeated command without --resume asks for.
    """
    try:
        made = load_checkpoint(path)
    except (ValueError, OSError):  # none, or one to be replaced
        return False
    in_place = start is not None and start.identity() == made.identity()
    if not made.run or made.asked != asked or not (made.run == run or in_place):
        return False
    state = state_path(path)
    return _run_of(state) == made.run if state.exists() else resume


def _run_of(state: Path) -> str:
    """The identity of the run that a state is of, "" for a damaged one: what to do with it is said by load_state."""
    if not state.is_file():
        return ""
    try:
        return str(torch.load(state, map_location="cpu", weights_only=True)["identity"])
    except Exception:
        return ""


# -- results ----------------------------------------------------------------
def read_results(path: Path, columns: Sequence[str] = RESULT_COLUMNS) -> pd.DataFrame:
    """A table of results, one row a (dataset, arm, seed); empty where there is no file yet.

    `columns` are those of result.csv and CLF.csv, or CLUSTER_COLUMNS; a number that an older file lacks is NaN.
    Raises ValueError where it is something else.
    """
    if not Path(path).exists():
        return pd.DataFrame(columns=list(columns))
    regular(path, str(path))
    try:
        table = pd.read_csv(path, dtype={"dataset": str, "arm": str, "run": str}, keep_default_na=False)
    except (ValueError, OverflowError) as error:  # pandas' own kinds and UnicodeDecodeError are ValueErrors
        raise ValueError(f"{path} is not a table of results ({error}); move it away") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"{path} is not a table of results (its rows have more fields than its head); move it away")
    if missing := set(KEY_COLUMNS) - set(table.columns):
        raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}; move it away")
    table = table.reindex(columns=[*columns, *(name for name in table.columns if name not in columns)])
    for name in table.columns.difference(("dataset", "arm", "run")):
        if table[name].dtype == object:  # an empty field among numbers
            table[name] = _numbers(table[name], path, columns)
    return table


def _numbers(column: pd.Series, path: Path, columns: Sequence[str]) -> pd.Series:
    """A column that was read as text, as numbers; ValueError where one of ours holds a word, or no seed."""
    numbers = pd.to_numeric(column, errors="coerce")
    missing = column.astype(str).str.strip().str.lower().isin(("", "nan")) & (column.name != "seed")
    words = column[numbers.isna() & ~missing]
    if len(words) and column.name in columns:
        row = int(words.index[0]) + 1
        raise ValueError(
            f"{path}, row {row}: {column.name} is {words.iloc[0]!r}, not a number; put it right or move it away"
        )
    return numbers


def write_result(path: Path, row: dict[str, Any], columns: Sequence[str] = RESULT_COLUMNS) -> None:
    """Add one row, in the place of an older one of the same dataset, arm and seed."""
    with locked(path):
        _replace_row(path, row, columns)


def _replace_row(path: Path, row: dict[str, Any], columns: Sequence[str]) -> None:
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


@dataclass(frozen=True)
class ResultTable:
    """One file of results and the runs that this command wants in it."""

    path: Path
    wanted: dict[tuple[str, str, int], str]  # (dataset, arm, seed): the hash of all that its result depends on
    columns: Sequence[str] = tuple(RESULT_COLUMNS)

    @classmethod
    def of(
        cls,
        path: Path,
        entries: Sequence[data.Entry],
        seeds: Sequence[int],
        identity: Callable[[data.Entry, str], str],
        columns: Sequence[str] = tuple(RESULT_COLUMNS),
    ) -> "ResultTable":
        """The runs of both arms of these datasets; `identity` hashes what those of a (dataset, arm) depend on."""
        runs = {(entry.name, arm): identity(entry, arm) for entry in entries for arm in ARMS}
        return cls(path, {(*which, seed): run for which, run in runs.items() for seed in seeds}, columns)

    def rows(self) -> pd.DataFrame:
        """The rows of the wanted runs; those made otherwise are not among them."""
        table = read_results(self.path, self.columns)
        return table[[self.wanted.get((row.dataset, row.arm, row.seed)) == row.run for row in table.itertuples()]]

    def todo(self) -> list[tuple[str, str, int]]:
        """The runs that the file does not hold as these very runs; says how many are kept."""
        done = {(row.dataset, row.arm, row.seed) for row in self.rows().itertuples()}
        if done:
            log.info(f"{len(done)} of {len(self.wanted)} runs are in {self.path} already and are kept")
        return [which for which in self.wanted if which not in done]

    def write(self, row: dict[str, Any]) -> None:
        """Add the row of a wanted run, or one that goes with it."""
        run = self.wanted[row["dataset"], run_of(row["arm"]), row["seed"]]
        write_result(self.path, row | {"run": run}, self.columns)


def mine(entries: Sequence[data.Entry]) -> list[data.Entry]:
    """The datasets that this process tests; with torchrun each is tested by one, large ones first to be dealt."""
    return ranks.mine(entries, [sum(size for _, size, _ in data.stamp_of(entry.path)) for entry in entries])


def run_of(arm: str) -> str:
    """Which of the two arms a row is made with: the frozen encoder with the first, a baseline with the second."""
    return arm if arm in ARMS else ARMS[0] if arm == FROZEN else ARMS[1]


def unfinished(tables: dict[str, ResultTable]) -> dict[str, dict[int, list[tuple[str, str]]]]:
    """What is left to do: for each dataset its seeds, for each seed the (key of `tables`, arm), in the order wanted."""
    left: dict[str, dict[int, list[tuple[str, str]]]] = {}
    for kind, table in tables.items():
        for name, arm, seed in table.todo():
            left.setdefault(name, {}).setdefault(seed, []).append((kind, arm))
    return {name: {seed: of[seed] for seed in sorted(of)} for name, of in left.items()}


def save_figure(figure: Any, stem: Path, kinds: Sequence[str], dpi: int) -> list[Path]:
    """A matplotlib figure as STEM.pdf, STEM.png ..., each whole; returns the files."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    for path, kind in zip(paths, kinds, strict=True):
        with whole(path) as part:
            figure.savefig(part, format=kind, dpi=dpi)
    return paths


@dataclass(frozen=True)
class Pictures:
    """Where figures go and in which formats; a field is the flag of its name."""

    figs: Path
    format: list[str]
    dpi: int

    def save(self, figure: Any, name: str) -> list[Path]:
        return save_figure(figure, self.figs / name, self.format, self.dpi)


def write_published(path: Path, table: pd.DataFrame) -> None:
    """The same results as the published code spells them: (accuracy, kappa, (AUPRC, AUROC)) a line."""
    lines = []
    for (dataset, _), rows in table.groupby(["dataset", "seed"], sort=False):
        lines.append(dataset)
        for row in sorted(rows.itertuples(), key=lambda row: ARMS.index(row.arm)):
            lines.append(f"{row.arm}:({row.accuracy:.6g}, {row.kappa:.6g}, ({row.auprc:.6g}, {row.auroc:.6g}))")
    with whole(path) as part:
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

"""What a list of gene names is: symbols, Ensembl ids, Entrez ids or probes; of human or mouse."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

# Where .h5ad, .loom and 10x files keep the symbols when the index holds ids; compared in lower case.
SYMBOL_COLUMNS = (
    "gene_symbols",
    "gene_symbol",
    "gene_name",
    "gene_names",
    "feature_name",
    "gene_short_name",
    "symbol",
    "symbols",
    "hgnc_symbol",
    "mgi_symbol",
    "external_gene_name",
    "gene",
    "name",
    "original_gene_symbols",
)
MISSING = frozenset(("", "nan", "none", "na", "n/a", "<na>", "null"))  # how "no value" is spelled, in lower case
# Labels that say that a cell has no type, or is no single cell; compared without case, blanks and punctuation.
NO_TYPE = frozenset(
    "unassigned notassigned unknown unknowncell unknowncells unclassified undetermined undefined unannotated "
    "unlabeled unlabelled nolabel nocall ambiguous uncertain unsure other tbd doublet doublets multiplet multiplets "
    "lowquality lowqualitycell lowqualitycells debris empty emptydroplet ungated unspecified unidentified mixed".split()
)
# The columns by which files tell genes from antibodies, peaks and guides, and what genes are called there.
FEATURE_COLUMNS = ("feature_types", "feature_type", "modality", "feature_class")
GENES = frozenset(("gene expression", "gene", "genes", "gex", "rna", "gene_expression", "transcriptome", "mrna"))

_HUMAN = re.compile(r"ENSG\d{11}(\.\d+)?$")
_MOUSE = re.compile(r"ENSMUSG\d{11}(\.\d+)?$")
_VERSION = re.compile(r"^(ENS[A-Z]*G\d{11})\.\d+$")
_JOINED = re.compile(r"^ENS[A-Z]*G\d{11}(?:\.\d+)?[_|](.+)$|^(.+)[_|]ENS[A-Z]*G\d{11}(?:\.\d+)?$")
_OTHER = re.compile(
    r"ENS[A-Z]*[GTPE]\d{11}|ILMN_\d+|AFFX-|\d+_([a-z]_)?at$|[NX][MRP]_\d+|(chr)?[0-9XYM]+[:_-]\d+[-_]\d+$|"
    r"(gene|feature|probe|var)[_ -]?\d+$",
    re.IGNORECASE,
)
_SYMBOL = re.compile(r"[A-Za-z][\w.@/()':*+-]*$|\d[\w]*Rik$|\d{1,2}-[A-Z][a-z]{2}$")
_GENOME = re.compile(
    r"^((?:GRCh\d\d|GRCm\d\d|GRCz\d\d|hg\d\d|mm\d\d?|mRatBN\d+|Rnor\d*|BDGP\d+|human|mouse)"
    r"[A-Za-z0-9.]*?(?:-\d{4}-[A-Z]|-\d\.\d\.\d)?[_-]+)(?=[A-Za-z0-9])(.+)$"
)
_PEAK = re.compile(r"(chr)?[0-9XYM]{1,2}[:_-]\d+[-_]\d+$|GL\d+\.\d[:_-]\d+-\d+$", re.IGNORECASE)
_DATE = re.compile(  # what a spreadsheet makes of MARCH1, SEPT2, DEC1, and of OCT4 or NOV
    r"(\d{1,2})-(Mar|Sep|Dec|Oct|Nov|Feb|Apr|Jan|Jun|Jul|Aug|May)$|(Mar|Sep|Dec|Oct|Nov|Feb|Apr)-(\d{1,2})$|"
    r"\d{4}-(\d\d)-(\d\d)(?:[ T]00:00:00)?$|(\d{1,2})/(\d{1,2})/\d{4}$"
)
_MONTHS = {
    "mar": "MARCH{0} or MARC{0}",
    "sep": "SEPT{0}",
    "dec": "DEC{0}",
    "oct": "OCT{0}",
    "nov": "NOV",
    "feb": "FEB{0}",
}
_OTHER_SPECIES = {  # what Ensembl and model organisms' databases put before their ids
    "ENSDARG": "zebrafish", "ENSRNOG": "rat", "ENSMMUG": "macaque", "ENSMFAG": "macaque", "ENSSSCG": "pig",
    "ENSGALG": "chicken", "ENSBTAG": "cow", "ENSCAFG": "dog", "ENSOCUG": "rabbit", "ENSXETG": "frog",
    "ENSPTRG": "chimpanzee", "ENSCJAG": "marmoset", "FBGN": "fly", "WBGENE": "worm",
}  # fmt: skip
_IDS = tuple(_OTHER_SPECIES)
_PLANT = re.compile(r"AT[1-5CM]G\d{5}$|Os\d\dg\d{7}$|LOC_Os\d\dg\d{5}$|Zm\d+[a-z]\d+$|Solyc\d\dg\d+", re.IGNORECASE)


def as_text(values) -> np.ndarray:  # (n,) object array of str
    """Names or labels of any kind (bytes, str, numbers) as an object array of str; missing ones as ""."""
    values = np.asarray(values)
    if values.dtype.kind == "U":
        return values.astype(object)
    if values.dtype.kind == "S":
        values = values.astype(object)
    if values.dtype.kind in "iub":
        return values.astype(str).astype(object)
    out = np.empty(len(values), dtype=object)
    out[:] = [_one_text(value) for value in values.tolist()]
    return out


def _one_text(value) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")  # files written on old Windows machines
    if value is None or value != value:  # NaN is the value that differs from itself
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # clusters that became floats because one was missing
    text = str(value)
    return "" if text in ("<NA>", "NaT") else text


def as_labels(values) -> np.ndarray:  # (n,) object array of str
    """Cell types as text, stripped; every spelling of "no label" (NaN, None, NA, empty) becomes ""."""
    seen: dict[str, str] = {}

    def clean(text: str) -> str:
        if text not in seen:
            bare = text.strip()
            seen[text] = "" if bare.lower() in MISSING else bare
        return seen[text]

    try:
        text = as_text(values)
    except (TypeError, ValueError):  # pandas' NA compares to nothing
        text = np.array([_one_text(None if str(v) == "<NA>" else v) for v in values], dtype=object)
    out = np.empty(len(text), dtype=object)
    out[:] = [clean(value) for value in text]
    return out


def no_types(labels: Sequence[str]) -> list[str]:
    """Those of the labels, each once, that say that a cell has no type: unassigned, Unknown, doublet, "-", "?" ..."""
    found = {}
    for label in dict.fromkeys(labels):
        bare = "".join(c for c in str(label).lower() if c.isalnum())
        if label and (not bare or bare in NO_TYPE or bare in MISSING):
            found[label] = None
    return list(found)


def mangled(genes: Sequence[str]) -> dict[str, str]:
    """Gene names that a spreadsheet took for dates, each with what it was: {"1-Mar": "MARCH1 or MARC1"}."""
    found = {}
    for gene in genes:
        if (match := _DATE.match(gene)) is None:
            continue
        day, month, month_first, number, iso_month, iso_day, *_ = match.groups()
        name = (month or month_first or "").lower()
        if iso_month:
            name, day = {"03": "mar", "09": "sep", "12": "dec", "10": "oct"}.get(iso_month, ""), str(int(iso_day))
        found[gene] = _MONTHS.get(name, "a gene").format(day or number)
    return found


def features_that_are_genes(
    names: Sequence[str], columns: Mapping[str, Sequence] | None = None
) -> tuple[np.ndarray | None, str]:
    """The places (K,) of the features that are genes, and the words that say what is left out; None: all of them.

    By a column of FEATURE_COLUMNS where it names genes, else peaks are told by their names (chr1:100-200).
    """
    by_lower = {key.lower(): key for key in columns or ()}
    for wanted in FEATURE_COLUMNS:
        if wanted not in by_lower:
            continue
        types = as_labels(columns[by_lower[wanted]])
        genes = np.array([kind.lower() in GENES for kind in types], dtype=bool)
        if len(genes) == len(names) and genes.any() and not genes.all():
            others = ", ".join(list(dict.fromkeys(types[~genes]))[:3])
            return np.flatnonzero(genes), f"{int((~genes).sum()):,} features that are not genes left out ({others})"
        if genes.any():
            return None, ""
    peaks = np.array([_PEAK.match(name) is not None for name in names], dtype=bool)
    if peaks.sum() > 10 and not peaks.all():
        return np.flatnonzero(~peaks), f"{int(peaks.sum()):,} features that are not genes left out (peaks)"
    return None, ""


def genome_of(name: str) -> str:
    """The genome that stands before a gene's name, such as GRCh38_ or mm10___; "" where none does."""
    match = _GENOME.match(name)
    return match.group(1) if match else ""


def species_of_genome(genome: str) -> str:
    """'human', 'mouse' or '' of a genome as references name it: hg19, GRCh38, mm10, GRCm39 ..."""
    bare = genome.lower()
    if bare.startswith(("grch", "hg", "human")):
        return "human"
    return "mouse" if bare.startswith(("grcm", "mm", "mouse")) else ""


def other_species(genes: Sequence[str]) -> tuple[str, str]:
    """A species that is neither human nor mouse, and what tells it; ("", "") where nothing does.

    Ids tell it for sure. Symbols in small letters are those of zebrafish or frog; rats' look like mouse ones.
    """
    some = [gene for gene in _sample(genes) if gene]
    prefixes: dict[str, int] = {}
    for gene in some:
        upper = gene.upper()
        for prefix, species in _OTHER_SPECIES.items() if upper.startswith(_IDS) else ():
            if upper.startswith(prefix) and any(c.isdigit() for c in upper):
                prefixes[species] = prefixes.get(species, 0) + 1
        if _PLANT.match(gene):
            prefixes["a plant"] = prefixes.get("a plant", 0) + 1
    if prefixes:
        best = max(prefixes, key=lambda species: prefixes[species])
        if prefixes[best] * 2 >= len(some):
            return best, "its ids"
    words = [gene for gene in some if sum(c.isalpha() for c in gene) > 2 and not gene.upper().startswith("ENS")]
    if len(words) >= 10 and sum(gene == gene.lower() for gene in words) * 10 >= 8 * len(words):
        return "zebrafish or another species with symbols in small letters", "the case of its symbols"
    return "", ""


def kind_of_names(genes: Sequence[str]) -> str:
    """What at least half are: 'symbol', 'ensembl_human', 'ensembl_mouse', 'entrez' or 'probe/other'."""
    genes = [gene for gene in _sample(genes) if gene]
    if not genes:
        return "probe/other"
    tally = dict.fromkeys(("ensembl_human", "ensembl_mouse", "entrez", "probe/other", "symbol"), 0)
    for gene in genes:
        if _HUMAN.match(gene):
            tally["ensembl_human"] += 1
        elif _MOUSE.match(gene):
            tally["ensembl_mouse"] += 1
        elif gene.isdigit():
            tally["entrez"] += 1
        elif _OTHER.match(gene) or not _SYMBOL.match(gene):
            tally["probe/other"] += 1
        else:
            tally["symbol"] += 1
    kind = max(tally, key=tally.get)
    if tally[kind] * 2 < len(genes):
        return "probe/other"
    if kind == "entrez" and genes[: min(3, len(genes))] in (["0", "1", "2"], ["1", "2", "3"]):
        return "probe/other"  # a counter, not a name
    return kind


def species_from_case(genes: Sequence[str]) -> tuple[str, float]:
    """'human' or 'mouse' from the spelling (TP53, Trp53; Ensembl ids say it), and the confidence, 0 to 1.

    The confidence is the share of the telling names that agree; 0.5 where none tells anything ('human' then).
    """
    human = mouse = 0
    for gene in _sample(genes):
        if _HUMAN.match(gene):
            human += 1
        elif _MOUSE.match(gene) or gene.endswith("Rik"):
            mouse += 1
        else:
            letters = "".join(c for c in gene.replace("orf", "") if c.isalpha())  # C9orf72 is a human symbol
            if len(letters) > 1 and letters.isupper():
                human += 1
            elif len(letters) > 1 and letters[0].isupper() and any(c.islower() for c in letters[1:]):
                mouse += 1
    if human + mouse == 0:
        return "human", 0.5
    return ("human", human / (human + mouse)) if human >= mouse else ("mouse", mouse / (human + mouse))


def strip_versions(genes: Sequence[str]) -> list[str]:
    """Ensembl ids without their version (ENSG00000141510.17); other names stay as they are."""
    return [_VERSION.sub(r"\1", gene) if gene.startswith("ENS") else gene for gene in genes]


def gene_symbols(var_names: Sequence[str], var_columns: Mapping[str, Sequence] | None = None) -> tuple[list[str], str]:
    """Gene symbols of a file and the words that say where they were found.

    var_names (G,): the names the matrix is indexed by. var_columns: further columns of the gene table, (G,)
    each. Symbols in var_names win; where var_names are ids, the first column of SYMBOL_COLUMNS that holds
    symbols does, and a gene without a symbol there keeps its id. Ids of the form ENSG..._TP53 and genome
    prefixes (GRCh38_TP53) are taken apart. Where only ids exist they are returned, without versions.
    """
    names = list(var_names)
    bare, prefix = _without_genome(names)
    if prefix:
        names = bare
    kind = kind_of_names(names)
    if kind == "symbol":
        joined = [_JOINED.match(name) for name in names]
        if names and sum(m is not None for m in joined) * 2 >= len(names):
            names = [(m.group(1) or m.group(2)) if m else name for m, name in zip(joined, names, strict=True)]
            return names, "the symbol part of var_names"
        return names, f"var_names (genome prefix {prefix} removed)" if prefix else "var_names"
    joined = [_JOINED.match(name) for name in names]
    if names and sum(m is not None for m in joined) * 2 >= len(names):
        return [(m.group(1) or m.group(2)) if m else name for m, name in zip(joined, names, strict=True)], (
            "the symbol part of var_names"
        )
    by_lower = {key.lower(): key for key in reversed(list(var_columns or {}))}
    for wanted in SYMBOL_COLUMNS:
        if wanted not in by_lower:
            continue
        column = as_labels(var_columns[by_lower[wanted]])
        if len(column) == len(names) and kind_of_names(column) == "symbol":
            column, _ = _without_genome(list(column))
            ids = strip_versions(names)
            return [symbol or one for symbol, one in zip(column, ids, strict=True)], f"var column {by_lower[wanted]!r}"
    spoken = {
        "ensembl_human": "human Ensembl ids",
        "ensembl_mouse": "mouse Ensembl ids",
        "entrez": "Entrez ids",
    }
    return strip_versions(names), f"var_names ({spoken.get(kind, 'not gene symbols')})"


def ensembl_ids(var_names: Sequence[str], var_columns: Mapping[str, Sequence] | None = None) -> list[str]:
    """The Ensembl ids (G,) of a file's genes, without versions, wherever it keeps them; empty where it has none."""
    wanted = [key for key in var_columns or () if any(word in key.lower() for word in ("id", "ens", "accession"))]
    for names in (as_labels(var_names), *(as_labels(var_columns[key]) for key in wanted)):
        if len(names) == len(var_names) and kind_of_names(names).startswith("ensembl"):
            return strip_versions(list(names))
    return []


def _without_genome(names: list[str]) -> tuple[list[str], str]:
    """Names without the genome that 10x puts before them (GRCh38_TP53), and that prefix, '' if none."""
    found = [_GENOME.match(name) for name in names]
    prefixes = {match.group(1) for match in found if match}
    if not names or len(prefixes) > 2 or sum(match is not None for match in found) * 10 < len(names) * 9:
        return names, ""
    return [match.group(2) if match else name for match, name in zip(found, names, strict=True)], "/".join(
        sorted(prefixes)
    )


def _sample(genes: Sequence[str], most: int = 4000) -> list[str]:
    """At most `most` names, evenly spread: the answer does not need all of them."""
    step = max(1, len(genes) // most)
    return list(genes[::step])

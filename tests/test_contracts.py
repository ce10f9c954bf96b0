"""Who may import whom: pytest tests/test_contracts.py. Read from the source; nothing is imported here.

import-linter does this for packages, but it takes no single files, and the commands and nouns are single files.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("reading", "stages", "annotation", "benchmarks")
COMMANDS = {"main", "rf_svm_lr", "clus", "fig", "annotate", "simulate"}
GROUND = {"files", "ranks", "voice"}

# a part of the house: what it may import of ours, whole folders or modules in them
CONTRACTS = {
    "files": set(),
    "voice": set(),
    "ranks": {"voice"},
    "flags": {"ranks", "voice"},
    "reading": {"reading", *GROUND},
    "stages": {"stages", *GROUND},
    "model": {"stages.batch"},
    "data_loader": {"reading", *GROUND},
    "utils": {"data_loader", "model", "reading", "stages", *GROUND},
    "recipes": {"data_loader", "flags", "model", "reading", "stages", "utils", *GROUND},
    "annotation": {"annotation", "data_loader", "model", "reading", "recipes", "stages", "utils", *GROUND},
    "annotation.report": {"annotation.report", *GROUND},
}


def name_of(path: Path) -> str:
    """The dotted name of a file: "stages.batch"."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


FILES = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
MODULES = {name_of(path).removesuffix(".__init__"): path for path in FILES}


def within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports, wherever in it: {"files", "stages.batch"}."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: no relative imports, please"
            longer = {f"{node.module}.{alias.name}" for alias in node.names}  # `from stages import train`
            found |= (longer & set(MODULES)) or {node.module}
    return {name for name in found if name.split(".")[0] in {module.split(".")[0] for module in MODULES}}


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


@pytest.mark.parametrize("part", CONTRACTS)
def test_a_part_imports_only_what_lies_below_it(part):
    wrong = {
        name: above
        for name, found in IMPORTS.items()
        if within(name, {part}) and (above := {one for one in found if not within(one, CONTRACTS[part])})
    }
    assert not wrong


def test_nobody_but_benchmarks_imports_a_command_or_a_benchmark():
    wrong = {name: found & COMMANDS for name, found in IMPORTS.items() if not within(name, {"benchmarks"})}
    assert not any(wrong.values()), wrong
    assert not [
        name
        for name, found in IMPORTS.items()
        if not within(name, {"benchmarks"}) and any(within(one, {"benchmarks"}) for one in found)
    ]


def test_only_annotate_and_benchmarks_enter_annotation():
    entering = {name for name, found in IMPORTS.items() if any(within(one, {"annotation"}) for one in found)}
    assert {name for name in entering if not within(name, {"annotation", "benchmarks"})} == {"annotate"}


def test_no_arrow_leads_back():
    """No circle: what is left after taking away, again and again, the modules that import nothing left is nothing."""
    left = {name: {one for one in found if one in IMPORTS and one != name} for name, found in IMPORTS.items()}
    while ready := [name for name, found in left.items() if not found & set(left)]:
        for name in ready:
            del left[name]
    assert not left


def test_the_flags_stop_at_the_door():
    """argparse's Namespace is known to flags.py and to a command's `main` and `command`; below they are values."""
    leaks = []
    for name, path in MODULES.items():
        if name == "flags" or within(name, {"benchmarks"}):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not (name in COMMANDS and node.name in ("main", "command")):
                named = {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}
                if "Namespace" in named or "args" in {argument.arg for argument in node.args.args}:
                    leaks.append(f"{name}.{node.name}")
    assert not leaks

"""Small worlds for the tests of the report, a page as text, and a page in the machine's own browser.

The tests with a browser need Chromium or Chrome on this machine and `pip install playwright` (no browser is
downloaded: the one that is installed is driven); without them they are skipped.
"""

import base64
import csv
import html.parser
import io
import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from annotation.report import Annotation, write_report

EVIL = "<script>alert(\"1\")</script> & 'é' 細胞 </script><!--"


def annotation(n=40, types=("alpha", EVIL, "Unknown"), seed=0, **changes):
    """A small world: n cells around as many places as there are types."""
    chance = np.random.default_rng(seed)
    code = np.arange(n) % len(types)
    places = chance.uniform(-10, 10, (len(types), 2))
    names = np.array(types, dtype=object)
    known = names[(code + (chance.random(n) < 0.2)) % len(types)]
    known[known == "Unknown"] = ""
    made = Annotation(
        title=f"{EVIL} annotated",
        cells=[f"cell {i} {EVIL}" if i % 7 == 0 else f"cell-{i}" for i in range(n)],
        cell_type=names[code],
        confidence=chance.random(n),
        umap=places[code] + chance.normal(size=(n, 2)),
        second_choice=names[(code + 1) % len(types)],
        known=known,
        overlap=[{"dataset": EVIL, "species": "human", "genes_present": 14312, "of": 15021, "share": 0.953}],
        warnings=[f"beware of {EVIL}"],
        notes=[f"note {EVIL}"],
        settings={"seed": 0, EVIL: EVIL},
        versions={"scpretrain": "0.1"},
        command=f"python annotate.py --query '{EVIL}'",
        ece=0.031,
        reliability=pd.DataFrame({"confidence": [0.3, 0.9], "accuracy": [0.25, 0.92], "n": [40, 1234]}),
        clusters=pd.DataFrame(
            {
                "cluster": [0, 1],
                "n": [4321, 8],
                "majority": ["alpha", EVIL],
                "share": [0.987, 0.5],
                "entropy": [0.05, 0.69],
                "mixed": [False, True],
            }
        ),
        markers=pd.DataFrame(
            {
                "type": ["alpha", EVIL],
                "gene": ["GCG", EVIL],
                "mean_in": [5.25, 1.0],
                "mean_out": [0.5, 0.25],
                "detected_in": [0.99, 0.8],
                "detected_out": [0.1, 0.2],
                "log2_fold_change": [6.85, 1.08],
                "score": [99.5, 7.25],
            }
        ),
        dots=pd.DataFrame(
            {
                "type": ["alpha", "alpha", EVIL, EVIL],
                "gene": ["GCG", EVIL] * 2,
                "mean": [5.25, 0.25, 0.5, 1.0],
                "detected": [0.99, 0.2, 0.1, 0.8],
            }
        ),
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


class Page(html.parser.HTMLParser):
    """What a browser would read: tags, addresses, texts, scripts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.addresses, self.texts, self.scripts, self.styles = [], [], [], [], []
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)
        addresses = ("src", "href", "srcset", "action", "data", "poster", "background", "xlink:href")
        self.addresses += [value for name, value in attributes if name in addresses]
        self.styles += [value for name, value in attributes if name == "style"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        kept = {"script": self.scripts, "style": self.styles}.get(self.open[-1] if self.open else "", self.texts)
        kept.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self):
        return json.loads(self.scripts[0])


def unpack(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype=dtype)


def explored(n=200, **changes):
    """A page to name groups on: no types, four groups of equal size, the first gene on in group 1 alone."""
    chance = np.random.default_rng(3)
    group = np.arange(n) % 4 + 1
    places = np.array([[0, 0], [0, 8], [8, 0], [8, 8]])
    cells = [f'cell {i}, "{EVIL}"' if i % 7 == 0 else f"cell-{i}" for i in range(n)]
    values = chance.poisson(0.5, (n, 6)).astype(np.float32)
    values[:, 0] = np.where(group == 1, 3, 0)
    rows = [
        {
            "group": k,
            "n": int((group == k).sum()),
            "genes": [{"gene": EVIL if k == 2 else f"g{k}", "inside": 0.91, "outside": 0.04}],
            "suggested": [cells[k - 1]],
            "proposed": f"T cell, {EVIL}" if k == 2 else "",
            "score": 0.8 if k == 2 else np.nan,
            "mixed": k == 3,
        }
        for k in range(1, 5)
    ]
    made = Annotation(
        title=f'explored, "{EVIL}"',
        cells=cells,
        cell_type=np.full(n, "not labelled", dtype=object),
        confidence=np.full(n, np.nan),
        umap=places[group - 1] + chance.normal(0, 0.4, (n, 2)),
        called=False,
        group=group,
        groups=pd.DataFrame(rows),
        genes=([f"g{k}" for k in range(1, 7)], csr_matrix(values)),
        names=["B cell", EVIL],
        next_command="python annotate.py --query cells.h5ad --labels {labels} --out annotated.h5ad",
        save_as="explored.labels.csv",
        groups_file="explored.csv",
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


# -- in a browser ----------------------------------------------------------------
FLAGS = (
    "--no-sandbox --no-first-run --disable-background-networking --disable-component-update --disable-sync "
    "--disable-quic --disable-gpu"
).split()
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def chromium():
    """The machine's own Chromium, headless."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright to test in a browser")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)} is on the PATH")
    with playwright.sync_playwright() as driver:
        try:
            opened = driver.chromium.launch(executable_path=program, args=FLAGS, timeout=30_000)
        except playwright.Error as error:
            pytest.skip(f"{program} does not start here: {error}")
        yield opened
        opened.close()


def until(tab, script, arg=None, seconds=20):
    """Wait for what the script says; asked from here, for the page forbids scripts that are made of text."""
    end = time.monotonic() + seconds
    while not tab.evaluate(script, arg):
        assert time.monotonic() < end, f"in vain: {script}"
        time.sleep(0.03)


class Visit:
    """A report opened as a user does, from disk, with all it asked for and complained of."""

    def __init__(self, browser, path, given=None, before="", **window):
        self.asked, self.complaints = [], []
        if given is not None:
            write_report(path, given)
        self.tab = browser.new_page(**{"viewport": {"width": 1280, "height": 900}} | window)
        self.tab.add_init_script(before)
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.tab.goto(path.as_uri(), timeout=60_000)
        until(self.tab, "window.scpretrain && window.scpretrain.ready", seconds=60)

    def close(self):
        self.tab.close()
        assert self.complaints == []
        assert [url for url in self.asked if not url.startswith(("file:", "data:", "blob:"))] == []


def apart(given, cell):
    """The cell set apart on the map, so that the mouse can only mean this one."""
    given.umap[given.cells.index(cell)] = given.umap.max(axis=0) + 3
    return given


def point_at(tab, map_name, cell):
    """What the page says of the cell that the mouse points at."""
    tab.locator(f"#{map_name}").scroll_into_view_if_needed()
    x, y = tab.evaluate("([map, cell]) => scpretrain.place(map, cell)", [map_name, cell])
    tab.mouse.move(5, 5)
    tab.wait_for_selector("#tip", state="hidden")
    tab.mouse.move(x - 2, y - 2)
    tab.mouse.move(x, y)
    tab.wait_for_selector("#tip:not([hidden])", timeout=10_000)
    return tab.text_content("#tip")


def saved(visit, button="#save"):
    """What a click on the button downloads: its name and its text."""
    with visit.tab.expect_download() as download:
        visit.tab.click(button)
    path = download.value.path()
    return download.value.suggested_filename, path.read_bytes().decode()


def labels(text):
    """A saved table as any reader of CSV takes it: comments aside, {cell: type}."""
    csv.field_size_limit(1 << 27)
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    rows = list(csv.reader(io.StringIO(body)))
    assert all(len(row) == len(rows[0]) for row in rows)
    return rows[0], {row[0]: row[1] for row in rows[1:]}

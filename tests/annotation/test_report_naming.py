"""Naming groups on the page, in a real browser, from the first name to the second run.

Run: python -m pytest tests/annotation/test_report_naming.py (needs a browser: see pages.py)
"""

import shlex

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from pages import EVIL, Visit, chromium, explored, labels, saved, until
from scipy.sparse import csr_matrix

import annotate
from annotation import given_labels


@pytest.fixture(scope="module")
def browser():
    yield from chromium()


def open_page(browser, path, given):
    visit = Visit(browser, path, given)
    visit.row = lambda number: visit.tab.locator(f'li.group[data-group="{number}"]')
    return visit


def test_groups_are_named_saved_recalled_and_loaded_back(browser, tmp_path):
    given = explored()
    visit = open_page(browser, tmp_path / "explored.html", given)
    tab, row = visit.tab, visit.row
    assert tab.is_disabled("#save") and "0 of 4 groups named" in tab.inner_text("#progress")
    row(1).locator(".called").fill(f'B, "{EVIL}"')
    row(3).locator(".skip").check()
    row(4).locator(".same").select_option("1")
    assert "2 of 4 groups named (100 of 200 cells). 1 proposal to be confirmed." in tab.inner_text("#progress")
    name, text = saved(visit)
    assert name == "explored.labels.csv" and text.startswith("# ") and "# left unlabelled: 3\n" in text
    head, found = labels(text)
    assert head == ["cell", "cell_type", "group"]
    # the proposal of group 2 was not confirmed, so it is not in the file
    assert found == {cell: f'B, "{EVIL}"' for cell, k in zip(given.cells, given.group, strict=True) if k in (1, 4)}
    assert tab.inner_text("#command") == given.next_command.replace("{labels}", "explored.labels.csv")
    row(2).locator(".confirm").click()
    assert tab.is_hidden("#next")  # what was saved is no longer what is chosen
    _, more = saved(visit)
    assert set(labels(more)[1].values()) == {f'B, "{EVIL}"', f"T cell, {EVIL}"}

    tab.reload()
    until(tab, "window.scpretrain && window.scpretrain.ready")
    assert saved(visit)[1] == more  # recalled by the browser
    visit.close()

    (tmp_path / "saved.csv").write_text(more, encoding="utf-8")
    read = given_labels.read(tmp_path / "saved.csv")  # as the second run does
    assert read.types == labels(more)[1]
    groups = dict(zip(given.cells, map(str, given.group), strict=True))
    assert read.groups == {cell: groups[cell] for cell in read.types}
    other = open_page(browser, tmp_path / "elsewhere.html", given)  # a new window knows nothing of the other
    assert "0 of 4 groups named" in other.tab.inner_text("#progress")
    other.tab.set_input_files("#load", tmp_path / "saved.csv")
    until(other.tab, "document.getElementById('progress').textContent.includes('Loaded: 3 groups named.')")
    assert saved(other)[1] == more
    other.close()


def test_loading_says_what_matches_nothing_and_what_is_no_table(browser, tmp_path):
    visit = open_page(browser, tmp_path / "explored.html", explored())
    load = tmp_path / "labels.tsv"
    for text, said in (
        ("group\tcell_type\n1\tB\n9\tC\n", "Loaded: 1 group named. 1 line match"),
        ("hello", "no table of labels"),
        ("", "no table of labels"),
        ("# \n,cell_type\r\ncell-1,B\r\ncell-5,B\r\ncell-9,C\r\n", "1 group had several names"),
    ):
        load.write_text(text)
        visit.tab.set_input_files("#load", load)
        until(visit.tab, "s => document.getElementById('progress').textContent.includes(s)", arg=said)
    visit.close()


def test_the_keyboard_alone_is_enough(browser, tmp_path):
    visit = open_page(browser, tmp_path / "explored.html", explored())
    tab = visit.tab
    visit.row(1).locator(".called").focus()
    tab.keyboard.type("B cell")
    tab.keyboard.press("Enter")  # on to group 2, whose proposal Enter confirms
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')") == "Name of group 2"
    tab.keyboard.press("Enter")
    tab.keyboard.press("Tab")  # from the name of group 3 to the box beside it
    assert "skip" in tab.evaluate("document.activeElement.className")
    tab.keyboard.press("Space")
    assert "left unlabelled" in visit.row(3).inner_text()
    visit.row(4).locator(".called").focus()
    tab.keyboard.type("NK")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "save" and tab.is_hidden("#next")
    with tab.expect_download() as download:
        tab.keyboard.press("Enter")
    assert set(labels(download.value.path().read_text())[1].values()) == {"B cell", f"T cell, {EVIL}", "NK"}
    visit.close()


def test_a_circle_of_groups_that_are_the_same_has_no_name(browser, tmp_path):
    visit = open_page(browser, tmp_path / "explored.html", explored())
    visit.row(1).locator(".same").select_option("3")
    visit.row(3).locator(".same").select_option("1")
    assert visit.tab.is_disabled("#save") and "waits for group 3" in visit.row(1).inner_text()
    visit.close()


def test_pointing_at_a_row_lights_its_cells_and_a_click_on_a_cell_goes_to_its_row(browser, tmp_path):
    given = explored()
    visit = open_page(browser, tmp_path / "explored.html", given)
    tab = visit.tab
    assert tab.evaluate("scpretrain.points") == {"map-group": 200}
    visit.row(2).locator("h3").hover()
    until(tab, "scpretrain.points['map-group'] === 50 && scpretrain.lit === '2'")
    tab.mouse.move(5, 5)
    until(tab, "scpretrain.points['map-group'] === 200")
    x, y = tab.evaluate("scpretrain.place('map-group', 'cell-3')")  # of group 4
    tab.mouse.move(x, y)
    tab.wait_for_selector("#tip:not([hidden])")
    assert "group: 4" in tab.text_content("#tip")
    tab.mouse.click(x, y)
    until(tab, "document.activeElement.getAttribute('aria-label') === 'Name of group 4'")
    visit.close()


def test_where_not_all_cells_are_drawn_the_file_names_groups_and_where_they_are(browser, tmp_path):
    given = explored()
    given.groups["n"] *= 40
    visit = open_page(browser, tmp_path / "explored.html", given)
    visit.row(2).locator(".called").fill("B cell")
    text = saved(visit)[1]
    (tmp_path / "saved.csv").write_text(text)
    read = given_labels.read(tmp_path / "saved.csv")
    assert read.by_group and read.groups_file == "explored.csv" and read.types == {"2": "B cell"}
    assert "# groups: explored.csv\n" in text and labels(text) == (["group", "cell_type"], {"2": "B cell"})
    assert "The map shows 200 of 8,000 cells" in visit.tab.inner_text("#name")
    assert "(2,000 of 8,000 cells)" in visit.tab.inner_text("#progress")
    visit.close()


def test_a_name_of_a_million_letters_is_saved_whole(browser, tmp_path):
    given = explored()
    given.groups.loc[1, "proposed"] = "y" * 1_000_000
    visit = open_page(browser, tmp_path / "explored.html", given)
    visit.row(3).locator(".called").fill("z" * 1_000_000)
    visit.row(3).locator(".called").fill("short")
    visit.row(2).locator(".confirm").click()
    visit.row(1).locator(".skip").check()
    visit.row(4).locator(".skip").check()
    found = set(labels(saved(visit)[1])[1].values())
    assert found == {"short", "y" * 1_000_000}
    visit.close()


def test_names_that_look_like_comments_or_formulas_come_back_as_they_are(browser, tmp_path):
    given = explored()
    odd = ['#1, "B" cell', "=SUM(A1)", "#", "  a ".strip(), "it's", "a\tb", "-", "@x", "née 細胞"]
    given.cells[: len(odd)] = odd
    given.groups["suggested"] = [[] for _ in range(4)]
    visit = open_page(browser, tmp_path / "explored.html", given)
    for number in (1, 2, 3, 4):
        visit.row(number).locator(".called").fill(f'# type {number}, "x"')
    text = saved(visit)[1]
    (tmp_path / "saved.csv").write_text(text, encoding="utf-8")
    wanted = {cell: f'# type {group}, "x"' for cell, group in zip(given.cells, given.group, strict=True)}
    assert given_labels.read(tmp_path / "saved.csv").types == wanted  # as the second run reads it
    visit.tab.click("#forget")
    visit.tab.click("#forget")
    assert "0 of 4 groups named" in visit.tab.inner_text("#progress")
    visit.tab.set_input_files("#load", tmp_path / "saved.csv")
    until(visit.tab, "document.getElementById('progress').textContent.includes('Loaded: 4 groups')")
    assert saved(visit)[1] == text
    visit.close()


def test_names_used_before_are_offered_and_a_name_given_here_too(browser, tmp_path):
    visit = open_page(browser, tmp_path / "explored.html", explored())
    offered = "[...document.getElementById('used-names').options].map(option => option.value)"
    assert visit.tab.evaluate(offered) == ["B cell", EVIL, f"T cell, {EVIL}"]
    visit.row(1).locator(".called").fill("NK")
    visit.row(1).locator(".called").press("Enter")
    assert visit.tab.evaluate(offered)[0] == "NK"
    visit.close()


def test_the_names_stand_on_the_map(browser, tmp_path):
    visit = open_page(browser, tmp_path / "explored.html", explored())
    visit.row(3).locator(".called").fill("NK")
    until(visit.tab, "scpretrain.labels['map-group'].some(label => label.text === '3 NK')")
    visit.close()


def test_a_gene_of_a_row_colours_the_map(browser, tmp_path):
    visit = open_page(browser, tmp_path / "explored.html", explored())
    button = visit.row(1).locator("button.gene")
    button.click()
    until(visit.tab, "scpretrain.gene === 'g1'")
    assert button.get_attribute("aria-pressed") == "true"
    lines = [line.inner_text().split("\t") for line in visit.tab.locator("#gene-bars tbody tr").all()]
    assert [lines[0][0].strip(), *lines[0][-2:]] == ["group 1", "3.00", "100 %"] and lines[1][-1] == "0 %"
    assert visit.row(2).locator("button.gene").is_disabled()  # not among the page's genes
    button.click()
    until(visit.tab, "scpretrain.gene === ''")
    visit.close()


def test_the_page_to_name_groups_fits_a_phone(browser, tmp_path):
    visit = open_page(browser, tmp_path / "explored.html", explored(overlap=[{"dataset": "x" * 90, "genes": 1}]))
    visit.tab.set_viewport_size({"width": 390, "height": 844})
    until(visit.tab, "document.querySelector('#map-group canvas').clientWidth < 390")
    assert visit.tab.evaluate("document.documentElement.scrollWidth") <= 390
    visit.row(4).scroll_into_view_if_needed()
    map_ = visit.tab.locator("#map-group").bounding_box()
    assert 0 <= map_["y"] < 60 and map_["height"] < 844 / 2  # it stays in sight, and leaves room
    assert "wide" in visit.tab.locator("#overlap .scroll").get_attribute("class")
    visit.close()


HOSTILE = {0: 'T, "naive" <script>alert(1)</script>', 1: "#1 B & 'co'; $(ls)", 2: "細胞 " + "z" * 100_000}


def unlabelled(path, each=50):
    """Three types of cells with odd names and no labels: their truth, by name."""
    chance = np.random.default_rng(0)
    truth = np.repeat(np.arange(3), each)
    counts = chance.poisson(chance.gamma(0.5, 1.0, (3, 200))[truth] * 3).astype(np.float32)
    cells = [f'#{i}, "{EVIL}"' if i % 10 == 0 else f"=cell{i}" for i in range(3 * each)]
    genes = [f"{letter}CD{k}" for k in range(40) for letter in "ABCDE"]
    ad.AnnData(csr_matrix(counts), obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes)).write_h5ad(path)
    return dict(zip(cells, truth.tolist(), strict=True))


def test_from_nothing_to_labels_by_two_commands_and_the_page_between(browser, tmp_path, monkeypatch):
    truth = unlabelled(tmp_path / "odd cells.h5ad")
    monkeypatch.chdir(tmp_path)
    words = ["--query", "odd cells.h5ad", "--out", "explored.h5ad", "--explore", "3", "--species", "human", "--offline"]
    assert annotate.main(words) == 0
    groups = pd.read_csv("explored.csv", index_col=0)["group"]
    visit = Visit(browser, tmp_path / "explored.html")
    for number in sorted(set(groups)):
        mine = [truth[cell] for cell in groups.index[groups == number]]
        visit.tab.fill(f'li.group[data-group="{number}"] .called', HOSTILE[max(set(mine), key=mine.count)])
    name, text = saved(visit)
    (tmp_path / name).write_bytes(text.encode())
    python, program, *words = shlex.split(visit.tab.inner_text("#command"))
    visit.close()
    assert (python, program) == ("python", "annotate.py")
    assert annotate.main([*words, "--offline"]) == 0
    found = pd.read_csv(words[words.index("--out") + 1].replace(".h5ad", ".csv"), index_col=0)["cell_type"]
    assert (found == pd.Series(truth)[found.index].map(HOSTILE)).mean() > 0.95
    again = Visit(browser, tmp_path / words[words.index("--out") + 1].replace(".h5ad", ".html"))
    assert again.tab.locator(".legend button").count() == 3
    again.close()

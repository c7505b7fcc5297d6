"""The documentation holds together: links, anchors, the map of the equations, the navigation and ``llms.txt``."""

import importlib
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

import ndm

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)
ROW = re.compile(r"^\| ([^|]+) \| .+ \| (.*) \|$", re.MULTILINE)
SYMBOL = re.compile(r"\[`(src/ndm/[\w/]+\.py)::([\w.]+)`\]\(\.\./(src/ndm/[\w/]+\.py)\)")
OF_THE_PAPER = {
    "forward process", "start of the curve", "F by a network, the paper's form", "time derivative of F", "posterior",
    "reverse process", "the three terms", "prior", "reconstruction", "discrete diffusion term",
    "continuous diffusion term", "velocity of the ODE", "score", "diffusion coefficient", "reverse drift of the SDE",
    "training algorithm", "sampling algorithm",
}  # fmt: skip
OF_THE_LIBRARY = {
    "residual on linear F", "blurring", "noise that depends on x", "path of neural flow diffusion", "learned clock",
    "noise of each element", "F as a polynomial in time", "linear F", "conventional diffusion",
    "F that follows the noise", "symbols",
    "noise level", "variance preservation", "learned schedule", "stepwise schedule", "path of flow matching",
    "noise for one channel after another", "clock", "predicted curve", "predicted target", "learned reverse variance",
    "DDIM", "velocity given a target", "x, eps, v and score", "levels", "probabilities of symbols",
    "rows of numbers and symbols", "reconstruction of levels", "reconstruction of real numbers",
    "reconstruction of symbols", "reconstruction of rows of a table", "KL of two Gaussians", "low-discrepancy times",
    "importance-sampled times", "random eta", "straightness", "likelihood of the ODE", "divergence",
    "likelihood through the decoder", "importance-weighted likelihood", "uniform dequantisation",
    "likelihood of real numbers", "bits per dimension", "unit of the data", "columns to normal scores",
    "rounded and missing numbers", "ancestral sampling", "ODE", "SDE", "fixed-step solvers", "adaptive solver",
    "last step", "filling in",
}  # fmt: skip


def anchors(page):
    """The anchors of the headings of a page, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)).lower() for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_inside_the_repository_resolves(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and ROOT in target.parents, link
        if anchor:
            assert anchor in anchors(target), link


def test_anchors_are_read_as_code_hosts_make_them():
    assert "mnist-on-two-cpu-cores" in anchors(DOCS / "training.md")
    assert "which-weights-are-evaluated-the-average-or-the-raw-ones" in anchors(DOCS / "faq.md")
    assert "mnist" not in anchors(DOCS / "training.md")


def equations():
    """The symbols of each row of the map, by the row's name: pairs of a file and a name in it."""
    rows = {}
    for name, cell in ROW.findall((DOCS / "equations.md").read_text()):
        if name in ("name", "---"):
            continue
        assert name not in rows, f"two rows are named {name!r}"
        rows[name] = [(file, symbol) for file, symbol, target in SYMBOL.findall(cell) if file == target]
        assert len(rows[name]) == cell.count("]("), name
    return rows


def test_the_map_has_a_row_for_each_equation_and_algorithm():
    rows = equations()
    assert rows.keys() >= OF_THE_PAPER | OF_THE_LIBRARY
    assert all(rows.values())


def test_every_symbol_of_the_map_is_defined_in_its_file():
    for name, symbols in equations().items():
        for file, symbol in symbols:
            module = importlib.import_module(file.removeprefix("src/").removesuffix(".py").replace("/", "."))
            thing = module
            for part in symbol.split("."):
                assert part in vars(thing), f"{name}: {file} has no {symbol}"
                thing = vars(thing)[part]
            assert (ROOT / file).is_file()
            assert getattr(thing, "__module__", module.__name__) == module.__name__, f"{name}: {symbol} is imported"


def test_every_page_is_in_the_navigation_once_and_in_a_list():
    index = (DOCS / "index.md").read_text()
    entries = [line for toctree in re.findall(r"```\{toctree\}\n(.*?)```", index, flags=re.DOTALL)
               for line in toctree.splitlines() if line and not line.startswith(":")]  # fmt: skip
    listed = re.findall(r"^- \[([^]]*)\]\(([\w/-]+)\.md\): ", index, flags=re.MULTILINE)
    assert [page for _, page in listed] == entries
    pages = {str(p.relative_to(DOCS).with_suffix("")) for p in DOCS.rglob("*.md")} - {"index"}
    assert sorted(entries) == sorted(pages)
    for title, page in listed:
        assert (DOCS / f"{page}.md").read_text().startswith(f"# {title}\n"), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_line_of_prose_is_longer_than_120_characters(page):
    """Tables, code and pictures may be."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert not [line for line in prose.splitlines() if len(line) > 120 and not line.startswith(("|", "![", "    "))]


def test_llms_txt_is_made_from_the_navigation():
    made = runpy.run_path(str(DOCS / "llms.py"))["llms"]((DOCS / "index.md").read_text())
    assert (DOCS / "llms.txt").read_text() == made
    assert made.startswith("# ndm: ")
    assert made.count("](") == len(list(DOCS.rglob("*.md"))) - 1


def test_every_public_module_is_in_the_reference():
    """Packages re-export what their modules define, and the commands document themselves by ``--help``."""
    shown = re.findall(
        r"^\.\. automodule:: ([\w.]+)$", "".join(p.read_text() for p in DOCS.glob("api/*.md")), re.MULTILINE
    )
    assert len(shown) == len(set(shown))
    modules = {m.name for m in pkgutil.walk_packages(ndm.__path__, "ndm.") if not m.ispkg}
    hidden = {name for name in modules if name.startswith(("ndm.cli.", "ndm.report.", "ndm.support."))}
    hidden |= {"ndm.__main__", "ndm.version", "ndm.evaluation.backend"}
    assert modules - hidden <= set(shown) <= modules

"""Tutorials and the gallery run as they are printed, with fewer rows and steps, and make the pictures that they show.

``docs/gallery.py`` makes the program of a page, and ``python docs/gallery.py PAGE`` runs it whole.
"""

import json
import re
import runpy
from pathlib import Path

import pytest

from processes import Started

DOCS = Path(__file__).resolve().parent.parent / "docs"
GALLERY = runpy.run_path(str(DOCS / "gallery.py"))
SHORTER = {
    "tutorials/first": {
        "steps=1000, batch_size=256": "steps=10, batch_size=16", "warmup=100, evaluate_every=250": "warmup=5",
        "[:500]": "[:4]", "[:1000]": "[:40]", "(1000,)": "(40,)",
        "sample(model, 1000, steps=100": "sample(model, 9, steps=3",
    },
    "tutorials/own-f": {
        "steps=800, batch_size=256": "steps=10, batch_size=16", "warmup=100": "warmup=5", "[:200]": "[:2]",
        "1000, steps=100": "9, steps=3",
    },
    "tutorials/images": {
        "load_digits().images": "load_digits().images[:520]", "width 24": "width 4", "batch_size 32": "batch_size 4",
        "training.steps 1000": "training.steps 2", "num 32 --steps 100": "num 2 --steps 2",
        "--steps 100,continuous --passes 5": "--steps 2,continuous --passes 1",
        "--num 100": "--num 50 --steps 1", "4, steps=20": "2, steps=2",
    },
    "tutorials/table": {
        "n = 1500": "n = 120", "[:1200]": "[:100]", "[1200:]": "[100:]", "[1200:1205]": "[100:100]",
        "max_steps=500": "max_steps=5", "training.steps 500": "training.steps 5 --model.width 8",
        "--num 100": "--num 3",
    },
    "tutorials/likelihoods": {
        "steps=800, batch_size=256": "steps=10, batch_size=16", "steps=600, batch_size=128": "steps=10, batch_size=16",
        "warmup=100": "warmup=5", "width=128": "width=16", "[:500]": "[:4]", "[:20]": "[:2]", "samples=10": "samples=2",
        "1e-3": "1e-1",
    },
    "tutorials/machines": {
        "training.steps 200": "training.steps 4", "evaluate_every 100": "evaluate_every 2",
        "training.steps 300": "training.steps 6", "passes 3": "passes 1",
    },
    "gallery/straight": {
        "training.steps 1200 --training.batch_size 256": "training.steps 2 --training.batch_size 8",
        "randn(60, 2": "randn(3, 2", "sample(model, 1000": "sample(model, 5",
    },
    "gallery/letters": {"Adam(parts), 2000": "Adam(parts), 3", "(128,)": "(4,)"},
    "gallery/infill": {
        "--model.dim 1": "--model.dim 1 --training.steps 2 --training.batch_size 4 --training.evaluate_every 0 "
        "--training.patience 0 --model.width 8 --model.multipliers [1]",
        "steps=30": "steps=1",
    },
    "gallery/digits": {"*model.shape), 200, {}": "*model.shape), 20, {}"},
    "gallery/density": {
        "Density(random": "Density(max_steps=2, random", "size=4000": "size=200", "((4000, 2))": "((200, 2))",
        "[:3000]": "[:150]", "[3000:]": "[150:]", "(8, 16, 24, 32)": "(2, 3)", "2.5, 50)": "2.5, 3)",
    },
    "gallery/odd-rows": {"max_steps=500": "max_steps=2"},
    "gallery/prior": {
        "training.steps 1200 --training.batch_size 256": "training.steps 2 --training.batch_size 8",
        "randn(500, 2)": "randn(5, 2)", "range(200)": "range(2)", "(2000,)": "(9,)", "steps=8": "steps=2",
    },
}  # fmt: skip
"""What is shorter in the tests, by page: each text must stand in the page."""
PRINTED = {
    "first": r"torch.*the true NLL of 500 test points: .*bound, T=50: .*bound, continuous time: .*\nODE .* nats",
    "own-f": r"torch.Size\(\[5, 2\]\) torch.Size\(\[5, 2\]\)\nlearned speeds: .*\nNLL by the ODE: tensor\(.*\)",
    "images": r".*bound, T=2.*bound, continuous time.*sliced Wasserstein.*torch.Size\(\[2, 1, 8, 8\]\) torch.int64",
    "table": r"column +kind .*a new flat, in nats: .*ranks of the odd flats among .*log_density  rank column_1.*",
    "likelihoods": r"truth: .*bound, T=10.*the ODE, ten importance samples: .*ODE, uniform dequantisation .*",
    "machines": r"one \[.*\]\ntwo \[.*\]\n.*bound, continuous time.*",
}
"""What each tutorial prints; the pages of the gallery print nothing."""
PAGES = [path for folder in ("tutorials", "gallery") for path in sorted((DOCS / folder).glob("*.md"))]


def test_every_page_is_run():
    pages = {f"{path.parent.name}/{path.stem}" for path in PAGES} - {"gallery/index"}
    assert pages == SHORTER.keys()
    assert {page for page in pages if page.startswith("tutorials/")} == {f"tutorials/{name}" for name in PRINTED}


@pytest.mark.parametrize("name", SHORTER)
def test_a_page_runs_as_it_is_printed(name, tmp_path, monkeypatch):
    page = (DOCS / f"{name}.md").read_text()
    program = GALLERY["script"](page)
    for long, short in SHORTER[name].items():
        assert long in program, long
        program = program.replace(long, short)
    file = tmp_path / "page.py"
    file.write_text(program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NDM_DATA", str(tmp_path / "cache"))
    status, out, error = Started(file).end(200)
    assert status == 0, error
    assert re.fullmatch(PRINTED.get(name.removeprefix("tutorials/"), ""), out.strip(), flags=re.DOTALL), out
    for picture in GALLERY["pictures"](page):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    if name == "tutorials/machines":  # which says that the figures agree
        one, two = (json.loads(line.partition(" ")[2]) for line in out.splitlines()[:2])
        assert len(one) == 2 and one == pytest.approx(two, rel=1e-5)


def test_the_pictures_are_small_and_shown():
    """The built pictures are those that the pages show, each below 80 kB, and those of the gallery below 500 kB."""
    shown = {path: GALLERY["pictures"](path.read_text()) for path in PAGES}
    files = {path.name: path.stat().st_size for path in (DOCS / "pictures").iterdir()}
    assert files.keys() == set().union(*shown.values()) and files
    assert max(files.values()) < 80_000
    assert sum(files[name] for name in shown[DOCS / "gallery" / "index.md"]) < 500_000


def test_the_front_page_of_the_gallery_shows_every_picture_with_a_link():
    index, pages = (DOCS / "gallery" / "index.md").read_text(), [p for p in PAGES if p.parent.name == "gallery"]
    expected = {(name, p.name) for p in pages if p.stem != "index" for name in GALLERY["pictures"](p.read_text())}
    linked = re.findall(r"\[!\[[^]]+\]\(\.\./pictures/([\w.-]+)\)\]\(([\w.-]+)\)", index)
    assert set(linked) == expected and len(linked) == len(expected)

"""The structure of the code: imports go one way, and only the package itself uses its private names."""

import ast
import builtins
import importlib
import re
from pathlib import Path

import pytest

import ndm

from faults import ROWS, ids
from mutations import MUTATIONS, find, fragment

PACKAGE = Path(ndm.__file__).parent
TESTS = Path(__file__).resolve().parent
ORDER = (
    ("errors", "version"),
    ("support",),
    ("tables", "batch", "popular", "spline", "hub"),
    ("quantiles",),
    ("nn", "solvers", "data", "schedule", "transform", "gaussian", "times", "marginal"),
    ("process", "staggered", "elementwise", "blur", "flow"),
    ("target",),
    ("predictor", "decoder", "embedding", "dequantize"),
    ("levels", "mixed", "mixture", "description"),
    ("symbols",),
    ("model", "parts"),
    ("saving", "soundness", "objective", "sampling", "draws"),
    ("likelihood", "straightness", "sharing", "filling"),
    ("training", "evaluation", "distribution"),
    ("density",),
    ("scoring",),
    ("experiment",),
    ("report",),
    ("demo",),
    ("cli",),
)
"""The parts from the ground up: a part imports only what stands in the lines above its own."""
HEIGHT = {part: height for height, parts in enumerate(ORDER) for part in parts}
EXCEPTIONS = {
    ("model", "saving"), ("model", "sharing"), ("model", "distribution"), ("process", "target"), ("density", "scoring"),
}  # fmt: skip
"""A model saves, loads and uploads itself and gives its distribution, a process gives its reverse process given a
target, and an estimator explains its scores, by imports inside the methods."""


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """The parts of the package that a file imports, anywhere in it."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                top = name.partition(".")[0]
                if (PACKAGE / top).exists() or (PACKAGE / f"{top}.py").exists():
                    yield top


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if part_of(p) not in ("__init__", "__main__")]


def test_no_public_name_is_the_name_of_a_module_beside_it():
    """Whoever imports the module first would get it in place of the name."""
    packages = [p for p in sorted(PACKAGE.rglob("__init__.py")) if "HOMES" in p.read_text()]
    assert len(packages) >= 5
    for file in packages:
        modules = {p.stem for p in file.parent.glob("*.py")}
        homes = importlib.import_module(".".join(("ndm", *file.parent.relative_to(PACKAGE).parts))).HOMES
        clashes = modules & {name for names in homes.values() for name in names.split()}
        assert not clashes, f"{file.parent.name}: {clashes}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    part = part_of(path)
    for other in imports(path):
        if other != part:
            allowed = HEIGHT[other] < HEIGHT[part] or (part, other) in EXCEPTIONS
            assert allowed, f"{part} imports {other}, which is built on it or stands beside it"


def test_every_part_has_its_place():
    assert {part_of(p) for p in FILES} == set(HEIGHT)


def private_names(path):
    """Names with one leading underscore that a file takes from the package or its objects."""
    own = set(re.findall(r"(?:def|class) (_\w+)|self\.(_\w+) =", path.read_text()))
    own = {name for pair in own for name in pair}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            name, base = node.attr, ast.unparse(node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("ndm."):
            name, base = node.value.rpartition(".")[2], "ndm"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ndm"):
            for alias in node.names:
                if alias.name.startswith("_") and not alias.name.startswith("__"):
                    yield alias.name
            continue
        else:
            continue
        foreign = base.startswith(("torch", "np", "os", "sys"))
        if name.startswith("_") and not name.startswith("__") and name not in own and not foreign:
            yield name


@pytest.mark.parametrize("path", [*TESTS.glob("*.py"), *TESTS.parent.glob("benchmarks/*.py")], ids=lambda p: p.name)
def test_no_test_and_no_benchmark_uses_a_private_name(path):
    allowed = {"_replace", "_asdict", "_fields"}  # of named tuples
    assert set(private_names(path)) - allowed - set(dir(builtins)) == set()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_every_mutation_finds_its_piece_of_code(mutation):
    assert len(find(ast.parse((PACKAGE / mutation.file).read_text()), mutation)) == 1
    assert ast.dump(fragment(mutation.old)) != ast.dump(fragment(mutation.new))
    assert (TESTS / f"{mutation.tests}.py").is_file()


def test_every_fault_of_the_past_has_tests_that_exist():
    defined = {}
    for row in ROWS:
        file = TESTS / f"{row.file}.py"
        if file not in defined:
            defined[file] = {n.name for n in ast.parse(file.read_text()).body if isinstance(n, ast.FunctionDef)}
        for test in ids(row):
            assert test.partition("::")[2].partition("[")[0] in defined[file], test
    assert {row.section[0] for row in ROWS} == set("12345678")


def test_the_tests_of_past_faults_can_be_read_with_the_first_version():
    """Its package has no other modules: an import of a later one fails before any test of the file begins."""
    modules = {"ndm", "ndm.cli", "ndm.data", "ndm.solvers"}
    for file in {row.file for row in ROWS}:
        tree = ast.parse((TESTS / f"{file}.py").read_text())
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name for name in names if name.startswith("ndm")} <= modules, file

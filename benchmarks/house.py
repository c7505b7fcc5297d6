"""The size of the package: modules at the top level, lines, long functions, functions with many parameters.

    python benchmarks/house.py [FOLDER]

The folder is src/ndm unless another is given.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

LONG, MANY = 50, 8


def functions(tree: ast.AST, prefix: str = "") -> list[tuple[str, int, int]]:
    """Name, lines and parameters (without self and cls) of every function, methods and inner ones included."""
    found = []
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = f"{prefix}{node.name}"
            a = node.args
            names = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if p is not None]
            found.append(
                (name, (node.end_lineno or 0) - node.lineno + 1, len([n for n in names if n not in ("self", "cls")]))
            )
            name += "."
        elif isinstance(node, ast.ClassDef):
            name = f"{prefix}{node.name}."
        found += functions(node, name)
    return found


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "src" / "ndm"
    files = sorted(root.rglob("*.py"))
    found = [
        (f"{path.relative_to(root)}: {name}", *size)
        for path in files
        for name, *size in functions(ast.parse(path.read_text()))
    ]
    long = [(name, lines) for name, lines, _ in found if lines > LONG]
    many = [(name, count) for name, _, count in found if count > MANY]
    print(f"modules at the top level: {len(list(root.glob('*.py')))}")
    print(f"lines: {sum(len(path.read_text().splitlines()) for path in files)} in {len(files)} files")
    print(f"functions of more than {LONG} lines: {len(long)}")
    print("".join(f"  {lines:4d}  {name}\n" for name, lines in long), end="")
    print(f"functions of more than {MANY} parameters: {len(many)}")
    print("".join(f"  {count:4d}  {name}\n" for name, count in many), end="")


if __name__ == "__main__":
    main()

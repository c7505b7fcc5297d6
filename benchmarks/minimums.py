"""The tests with the oldest promised version of every dependency: each ``name>=version`` of pyproject.toml as ``==``.

    python benchmarks/minimums.py                        # the whole suite
    python benchmarks/minimums.py tests/test_nn.py -n 0  # arguments after the script's own go to pytest

The script makes a virtual environment of the Python that runs it in ``--environment``, by default a folder of the
system's temporary folder, and keeps it: a second run installs nothing anew. Dependencies of dependencies are the newest
that fit. The script ends with pytest's exit status.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,-]+\])?>=(?P<version>[\w.]+)")


def minimums(project: dict) -> list[str]:
    """The pins ``name==version`` of all requirements of a ``[project]`` table that state a minimum."""
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = [REQUIREMENT.fullmatch(requirement) for group in groups for requirement in group]
    return [f"{match['name']}=={match['version']}" for match in found if match]


def install(environment: Path, pins: list[str]) -> Path:
    """Install the package with its development tools and these pins, and give the environment's Python."""
    if not environment.is_dir():
        venv.create(environment, with_pip=True)
    python, constraints = environment / "bin" / "python", environment / "minimums.txt"
    constraints.write_text("\n".join(pins) + "\n")
    command = [python, "-m", "pip", "install", "--quiet", "-c", constraints, "-e", f"{ROOT}[dev]"]
    subprocess.run(command, check=True)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(tempfile.gettempdir()) / "ndm-minimums"
    parser.add_argument("--environment", type=Path, default=folder, help="folder of the virtual environment")
    args, rest = parser.parse_known_args()
    pins = minimums(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])
    print("Python", sys.version.split()[0], *pins, flush=True)
    python = install(args.environment, pins)
    return subprocess.run([python, "-m", "pytest", *rest], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())

"""Train and evaluate the model that comes with the package, and write it into the package.

    python benchmarks/pretrained.py --out runs/digits-tiny

It trains the recipe digits-tiny with seed 0, unless the run in --out is finished already, evaluates its bound on the
test rows, and copies the files of the run into src/ndm/pretrained. The model is the one with the best bound on the
validation rows; the test rows decide nothing. The last line is the checksum of the weights, which docs/hub.md states.
Another processor may round differently, and then the weights and the checksum are others.
"""

import argparse
import shutil
import sys
from pathlib import Path

import ndm
from ndm.cli import main
from ndm.hub import FILES
from ndm.support.files import sha256

NAME = "digits-tiny"


def run(out: Path, target: Path) -> None:
    """Train into ``out`` and copy to ``target``."""
    steps = [["evaluate", str(out), "--estimator", "bound", "--device", "cpu"]]
    if not (out / "model").is_dir():
        steps.insert(0, ["train", NAME, "--out", str(out), "--seed", "0", "--device", "cpu"])
    for step in steps:
        if status := main(step):
            sys.exit(status)
    shutil.rmtree(target, ignore_errors=True)
    for name in FILES:
        if (out / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / name, target / name)
    weights = target / "model" / "model.safetensors"
    print(f"{weights}: {weights.stat().st_size:,} bytes, sha256 {sha256(weights)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME, help="folder of the run")
    parser.add_argument(
        "--target", type=Path, default=Path(ndm.__file__).parent / "pretrained" / NAME, help="folder of the package"
    )
    args = parser.parse_args()
    run(args.out, args.target)

"""Fresh trials: broken files, bad calls, odd tables and killed processes, drawn by a seed.

    python tests/trials.py [--seed 1] [--count 300]

Each trial runs in a process of its own with a limit of 20 seconds of its processor time. A trial fails if there is a
traceback where a line is promised, a number that is not finite with exit status 0, a result that a plain computation
does not confirm, a file that is not whole, or no end in time. The script prints each failure with its number, and
``--seed S --only N`` repeats one. Another seed draws other trials.

* files: one of the files of a run, a table, a text, an archive or a folder of pictures is cut, flipped, filled with
  zeros or other bytes, given other values, or replaced by another file, and a command reads it.
* calls: a function of the library gets an odd value for one of its arguments.
* tables: a table of random columns with odd values is fitted, scored, sampled and encoded.
* faults: a training is interrupted, terminated or killed at a random moment. Resumed, it must have the weights of a
  training that nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file

import ndm
from ndm import InputError
from ndm.__main__ import main
from ndm.solvers import SolverError
from ndm.tables import Frame, Schema

SECONDS = 20
KINDS = {"files": 0.45, "calls": 0.3, "tables": 0.2, "faults": 0.05}
SMALL = ["--model.width", "8", "--model.depth", "1", "--training.batch_size", "16", "--device", "cpu"]
BOUND = ["--estimator", "bound", "--steps", "3", "--passes", "1", "--limit", "4", "--device", "cpu"]


class Failure(Exception):
    """What a trial shows to be wrong."""


def make_world(world: Path) -> None:
    """The files that trials break: small data of every kind, and a run of each."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "amount": np.round(rng.gamma(2, 10, 80), 2), "count": rng.poisson(3, 80), "city": rng.choice(["a", "b"], 80),
        "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 90, 80), "D"),
    })  # fmt: skip
    table.to_csv(world / "table.csv", index=False)
    table.to_parquet(world / "table.parquet")
    np.savez(world / "table.npz", x=rng.normal(size=(80, 3)))
    np.savez(world / "images.npz", x_train=rng.integers(0, 256, (30, 8, 8), dtype=np.uint8))
    (world / "text.txt").write_text("the cat sat on the mat and the rat sat on the cat. " * 60)
    (world / "pictures").mkdir()
    for k in range(12):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(world / "pictures" / f"{k}.png")
    runs = {"digits": ["digits-conventional", "--training.warmup", "1"], "rows": ["table", "--data.path", "table.csv"],
            "words": ["text", "--data.path", "text.txt", "--data.size", "8", "--training.warmup", "1"]}  # fmt: skip
    for name, arguments in runs.items():
        every = ["--training.steps", "4", "--training.checkpoint_every", "2", "--training.evaluate_every", "2"]
        subprocess.run([sys.executable, "-m", "ndm", "train", *arguments, "--out", name, *SMALL, *every, "--quiet"],
                       cwd=world, check=True)  # fmt: skip


# Broken files


def broken(data: bytes, draw: random.Random, others: list[Path]) -> bytes:
    """The bytes of a file after an accident."""
    at, size = draw.randrange(len(data) + 1), draw.choice([1, 3, 40, 4096])
    ways: list[Callable[[], bytes]] = [
        lambda: data[:at],
        lambda: b"",
        lambda: data[:at] + bytes([data[at % len(data)] ^ (1 << draw.randrange(8))]) + data[at + 1 :],
        lambda: data[:at] + bytes(size) + data[at + size :],
        lambda: data[:at] + draw.randbytes(size) + data[at:],
        lambda: data[:at] + data[at + size :],
        lambda: data + data,
        lambda: draw.choice(others).read_bytes(),
    ]
    values = ["null", "-1", "1e999", "NaN", "true", '"x"', "[]", "{}", "9" * 30, "[" * 5000, "0"]
    found = list(re.finditer(rb"(?<=[:, \n])-?\d+(\.\d+)?(e-?\d+)?(?=[,\n}\] ])", data[:100_000]))
    if found:
        one = draw.choice(found)
        ways += 3 * [lambda: data[: one.start()] + draw.choice(values).encode() + data[one.end() :]]
    return draw.choice(ways)()


def file_trial(folder: Path, draw: random.Random) -> None:
    more, device = ["--training.steps", "6"], ["--device", "cpu"]
    run = draw.choice(["digits", "rows", "words"])
    targets: dict[str, tuple[list[str], list[list[str]]]] = {
        "run": ([str(p.relative_to(folder)) for p in (folder / run).rglob("*") if p.is_file() and p.suffix != ".png"],
                [["evaluate", run, *BOUND], ["sample", run, "--num", "4", "--steps", "3", *device],
                 ["train", "--resume", run, *more, *device], ["doctor", run, "--limit", "4", *device],
                 *([["score", "rows", "table.csv", "--out", "s.csv"]] if run == "rows" else [])]),
        "table": (["table.csv", "table.parquet", "table.npz"], []),
        "score": (["table.csv"], [["score", "rows", "table.csv", "--out", "s.csv", *device]]),
        "text": (["text.txt"], [["train", "text", "--data.path", "text.txt", "--data.size", "8", "--out", "o", *SMALL,
                                 "--training.steps", "2"]]),
        "array": (["images.npz"], [["train", "array", "--data.path", "images.npz", "--out", "o", *SMALL,
                                    "--training.steps", "2"]]),
        "pictures": ([f"pictures/{k}.png" for k in range(12)],
                     [["train", "images", "--data.path", "pictures", "--data.size", "8", "--out", "o", *SMALL,
                       "--training.steps", "2"]]),
    }  # fmt: skip
    files, commands = targets[draw.choice(list(targets))]
    target = folder / draw.choice(files)
    command = draw.choice(commands or [["train", "table", "--data.path", target.name, "--out", "o", *SMALL,
                                        "--training.steps", "2"]])  # fmt: skip
    others = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size]
    target.write_bytes(broken(target.read_bytes(), draw, others))
    say(f"{target.relative_to(folder)}: ndm {' '.join(command)}")
    os.chdir(folder)
    status = main(command)
    check_output(status, folder)
    check_whole(folder, target)


def check_output(status: int, folder: Path) -> None:
    """Refuse a traceback, a number that is not finite, and an error that is not one line at the end."""
    sys.stdout.flush(), sys.stderr.flush()
    out, err = ((folder / name).read_text(errors="replace") for name in ("out.log", "err.log"))
    if "Traceback" in err:
        raise Failure(f"a traceback: {err.splitlines()[-1]}")
    if status == 0 and re.search(r"(?<![\w.])(nan|-?inf)(?![\w.])", out.lower()):
        raise Failure(f"a number that is not finite: {out[-200:]}")
    if status not in (0, 2):
        raise Failure(f"exit status {status}: {err[-300:]}")
    if status == 2 and not err.splitlines()[-1:][0].startswith(("ndm: error:", "ndm", "usage")):
        raise Failure(f"no error line: {err[-300:]}")


def check_whole(folder: Path, target: Path) -> None:
    """Refuse files that are not whole, other than the one that was broken before."""
    for path in folder.rglob("*"):
        if path == target or not path.is_file():
            continue
        try:
            if path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".jsonl":
                [json.loads(line) for line in path.read_text().splitlines()]
            elif path.name.endswith((".partial", ".tmp")):
                raise ValueError("left behind")
        except Exception as error:
            raise Failure(f"{path.relative_to(folder)} is not whole: {error}") from None


# Bad calls


def odd_values(draw: random.Random) -> Any:
    """A value that an argument should not have, or might."""
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(draw.randrange(99)))
    return draw.choice([
        None, -1, 0, 2.5, 1e30, -1e-30, math.nan, math.inf, True, "7", "x", b"x", [], {}, (), [1, 2], {1: 2}, 2**70,
        x, x.double(), x.half(), x.long(), x * math.nan, x[:0], x[0], x[:, :1], x[None], x.numpy(), x.to("meta"),
        x * 1e30, x.to_sparse(), x + 1j, torch.tensor(1.0), torch.randn(3, 3), np.float32(2), np.array(["a"]), object(),
        lambda *_: None, lambda *a: a[0], torch.nn.Linear(2, 2), int, "cpu", "dopri5", torch.Generator(), slice(2),
    ])  # fmt: skip


def call_trial(draw: random.Random) -> None:
    process = ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 5.0), draw.choice([None, ndm.Linear(2)]))
    model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,), width=8, depth=1)), ndm.GaussianDecoder()).eval()
    symbols = ndm.NDM(
        ndm.ForwardProcess(ndm.LinearSchedule(-6.0, 5.0), ndm.Embedding((3,), dim=2)),
        ndm.SymbolPredictor(ndm.nn.Conv1d((2, 4), outputs=3, width=8, depth=1), 3), ndm.SymbolDecoder(3, "abc"),
        shape=(4,),
    ).eval()  # fmt: skip
    x, codes = torch.randn(3, 2), torch.randint(3, (3, 4))
    t, z = torch.rand(3), torch.randn(3, 2)
    calls: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (ndm.bound, {"model": model, "x": x, "steps": 4}),
        (ndm.bound, {"model": symbols, "x": codes, "steps": None}),
        (ndm.log_prob, {"model": model, "x": x, "solver": ndm.Solver("rk4", steps=4), "max_rows": 2}),
        (ndm.ode_likelihood, {"model": symbols, "x": codes, "solver": ndm.Solver("euler", steps=3), "samples": 2,
                              "divergence": "hutchinson"}),
        (ndm.sample, {"model": model, "shape": 3, "steps": 3, "generator": None}),
        (ndm.infill, {"model": symbols, "codes": codes[0], "known": codes[0] > 1, "num": 2, "steps": 2,
                      "particles": 2}),
        (ndm.LinearSchedule, {"gamma_min": -6.0, "gamma_max": 5.0}),
        (ndm.StaggeredSchedule, {"gamma_min": -6.0, "gamma_max": 5.0, "starts": [0.0, 0.5], "duration": 0.5}),
        (ndm.Embedding, {"levels": (3, 2), "dim": 2, "num_basis": 1, "numbers": 0}),
        (ndm.Predictor, {"net": ndm.nn.MLP((2,)), "parameterization": "v", "num_basis": 0, "variance": False}),
        (ndm.NDM, {"process": process, "predictor": model.predictor, "decoder": model.decoder, "shape": (2,)}),
        (ndm.Marginals.fit, {"rows": torch.randn(50, 2), "knots": 5, "cells": [0.0, 1.0], "seed": 0}),
        (ndm.Marginals(2).forward, {"x": x}),
        (ndm.MixedDecoder, {"marginals": ndm.Marginals(2), "alphabets": (3,), "cells": [0.0, 1.0], "spikes": None,
                            "missing": [[], [0, 1]]}),
        (ndm.CategoricalDecoder, {"levels": 4}),
        (ndm.SymbolDecoder, {"levels": 3, "alphabet": "abc"}),
        (symbols.decoder.texts, {"x": codes}),
        (symbols.decoder.codes, {"text": "abc"}),
        (model.encode, {"x": x}),
        (process, {"x": x, "variance": None, "eta": 1.0}),
        (process(x).marginal, {"t": t}),
        (process(x).posterior, {"z_t": z, "s": t / 2, "t": t}),
        (ndm.solvers.solve_ode, {"f": lambda t, z: -z, "z": z, "start": 0.0, "end": 1.0,
                                 "solver": ndm.Solver("rk4", steps=3)}),
        (ndm.Solver, {"name": "dopri5", "rtol": 1e-3, "atol": 1e-3, "steps": 5}),
        (ndm.nn.MLP, {"shape": (2,), "width": 8, "depth": 1, "dropout": 0.0}),
        (ndm.nn.Transformer, {"shape": (2, 4), "outputs": 3, "width": 8, "depth": 1, "heads": 2}),
        (model.distribution().log_prob, {"value": x}),
        (ndm.NeuralDiffusionDensity(max_steps=2, random_state=0).fit, {"X": x.numpy()}),
        (ndm.NeuralDiffusionDensity, {"max_steps": 2, "contamination": 0.1, "validation_fraction": 0.1,
                                      "random_state": 0, "columns": None, "impute": False, "device": "cpu"}),
        (model.save_pretrained, {"folder": tempfile.mkdtemp()}),
        (ndm.NDM.from_pretrained, {"folder": "nowhere"}),
    ]  # fmt: skip
    function, arguments = draw.choice(calls)
    name = draw.choice(list(arguments))
    value = odd_values(draw)
    arguments = {**arguments, name: value}
    say(f"{getattr(function, '__qualname__', function)}({name}={str(value)[:60]!r})")
    try:
        result = function(**arguments)
        if isinstance(result, ndm.NeuralDiffusionDensity) and function is ndm.NeuralDiffusionDensity:
            result.fit(x.numpy())
        if hasattr(result, "checked"):  # rows that a solver could not finish are listed, and NaN
            result = result.checked()
    except (InputError, SolverError) as error:
        if "\n" in str(error):
            raise Failure(f"more than one line: {error}") from None
        return
    for found in getattr(result, "_asdict", lambda: {"result": result})().values():
        if isinstance(found, torch.Tensor) and found.is_floating_point() and not found.is_meta and len(found.shape):
            finite = found.to_dense().isfinite().all()
            if not finite and function not in (ndm.Solver,) and not name.startswith("generator"):
                raise Failure(f"a result that is not finite: {found}")


# Odd tables


def odd_column(draw: random.Random, rng: np.random.Generator, n: int) -> Any:
    """A column of a table."""
    x = rng.normal(size=n)
    made: list[Callable[[], Any]] = [
        lambda: x * 10.0 ** draw.randint(-12, 12) + 10.0 ** draw.randint(-3, 6),
        lambda: np.exp(3 * x),
        lambda: np.round(x, draw.randint(0, 4)),
        lambda: rng.poisson(draw.choice([0.1, 3, 1e5]), n),
        lambda: np.where(rng.random(n) < 0.4, 0.0, np.abs(x)),
        lambda: np.minimum(x, 0.3456789),
        lambda: rng.choice(["a", "B", "", "ü", "1", "nan", "None", " a"], n),
        lambda: pd.array(np.where(rng.random(n) < 0.2, None, rng.integers(0, 5, n)), dtype="Int64"),
        lambda: rng.random(n) < 0.3,
        lambda: pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 10 ** draw.randint(1, 8), n), "s"),
        lambda: pd.Categorical(rng.choice(["low", "high"], n), ["low", "high", "never"], ordered=True),
        lambda: np.where(rng.random(n) < 0.2, np.nan, x),
        lambda: np.full(n, draw.choice([0.0, 1e-5, 7])),
        lambda: rng.integers(-(2**40), 2**40, n),
        lambda: x.astype(np.float32),
        lambda: np.where(np.arange(n) == 0, draw.choice([1e6, -1e9, np.inf]), x),
        lambda: [f"id{k}" for k in range(n)],
        lambda: np.sort(x),
        lambda: rng.choice([1.5, 2.25, 7.125], n),
    ]
    return draw.choice(made)()


def table_trial(draw: random.Random) -> None:
    n, rng = draw.choice([2, 5, 30, 120]), np.random.default_rng(draw.randrange(10**6))
    table = pd.DataFrame({f"c{j}": odd_column(draw, rng, n) for j in range(draw.randint(1, 4))})
    if draw.random() < 0.3:
        table["copy"] = table["c0"]
    impute = draw.random() < 0.6
    say(f"{n} rows, impute {impute}: {table.dtypes.astype(str).to_dict()} {table.head(2).to_dict('list')}")
    kind = draw.choice([ndm.NeuralDiffusionDensity, ndm.NeuralDiffusionDetector])
    try:
        schema = Schema.fit(Frame.of(table), impute=impute)
    except InputError as error:
        if "\n" in str(error):
            raise Failure(f"more than one line: {error}") from None
        return
    back = schema.decode(schema.encode(Frame.of(table))).native()
    for name in table:
        a, b = table[name], back[name]
        same = np.allclose(a.astype(float), b.astype(float), rtol=1e-6, equal_nan=True) if a.dtype.kind in "iuf" else (
            a.isna() == b.isna()).all() and (a[a.notna()] == b[b.notna()]).all()  # fmt: skip
        if a.dtype != b.dtype or not same:
            raise Failure(f"{name} comes back as other values or as {b.dtype}: {b.head(3).tolist()}")
    estimator = kind(max_steps=draw.choice([1, 8]), random_state=0, impute=impute)
    try:
        scores = estimator.fit(table).score_samples(table)
    except InputError as error:
        if "\n" in str(error):
            raise Failure(f"more than one line: {error}") from None
        return
    if not np.isfinite(scores).all():
        raise Failure(f"scores that are not finite: {scores}")
    one = estimator.score_samples(table.iloc[1:2])
    if abs(one[0] - scores[1]) > 1e-6 * (1 + abs(scores[1])):
        raise Failure(f"the score of a row depends on the others: {one[0]} and {scores[1]}")
    sampled = estimator.sample(7, random_state=0)
    if list(sampled) != list(table) or (sampled.dtypes != table.dtypes).any():
        raise Failure(f"samples have other columns: {sampled.dtypes.to_dict()}")
    if schema.violations(Frame.of(sampled)).any():
        raise Failure("samples break what all rows have in common")


# Killed processes


def fault_trial(folder: Path, draw: random.Random) -> None:
    wanted = load_file(folder / "fault" / "model" / "model.safetensors")
    arguments = ["digits-conventional", "--out", "killed", *SMALL, "--training.steps", "60", "--training.warmup", "1",
                 "--training.checkpoint_every", "5", "--training.evaluate_every", "20"]  # fmt: skip
    begin = [sys.executable, "-m", "ndm", "train"]
    command, times = [*begin, *arguments], draw.randint(1, 2)
    for _ in range(times):
        ending, wait = draw.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL]), draw.uniform(0.5, 9)
        say(f"{ending.name} after {wait:.1f} s")
        with (folder / "child.log").open("a") as log:
            child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
            time.sleep(wait)
            child.send_signal(ending)
            child.wait(60)
        if (folder / "killed" / "config.yaml").is_file():
            command = [*begin, "--resume", "killed", "--device", "cpu"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if "Traceback" in result.stderr + (folder / "child.log").read_text():
        raise Failure(f"a traceback: {(result.stderr + (folder / 'child.log').read_text())[-600:]}")
    if result.returncode:
        raise Failure(f"exit status {result.returncode}: {result.stderr[-300:]}")
    found = load_file(folder / "killed" / "model" / "model.safetensors")
    if found.keys() != wanted.keys() or any(not torch.equal(found[name], wanted[name]) for name in wanted):
        raise Failure("the weights are not those of an undisturbed training")
    check_whole(folder, folder / "child.log")


# Running


def say(text: str) -> None:
    """Write what a trial does into its own file."""
    with Path(os.environ["TRIAL_NOTE"]).open("a") as file:
        file.write(text.replace("\n", " ") + "\n")


def trial(kind: str, folder: Path, draw: random.Random) -> None:
    """Run one trial in this process."""
    torch.manual_seed(draw.randrange(2**31))
    if kind == "files":
        file_trial(folder, draw)
    elif kind == "faults":
        fault_trial(folder, draw)
    elif kind == "calls":
        call_trial(draw)
    else:
        table_trial(draw)


def in_child(kind: str, folder: Path, draw: random.Random) -> str:
    """Run a trial in a forked process; what is wrong, or nothing."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        for name, number in (("out.log", 1), ("err.log", 2)):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ["TRIAL_NOTE"] = str(folder / "note.txt")
        if kind != "faults":
            used = int(sum(os.times()[:2])) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (used + SECONDS, used + SECONDS + 5))
        try:
            trial(kind, folder, draw)
            status = 0
        except Failure as failure:
            (folder / "failure.txt").write_text(str(failure))
            status = 1
        except BaseException:
            (folder / "failure.txt").write_text(" ".join(traceback.format_exc().split())[-700:])
            status = 1
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        return f"ended by {signal.Signals(-status).name}: no end within {SECONDS} seconds of processor time"
    return (folder / "failure.txt").read_text() if status else ""


def run(args: argparse.Namespace) -> int:
    kinds, failures = Counter[str](), 0
    with tempfile.TemporaryDirectory() as place:
        world = Path(place) / "world"
        world.mkdir()
        os.environ.update(NDM_DATA=str(world / "cache"), OMP_NUM_THREADS="1")
        torch.set_num_threads(1)
        make_world(world)
        subprocess.run([sys.executable, "-m", "ndm", "train", "digits-conventional", "--out", "fault", *SMALL,
                        "--training.steps", "60", "--training.warmup", "1", "--training.checkpoint_every", "5",
                        "--training.evaluate_every", "20", "--quiet"], cwd=world, check=True)  # fmt: skip
        for number in range(args.count) if args.only is None else [args.only]:
            draw = random.Random(1_000_000 * args.seed + number)
            kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
            folder = Path(place) / "trial"
            shutil.copytree(world, folder)
            wrong = in_child(kind, folder, draw)
            kinds[kind] += 1
            if wrong or args.verbose or args.only is not None:
                failures += bool(wrong)
                note = (folder / "note.txt").read_text().strip() if (folder / "note.txt").is_file() else ""
                print(f"{number} {kind}: {note}\n    {wrong or 'passed'}", flush=True)
            shutil.rmtree(folder)
            if sum(kinds.values()) % 25 == 0:
                print(f"{sum(kinds.values())} of {args.count} trials, {failures} failures", file=sys.stderr, flush=True)
    print(f"seed {args.seed}: {failures} failures in {sum(kinds.values())} trials ({dict(kinds)})")
    return int(failures > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--only", type=int, help="the number of one trial")
    parser.add_argument("--verbose", action="store_true", help="print every trial")
    sys.exit(run(parser.parse_args()))

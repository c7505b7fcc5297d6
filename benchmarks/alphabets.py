"""The memory and the time of a training step by the number of symbols: characters, byte pairs, words.

    python benchmarks/alphabets.py [--symbols 65 4096 50000] [--batch 8] [--dim 16]

Each row is a process of its own, which trains a small convolutional network for two steps on windows of 64 random
symbols, and notes the most memory that it had beyond that of the model and its optimiser before the steps. The last
column is this memory in numbers of four bytes for each symbol of the alphabet at each place.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

import ndm
from ndm.evaluation.tables import markdown_table

PLACES, WIDTH = 64, 64


def most_memory() -> int:
    """The most memory that this process had until now, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(symbols: int, batch: int, dim: int) -> dict[str, float]:
    """Train for two steps in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), ndm.Embedding([symbols], dim=dim), tied_to="noise")
    net = ndm.nn.Conv1d((dim, PLACES), outputs=symbols, width=WIDTH, depth=2, beliefs=symbols)
    model = ndm.NDM(process, ndm.SymbolPredictor(net, symbols), ndm.SymbolDecoder(symbols), shape=(PLACES,))
    optimizer, x = torch.optim.Adam(model.parameters(), lr=1e-3), torch.randint(symbols, (batch, PLACES))
    for p in model.parameters():  # the optimiser makes its state
        p.grad = torch.zeros_like(p)
    optimizer.step()
    before = most_memory()
    for _ in range(2):
        start = time.process_time()
        optimizer.zero_grad(set_to_none=False)
        ndm.bound(model, x).total.mean().backward()
        optimizer.step()
    seconds = time.process_time() - start
    return {"parameters": model.num_parameters, "bytes": most_memory() - before, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, nargs="+", default=[65, 4096, 16384, 50_000])
    parser.add_argument("--batch", type=int, default=8, help="windows in a batch")
    parser.add_argument("--dim", type=int, default=16, help="dimension of the points")
    parser.add_argument("--measure", action="store_true", help="measure in this process, and print JSON")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.symbols[0], args.batch, args.dim)))
        return
    rows = []
    for symbols in args.symbols:
        options = ["--symbols", str(symbols), "--batch", str(args.batch), "--dim", str(args.dim), "--measure"]
        out = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, check=True).stdout
        found = json.loads(out)
        each = found["bytes"] / 4 / (symbols * PLACES * args.batch)
        memory, seconds = f"{found['bytes'] / 2**20:,.0f}", f"{found['seconds']:.2f}"
        rows.append([f"{symbols:,}", f"{found['parameters']:,}", memory, seconds, f"{each:.1f}"])
    header = [
        "symbols",
        "parameters",
        "memory of a step, MiB",
        "processor seconds a step",
        "numbers a symbol and place",
    ]
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()

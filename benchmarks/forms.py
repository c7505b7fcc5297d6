"""What a training step and a sampling step cost with each form of the reverse process, beside a conventional model.

    python benchmarks/forms.py [--steps 8] [--width 32]
    python benchmarks/forms.py --table

All models have the same U-Net for 28 x 28 images as predictor. F is a U-Net of the same size, or of a third of the
width. A form is the bound in continuous time or in T = 10 steps, with F evaluated on the prediction, the curve
predicted, or the target predicted. All training steps are timed in turn, so that a slow moment of the machine hits all
of them; the figure is the ratio of the medians. Beside it stands the ratio of the floating-point operations that
PyTorch counts, forward and backward: the floor of a form. The last line is the time in which the levels of as many
images are drawn at the end of sampling.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

import ndm
from cells import Cells, ends, limit_threads, note_machine, record_options, say
from ndm.evaluation.tables import markdown_table
from ndm.training import TrainingConfig
from ndm.training.loss import Loss

KEY = ("form", "T", "width", "batch")
SHAPE = (1, 28, 28)
DECODING = "decoding"


@dataclass(frozen=True)
class Form:
    """A transform and what is predicted.

    Args:
        transform: ``identity``, ``network`` or ``time_basis``.
        predicted: ``x``, ``curve`` or ``target``.
        share: the width of F in widths of the predictor.
    """

    transform: str
    predicted: str = "x"
    share: float = 1.0

    @property
    def name(self) -> str:
        if self.transform == "identity":
            return "conventional"
        size = "" if self.share == 1 else ", F of a third of the width"
        return f"{self.transform}, {self.predicted} predicted{size}"

    def model(self, width: int) -> ndm.NDM:
        torch.manual_seed(0)
        net = unet(width, multiplier=2 if self.predicted == "curve" else 1)
        inner = max(4, round(self.share * width / 4) * 4)
        transform: ndm.Transform
        if self.transform == "network":
            transform = ndm.Network(unet(inner))
        elif self.transform == "time_basis":
            transform = ndm.TimeBasis(unet(inner, embedding=False), num_basis=1)
        else:
            transform = ndm.Identity()
        process = ndm.ForwardProcess(ndm.LinearSchedule(-13.0, 5.0), transform, tied_to="noise")
        predictor = ndm.Predictor(
            net, "v", num_basis=int(self.predicted == "curve"), target=self.predicted == "target"
        )  # fmt: skip
        return ndm.NDM(process, predictor, ndm.CategoricalDecoder(256))


FORMS = (
    Form("identity"),
    Form("network"), Form("network", "target"), Form("network", "target", 1 / 3),
    Form("time_basis"), Form("time_basis", "curve"), Form("time_basis", "target"), Form("time_basis", "target", 1 / 3),
)  # fmt: skip


def unet(width: int, **options: int | bool) -> ndm.nn.UNet:
    return ndm.nn.UNet(SHAPE, channels=width, depth=1, multipliers=(1, 2), patch=2, **options)


def training_step(model: ndm.NDM, x: torch.Tensor, steps: int | None) -> Callable[[], None]:
    """Forward and backward of the loss of training."""
    loss = Loss(model, TrainingConfig(bound_steps=steps))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss(x, step=0).sum().backward()

    return step


def sampling_step(model: ndm.NDM, x: torch.Tensor) -> Callable[[], None]:
    """One ancestral step."""
    z, s, t = torch.randn(x.shape), torch.full((len(x),), 0.5), torch.full((len(x),), 0.6)

    @torch.no_grad()
    def step() -> None:
        model(z, t).posterior(z, s, t).sample()

    return step


def flops(step: Callable[[], None]) -> int:
    """The floating-point operations of a step."""
    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return counter.get_total_flops()


def medians(steps: list[Callable[[], None]], repeats: int) -> list[float]:
    """The median seconds of each step, timed in turn after one that does not count."""
    times: list[list[float]] = [[] for _ in steps]
    for repeat in range(repeats + 1):
        for step, found in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            if repeat:
                found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


def run(args: argparse.Namespace) -> None:
    limit_threads(args.threads)
    on, cells = note_machine(args.out, args.threads, ["torch", "ndm"]), Cells(args.out, KEY)
    x = torch.randint(256, (args.batch, *SHAPE), generator=torch.Generator().manual_seed(0))
    for T in ("continuous", 10, "sampling"):
        if all((form.name, T, args.width, args.batch) in cells for form in FORMS):
            continue
        models = [form.model(args.width) for form in FORMS]
        steps = [
            sampling_step(m.eval(), x) if T == "sampling" else training_step(m, x, None if T == "continuous" else 10)
            for m in models
        ]
        counts, seconds = [flops(step) for step in steps], medians(steps, args.steps)
        for form, model, count, second in zip(FORMS, models, counts, seconds, strict=True):
            record = {"form": form.name, "T": T, "width": args.width, "batch": args.batch}
            cells.add({
                **record, "time": second / seconds[0], "flops": count / counts[0], "seconds": second,
                "parameters": model.num_parameters, "on": on,
            })  # fmt: skip
            say(f"{form.name}, {T}: time {second / seconds[0]:.2f}, operations {count / counts[0]:.2f}")
    if (FORMS[0].name, DECODING, args.width, args.batch) not in cells:
        model = FORMS[0].model(args.width).eval()
        z, t = model.encode(x), torch.full((args.batch,), 0.5)
        with torch.no_grad():
            network, decoding = medians([lambda: model.predictor.net(z, t), lambda: decoded(model, z)], args.steps)
        cells.add({
            "form": FORMS[0].name, "T": DECODING, "width": args.width, "batch": args.batch, "time": decoding / network,
            "seconds": decoding, "on": on,
        })  # fmt: skip


def decoded(model: ndm.NDM, z: torch.Tensor) -> torch.Tensor:
    """A draw of the levels of images."""
    return model.decoder.decode(z, model.process, generator=torch.Generator().manual_seed(0))


def table_of(records: list[dict]) -> str:
    """The Markdown table: times of the conventional model's step and, in brackets, counted operations."""
    header = ["form", "parameters", "training, continuous time", "training, T = 10", "a sampling step"]
    lines = []
    for form in FORMS:
        own = {r["T"]: r for r in records if r["form"] == form.name}
        if own:
            figures = [f"{own[T]['time']:.2f} ({own[T]['flops']:.2f})" for T in ("continuous", 10, "sampling")]
            lines.append([form.name, f"{own['continuous']['parameters']:,}", *figures])
    ratio = next((r["time"] for r in records if r["T"] == DECODING), None)
    said = (
        "" if ratio is None else f"\nDrawing the levels of as many images takes {ratio:.3f} evaluations of the network."
    )
    return markdown_table(header, lines) + said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32, help="channels of the first level")
    parser.add_argument("--batch", type=int, default=32, help="rows of a batch")
    parser.add_argument("--steps", type=int, default=8, help="how often each step is timed")
    record_options(parser, "forms.jsonl")
    args = parser.parse_args()
    if not args.table:
        run(args)
    print(table_of(list(Cells(args.out, KEY).records.values())))


if __name__ == "__main__":
    sys.exit(ends(main))

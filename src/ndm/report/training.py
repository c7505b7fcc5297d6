"""What was trained on what, and how training went."""

from __future__ import annotations

from dataclasses import asdict

import yaml

from ..data import identity
from ..experiment.push import public_config
from .charts import Curve, line_chart
from .estimates import best_estimate
from .html import Html, details, element, facts, figure, joined, note, side_by_side
from .kept import curve_of, is_number
from .subject import Subject

TRANSFORMS = {
    "Identity": "the identity: this is a conventional diffusion model",
    "Linear": "linear, with learned gains",
    "TimeBasis": "non-linear, a sum of powers of time with networks of x",
    "LinearBasis": "linear, with learned gains, and a sum of powers of time with networks of x",
    "Network": "non-linear, a network of x and t",
    "GaussianFlow": "non-linear, a network of x and t that scales the noise, too",
    "Blur": "a blur, without parameters",
    "Embedding": "symbols are points that move in time",
}
"""What each transform is, in words."""


def tiles(subject: Subject) -> Html:
    """The facts that are wanted first."""
    config, snapshot = subject.run.config, subject.snapshot
    step = "?" if snapshot.step is None else f"{snapshot.step:,}"
    found = [
        (subject.dataset.name, "data", "tile"),
        (f"{subject.model.num_parameters:,}", "parameters", "tile"),
        (f"{step} of {snapshot.last_step:,}", "training steps", "tile"),
        (str(config.seed), "seed", "tile"),
    ]
    if (best := best_estimate(subject)) is not None:
        found.insert(0, (*best, "tile wide"))
    parts = (element("div", element("b", value), element("span", name), class_=kind) for value, name, kind in found)
    return element("div", *parts, class_="tiles")


def what(subject: Subject) -> Html:
    """The data, the model and the training, and the whole config."""
    config, data = subject.run.config, identity(subject.dataset)
    model, training = config.model, config.training
    transform = type(subject.model.process.transform).__name__
    rows = " / ".join(f"{count:,}" for count in data["rows"])
    steps = "continuous time" if training.bound_steps is None else f"{training.bound_steps} steps"
    pairs = [
        ("data set", subject.dataset.name),
        ("release", subject.dataset.release or "not recorded"),
        ("checksum", subject.dataset.checksum or "none is recorded"),
        ("rows", f"{rows} (train / validation / test)"),
        ("shape of a row", " x ".join(map(str, subject.dataset.shape))),
        ("F(x, t)", TRANSFORMS.get(transform, transform)),
        ("schedule", f"{type(subject.model.process.schedule).__name__}, gamma from {model.gamma_min:g} to "
                     f"{model.gamma_max:g}"),
        ("prediction", model.parameterization + (", with a learned variance" if model.variance else "")),
        ("network", f"{model.network}, width {model.width}, depth {model.depth}"),
        ("parameters", f"{subject.model.num_parameters:,}"),
        ("trained bound", steps),
        ("steps", f"{subject.snapshot.progress.removeprefix('step ')}, batches of {training.batch_size}"),
        ("optimiser", f"{training.optimizer}, learning rate {training.learning_rate:g}"),
        ("seed of training", str(config.seed)),
        ("seed of this report", str(subject.seed)),
        ("weights", f"EMA, sha256 {subject.weights[:16]}"),
    ]  # fmt: skip
    text = yaml.safe_dump(asdict(public_config(config)), sort_keys=False)
    return joined([
        element("p", config.description) if config.description else None,
        facts(pairs),
        details("All settings (config.yaml without paths)", element("pre", text)),
    ])  # fmt: skip


def learning_curves(subject: Subject) -> Html:
    """The training and the validation bound, and the norm of the gradient, by steps."""
    records = subject.training
    training, validation = curve_of(records, "bpd"), curve_of(records, "validation_bpd")
    if not training and not validation:
        return note("The run's metrics.jsonl has no figures of training, so there are no learning curves.")
    unit = subject.dataset.unit
    bound = line_chart(
        [Curve("training batch", training, 0), Curve("validation rows", validation, 1)],
        "step", f"bound, {unit}", "bound by training step", log=positive(training + validation),
    )  # fmt: skip
    norm = line_chart([Curve("", curve_of(records, "gradient_norm"))], "step", "norm of the gradient",
                      "norm of the gradient by training step", log=True)  # fmt: skip
    seconds = max((float(r["seconds"]) for r in records if is_number(r.get("seconds"))), default=0.0)
    took = f" Training took {seconds:,.0f} seconds." if seconds else ""
    return side_by_side(
        figure(bound, f"The bound on training batches and on validation rows, in {unit}.{took}"),
        figure(norm, "The norm of the gradient before clipping."),
    )


def positive(points: list[tuple[float, float]]) -> bool:
    """Whether all values are positive and far apart, so that a logarithmic axis shows them better."""
    values = [value for _, value in points]
    return min(values) > 0 and max(values) > 4 * min(values)

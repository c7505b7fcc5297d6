r"""What the mathematics needs of F, tried on a few rows in float64 before a training and by ``ndm doctor``.

* F(x, 0) is the start of the curve, ``curve.x``, and S(x, 0) = 1. The reconstruction term draws z_0 from the start, and
  the diffusion term from F(x, 0). If these differ, the sum of the two is the bound of no model.
* The start of the curve is x, where the reconstruction term has a closed form that holds for no other start
  (:class:`ndm.GaussianDecoder`, the numbers of :class:`ndm.MixedDecoder`). A decoder that computes p(x | z_0) has a
  valid bound for any start, but one that looks for x in z_0 has a poor one. The start of an embedding is where its
  decoder looks.
* The time derivative is that of the value. Continuous time, the ODE and the SDE need it, and the bound in discrete time
  does not.
* F of a row depends on that row alone, since the likelihood is one of rows.

All this is tried with the weights as they are, and after a small random change of the weights of F. A network whose
last layer is zero hides each of these faults until its first steps, and training may lead to the changed weights.

The distance of two starts is their divergence for the noise at t = 0. It is in nats, and rounding errors stay far below
the smallest one that counts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import InputError
from .gaussian import Gaussian
from .model import NDM
from .process import ConditionalProcess, ForwardProcess
from .support.checks import shown
from .support.tensors import full_times, gradients, rand, seeded, undisturbed
from .transform import BasisCurve, Curve

ROWS = 4
"""The number of rows that are tried."""
CHANGE = 0.1
"""The change of the weights: each output of a layer changes by about this part of the root mean square of its input."""
SMALLEST = 1e-4
"""The nats per element from which two starts differ."""
STEP = 1e-4
"""The step of the finite differences, in the time of the curve."""
RELATIVE, ROUNDING = 0.01, 1e-6
"""The relative error from which a time derivative is wrong, and from which two values differ."""


class Problem(NamedTuple):
    """Something that F must be and is not."""

    text: str
    fatal: bool
    """Whether the loss is no bound then."""


def check_forward(model: NDM, rows: Tensor, steps: int | None = None) -> list[str]:
    """Try what the bound needs of F on a few of the rows.

    Args:
        model: the model, on any device; it stays as it is.
        rows: rows in data units, ``(N, *)``.
        steps: the number of steps of the bound that is trained; None is continuous time.

    Returns:
        Warnings: what is wrong with F while the bound is valid.

    Raises:
        InputError: if the loss would be no bound because of F, with what to change.
    """
    found = list(problems(model, rows, steps))
    for problem in found:
        if problem.fatal:
            raise InputError(problem.text)
    return [problem.text for problem in found]


def problems(model: NDM, rows: Tensor, steps: int | None = None) -> list[Problem]:
    """What is wrong with F, each fault once; the arguments are those of :func:`check_forward`."""
    x = model.rows(rows[:: max(1, len(rows) // ROWS)][:ROWS])
    x = model.decoder.jitter(x, rand((len(x), model.decoder.rounded), model.reference, seeded(0)))
    found: list[Problem] = []
    with gradients(), torch.no_grad(), undisturbed():
        try:
            for process, when in twins(model.process):
                found = found or list(_problems(model, process, x, steps, when))
        except InputError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {shown(' '.join(str(error).split()), 200)}"
            found.append(Problem(f"F was not tried, because it does not run in float64 on the CPU ({reason})", False))
    return found


def twins(process: ForwardProcess) -> Iterator[tuple[ForwardProcess, str]]:
    """Copies of a process in float64 on the CPU: as it is, and with changed weights of F; and words for the second."""
    twin = copy.deepcopy(process).to("cpu", torch.float64).eval()
    yield twin, ""
    weights = [p for p in twin.transform.parameters() if p.requires_grad]
    generator = seeded(0)
    for weight in weights:
        inputs = weight[0].numel() if weight.ndim > 1 else 1
        weight.add_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype), alpha=CHANGE / inputs**0.5)
    if weights:
        yield twin, " once its weights have changed a little"


def _problems(model: NDM, process: ForwardProcess, x: Tensor, steps: int | None, when: str) -> Iterator[Problem]:
    x_model = model.encode(x).to("cpu", torch.float64)
    q = process(x_model)
    yield from of_rows(process, q, x_model, when)
    yield from of_start(q, when)
    yield from of_decoder(model, q, x, x_model, when)
    yield from of_derivative(q.curve, steps, when)


def of_rows(process: ForwardProcess, q: ConditionalProcess, x: Tensor, when: str) -> Iterator[Problem]:
    """Whether F of the first row depends on the other rows."""
    t = full_times(0.5, x)
    together, alone = q.curve.scaled(t)[0][:1], process(x[:1]).curve.scaled(t[:1])[0]
    if size(together - alone) > ROUNDING * size(alone):
        yield Problem(
            f"F(x, t) of a row depends on the other rows of its batch{when}, so the loss is no bound for a row; take "
            "sums, means and norms over dim=1 and not over the batch",
            True,
        )


def of_start(q: ConditionalProcess, when: str) -> Iterator[Problem]:
    """Whether the curve at time 0 is its start, and the noise there has the scale 1."""
    start, there = q.start(), q.marginal(full_times(0.0, q.curve.x))
    if not differ(start, there):
        return
    moved = differ(start, Gaussian(there.mean, start.std))
    what = "F(x, 0) is not curve.x, where the curve says that it starts" if moved else "S(x, 0) is not 1"
    remedy = "let the curve start at x, as F(x, t) = x + t f(x, t) does" if moved else "let log S(x, t) = t h(x, t)"
    yield Problem(
        f"{what}{when}: {apart_in_nats(start, there)}. The reconstruction term takes z_0 from the start and the "
        f"diffusion term from the curve at t = 0, so the loss is no bound; {remedy}",
        True,
    )


def of_decoder(model: NDM, q: ConditionalProcess, x: Tensor, x_model: Tensor, when: str) -> Iterator[Problem]:
    """Whether the curve starts where the decoder has a closed form, or where it looks for x."""
    decoder, name = model.decoder, type(model.decoder).__name__
    start, wanted = q.start(), q.process.along(BasisCurve(x_model)).start()
    closed, needed = (Gaussian(decoder.closed(part.mean), part.std) for part in (start, wanted))
    if differ(closed, needed):
        yield Problem(
            f"F(x, 0) is not x{when}: {apart_in_nats(closed, needed)}. {name} has the reconstruction term in closed "
            "form, which holds for F(x, 0) = x alone, so the loss is no bound; let the curve start at x, as "
            "F(x, t) = x + t f(x, t) does",
            True,
        )
    elif start.mean.shape == x_model.shape:
        nats, least = (decoder.nll(x, z.mean.to(model.reference), model.process).mean() for z in (start, wanted))
        if nats > least + 0.01 * x_model[0].numel():
            yield Problem(
                f"F(x, 0) is not x{when}. The loss is a bound, but {name} looks for x in z_0 / alpha_0, and the "
                f"reconstruction term has {nats:.3g} nats per row where F(x, 0) = x has {least:.3g}; let the curve "
                "start at x, as F(x, t) = x + t f(x, t) does",
                False,
            )


def of_derivative(curve: Curve, steps: int | None, when: str) -> Iterator[Problem]:
    """Whether ``with_derivative`` gives the value of the curve and the derivative of this value."""
    t = (torch.arange(len(curve.x), dtype=torch.float64) + 0.5) / len(curve.x)
    try:
        value, slope, log_scale, d_log_scale = curve.scaled_with_derivative(t)
    except Exception:
        return  # whatever needs the derivative will say so itself
    said, slope = joined(value, log_scale), joined(slope, d_log_scale)
    value = joined(*curve.scaled(t))
    if slope.shape != value.shape or said.shape != value.shape:
        return  # the process refuses these shapes, and says which
    coarse, fine = ((joined(*curve.scaled(t + h)) - joined(*curve.scaled(t - h))) / (2 * h) for h in (STEP, STEP / 2))
    # Where the two finite differences are apart, F moves too quickly for them to tell anything.
    allowed = RELATIVE * size(fine) + 10 * size(coarse - fine) + ROUNDING * size(value)
    if size(said - value) > ROUNDING * size(value):
        what = f"with_derivative(t) of the curve gives another value than the curve at t{when}"
    elif size(slope - fine) > allowed:
        what = (
            f"with_derivative(t) of the curve gives a wrong time derivative{when}: it is off by "
            f"{size(slope - fine):.2g} where finite differences of the curve give {size(fine):.2g} (root mean squares)"
        )
    else:
        return
    if steps is None:
        yield Problem(f"{what}. Continuous time needs both to be exact, so the loss is no bound; correct it", True)
    else:
        use = "the bound in discrete time does not need it, but the ODE, the SDE and the bound in continuous time do"
        yield Problem(f"{what}; {use}", False)


def joined(value: Tensor, log_scale: Tensor | None) -> Tensor:
    """F and log S, or their time derivatives, as one tensor."""
    return value if log_scale is None else torch.cat([value, log_scale.expand_as(value)], dim=1)


def size(x: Tensor) -> float:
    """The root mean square of all elements."""
    return x.square().mean().sqrt().item()


def differ(one: Gaussian, other: Gaussian) -> bool:
    """Whether two starts are so far apart that it counts. Where there is a NaN, the training itself says so."""
    return one.mean.numel() > 0 and (one.kl(other).mean() / one.mean[0].numel()).item() > SMALLEST


def apart_in_nats(one: Gaussian, other: Gaussian) -> str:
    """How far two starts are apart, in words."""
    return f"with the noise at t = 0 the two are {one.kl(other).mean():.3g} nats per row apart"

r"""What the mathematics needs of an F of the user's own, tried on two rows before a training and by ``ndm doctor``.

* F(x, 0) is the start of the curve, ``curve.x``, and S(x, 0) = 1. The reconstruction term draws z_0 from the start, and
  the diffusion term from F(x, 0). If these differ, the sum of the two is the bound of no model.
* The start of the curve is x, where the reconstruction term has a closed form that holds for no other start
  (:class:`ndm.GaussianDecoder`, the numbers of :class:`ndm.MixedDecoder`). A decoder that computes p(x | z_0) has a
  valid bound for any start, but one that looks for x in z_0 has a poor one. The start of an embedding is where its
  decoder looks.
* The time derivative is that of the value. Continuous time, the ODE and the SDE need it, and the bound in discrete time
  does not.
* F of a row depends on that row alone, since the likelihood is one of rows.

All this is tried in float64 after a small random change of the weights of F. A network whose last layer is zero hides
each of these faults until its first steps, and training may lead to the changed weights.

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
from .support.arguments import is_own
from .support.checks import shown
from .support.tensors import full_times, gradients, rand, seeded, undisturbed
from .transform import BasisCurve, Curve

ROWS = 2
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


def check_forward(
    model: NDM, rows: Tensor, steps: int | None = None, device: torch.device | str | None = None
) -> list[str]:
    """Try what the bound needs of an F of the user's own. The transforms of the package have it by their forms.

    Args:
        model: the model, on any device; it stays as it is.
        rows: rows in data units, ``(N, *)``, of which a few are taken.
        steps: the number of steps of the bound that is trained; None is continuous time.
        device: where F is tried; None is the model's device.

    Returns:
        What is wrong with F while the bound is valid, a text for each.

    Raises:
        InputError: if the loss would be no bound because of F, with what to change.
    """
    if is_own(type(model.process.transform)):
        return []
    found = problems(model, rows, steps, device)
    for problem in found:
        if problem.fatal:
            raise InputError(problem.text)
    return [problem.text for problem in found]


def faults(model: NDM, rows: Tensor, steps: int | None = None) -> list[str]:
    """What is wrong with an F of the user's own in a trained model, whose figures are still wanted.

    The arguments are those of :func:`check_forward`.
    """
    own = is_own(type(model.process.transform))
    return [] if own else [problem.text for problem in problems(model, rows, steps)]


def problems(
    model: NDM, rows: Tensor, steps: int | None = None, device: torch.device | str | None = None
) -> list[Problem]:
    """What is wrong with F, whoever has written it; the arguments are those of :func:`check_forward`."""
    x = model.rows(rows[:: max(1, len(rows) // ROWS)][:ROWS])
    x = model.decoder.jitter(x, rand((len(x), model.decoder.rounded), model.reference, seeded(0)))
    place = torch.device(model.reference.device if device is None else device)
    place = torch.device("cpu") if place.type == "mps" else place  # which has no float64
    with gradients(), torch.no_grad(), undisturbed():
        x_model = model.encode(x).to(place, torch.float64)
        try:
            as_it_is = copy.deepcopy(model.process).to(place, torch.float64).eval()
            changed = with_changed_weights(copy.deepcopy(as_it_is))
            found = try_out(model, changed, x, x_model, steps, " after a small change of its weights")
            if found == []:
                return []
            return try_out(model, as_it_is, x, x_model, steps) or found or []
        except InputError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {shown(' '.join(str(error).split()), 200)}"
            return [Problem(f"F was not tried, because it fails in float64 on {place.type}: {reason}", False)]


def with_changed_weights(process: ForwardProcess) -> ForwardProcess:
    """The process, with a random change of the weights of F that training may make."""
    generator = seeded(0)
    for weight in process.transform.parameters():
        if weight.requires_grad:
            inputs = max(1, weight.shape[1:].numel())
            change = torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device)
            weight.add_(change, alpha=CHANGE / inputs**0.5)
    return process


def try_out(
    model: NDM, process: ForwardProcess, x: Tensor, x_model: Tensor, steps: int | None, when: str = ""
) -> list[Problem] | None:
    """What is wrong with the F of a process, in the words ``when``; None where it is not finite: training tells that.

    Args:
        x, x_model: rows in data units, and in model units for the process.
    """
    q = process(x_model)
    t = (torch.arange(len(x_model), dtype=x_model.dtype, device=x_model.device) + 0.5) / len(x_model)
    value = joined(*q.curve.scaled(t))
    if not torch.isfinite(value).all():
        return None
    alone = joined(*process(x_model[:1]).curve.scaled(t[:1]))
    return [
        *of_rows(value[:1], alone, when),
        *of_start(q, when),
        *of_decoder(model, q, x, x_model, when),
        *of_derivative(q.curve, t, value, steps, when),
    ]


def of_rows(together: Tensor, alone: Tensor, when: str) -> Iterator[Problem]:
    """Whether F of a row is another one beside other rows."""
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
    what = "at t = 0 the curve has another value than curve.x, its start" if moved else "S(x, 0) is not 1"
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


def of_derivative(curve: Curve, t: Tensor, value: Tensor, steps: int | None, when: str) -> Iterator[Problem]:
    """Whether ``with_derivative(t)`` gives the value of the curve at ``t``, and the derivative of this value."""
    try:
        said, slope, log_scale, d_log_scale = curve.scaled_with_derivative(t)
    except Exception:
        return  # whatever needs the derivative will say so itself
    said, slope = joined(said, log_scale), joined(slope, d_log_scale)
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

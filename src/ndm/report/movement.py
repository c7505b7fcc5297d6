"""What the forward process and the ODE do over time: F(x, t) with a slider, paths, schedule and variance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..embedding import Embedding
from ..errors import InputError
from ..evaluation.canvas import spread
from ..evaluation.figures import Plane, ode_paths
from ..evaluation.moves import MOST, moves, names_of, report_moves
from ..gaussian import Gaussian
from ..support.tensors import full_times, seeded
from ..transform import Identity
from .charts import Curve, line_chart
from .html import Html, details, element, figure, joined, note, side_by_side
from .images import LARGEST_FRAME, colours, is_image, shown_range, signed_colours
from .moving import Frame, moving_images, moving_points
from .subject import Subject

FRAMES, SHEETS = 21, 11
"""The numbers of times at which a slider of points and one of images stop."""
IMAGES, POINTS, PATHS, KERNELS, CELLS = 6, 200, 80, 1500, 72
"""The numbers of images and points that move, of paths of the ODE, and of rows and cells of the density behind them."""
BANDWIDTH = 0.12
"""The standard deviation that smooths the density, in model units."""


@torch.no_grad()
def transform(subject: Subject) -> Html:
    """F(x, t) of test rows, with a slider."""
    f = subject.model.process.transform
    if isinstance(f, Embedding):
        if len(f.levels) == 1:
            return symbols(subject)
        return note("F moves the symbols of several columns in spaces of their own, which are not drawn.")
    if subject.kind == "image":
        return images_over_time(subject)
    if isinstance(f, Identity):
        return note("F is the identity, F(x, t) = x: this is a conventional diffusion model, and nothing moves.")
    x = subject.model.encode(subject.test(POINTS).to(subject.model.reference.device))
    if x.flatten(1).shape[1] < 2:
        return note("The rows have one number each, so that F is not drawn in a plane.")
    times, values = over_time(subject, x, FRAMES)
    plane = Plane.of(x, 0.1, "model units")
    places = np.stack([plane.project(value.flatten(1)) for value in values])
    words = f"F(x, t) of {len(x)} test rows ({plane.names[0]} and {plane.names[1]}), with their paths from t = 0 on."
    return moving_points(places, Frame.of(places.reshape(-1, 2)), times, words, "F(x, t) of test rows",
                         start=FRAMES - 1, trails=True)  # fmt: skip


def over_time(subject: Subject, x: Tensor, count: int) -> tuple[list[float], list[Tensor]]:
    """The times of a slider, and F(x, t) at each of them for rows in model units, on the CPU."""
    q, times = subject.model.process(x), [k / (count - 1) for k in range(count)]
    return times, [q.moved(full_times(time, x)).cpu() for time in times]


def images_over_time(subject: Subject) -> Html:
    """F(x, t) of test images, how far it is from x, and the noisy images of which the model learns."""
    process = subject.model.process
    x = subject.model.encode(subject.test(IMAGES).to(subject.model.reference.device))
    times, values = over_time(subject, x, SHEETS)
    frames = torch.stack(values)
    if not is_image(frames[0]) or frames[0].shape != x.shape:
        return note("F does not give images of the shape of the data, so it is not drawn.")
    low, high = shown_range(frames, None)
    q, eps = process(x), torch.randn(x.shape, generator=seeded(subject.seed)).to(x)
    noisy = torch.stack([q.marginal(full_times(time, x)).at(eps).cpu() for time in times])
    limit = (frames - frames[0]).mean(2).abs().max().item()
    rows = [("F(x, t)", np.stack([colours(f, low, high, LARGEST_FRAME) for f in frames]))]
    words = f"{len(x)} test rows in model units: {low:.3g} is black and {high:.3g} is white."
    if isinstance(process.transform, Identity):
        words = f"F is the identity, so F(x, t) = x: this is a conventional diffusion model. {words}"
    else:
        rows.append(("F(x, t) - x", np.stack([signed_colours(f - frames[0], limit) for f in frames])))
        words += f" The difference is blue at {-limit:.2g} and red at {limit:.2g}."
    edge = max(abs(low), abs(high)) + 1
    rows.append(("z at time t", np.stack([colours(z, -edge, edge, LARGEST_FRAME) for z in noisy])))
    words += " The last row has z, which is alpha F(x, t) plus sigma times the same noise at all times."
    return moving_images(rows, times, words, "F(x, t) of test images", start=SHEETS // 2)


def symbols(subject: Subject) -> Html:
    """The paths of the symbols of an alphabet, and the order in which noise makes them one."""
    found, names = moves(subject.model), names_of(subject.model)[:MOST]
    flat = found.means.double().flatten(0, 1)
    directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:2]
    every = (len(found.times) - 1) // (2 * FRAMES - 2)
    plane = ((found.means[::every, : len(names)].double() - flat.mean(0)) @ directions.T).numpy()
    times = found.times[::every].tolist()
    if plane.shape[2] == 1:
        plane = np.concatenate([plane, np.broadcast_to(np.array(times)[:, None, None], plane.shape)], 2)
    words = "The means of the noisy symbols, alpha e(t), in the first two principal directions of all of them."
    marks = ["␣" if name == "space" else "⏎" if name == "newline" else name for name in names]
    picture = moving_points(plane, Frame.of(plane.reshape(-1, 2), 0.06), times, words, "paths of the symbols",
                            trails=True, names=marks)  # fmt: skip
    mergers = element("pre", report_moves(found, names_of(subject.model)))
    return joined([picture, details("Which symbols noise makes one, and when", mergers)])


@torch.no_grad()
def ode(subject: Subject) -> Html:
    """Paths of the generative ODE over the density of the forward process, for rows of two numbers.

    Raises:
        InputError: if the rows are others, or the model has no ODE.
    """
    model, dataset = subject.model, subject.dataset
    if tuple(dataset.shape) != (2,):
        raise InputError("the paths of the ODE are drawn for rows of two real numbers")
    if not model.has_ode:
        raise InputError("this model has no ODE, because it is of discrete time or does not predict F(x, t)")
    z_1 = torch.randn(PATHS, 2, generator=seeded(subject.seed)).to(model.reference)
    states = ode_paths(model, z_1, 3 * (FRAMES - 1))[::3].cpu().double().numpy()
    x = model.encode(spread(dataset.train, KERNELS).to(model.reference.device))
    times = [1 - k / (FRAMES - 1) for k in range(FRAMES)]
    q, places = model.process(x), []
    for time in times:
        places.append(q.marginal(full_times(time, x)))
    frame = Frame.of(np.concatenate([states.reshape(-1, 2), *(place.mean.cpu().numpy() for place in places)]), 0.12)
    densities = [density(place, frame) for place in places]
    words = (
        f"{PATHS} paths of the ODE from noise at t = 1 to samples at t = 0, in model units. The lines are contours of "
        f"the density of the forward process at the time of the slider, over {len(x)} training rows and smoothed by "
        f"{BANDWIDTH:g}. The points of a good model keep to them."
    )
    return moving_points(states, frame, times, words, "paths of the generative ODE", start=FRAMES - 1, trails=True,
                         densities=densities)  # fmt: skip


def density(place: Gaussian, frame: Frame) -> np.ndarray:
    """The smoothed density of rows in the plane that have normal distributions ``place``, on ``frame.grid(CELLS)``."""
    mean = place.mean.cpu().double()
    width = (place.std[0].cpu().double() ** 2 + BANDWIDTH**2).sqrt().expand(2)
    kernels = []  # of each row in each coordinate, (CELLS, N)
    for axis, middle in enumerate(frame.middle):
        line = torch.linspace(middle - frame.half, middle + frame.half, CELLS, dtype=torch.float64)
        kernels.append((-(((line[:, None] - mean[:, axis]) / width[axis]) ** 2) / 2).exp())
    return (kernels[1] @ kernels[0].T / len(mean)).numpy()


@torch.no_grad()
def schedule(subject: Subject) -> Html:
    """gamma, alpha and sigma over time, and the variance of the reverse process if it is learned."""
    model = subject.model
    steps = model.process.schedule.steps
    t = torch.linspace(0, 1, 101 if steps is None else steps + 1, device=model.reference.device).to(model.reference)
    noise = model.process.schedule(t)
    times = t.tolist()

    def curves(values: Tensor, name: str, colour: int) -> list[Curve]:
        """One curve, or one of each of the first channels."""
        columns = values.reshape(len(times), -1)[:, :4].T.tolist()
        names = [name] if len(columns) == 1 else [f"{name}, channel {k + 1}" for k in range(len(columns))]
        return [
            Curve(n, list(zip(times, column, strict=True)), colour + k, dashed=k > 0)
            for k, (n, column) in enumerate(zip(names, columns, strict=True))
        ]

    kind = type(model.process.schedule).__name__
    gamma = line_chart(curves(noise.gamma, "gamma", 0), "t", "gamma", "gamma by time")
    both = [*curves(noise.alpha, "alpha", 0), *curves(noise.sigma, "sigma", 1)]
    factors = line_chart(both, "t", "", "alpha and sigma by time", y_range=(0.0, 1.0))
    parts = [
        figure(gamma, f"{kind}: gamma, the logarithm of sigma squared over alpha squared."),
        figure(factors, "alpha, the factor of F(x, t), and sigma, that of the noise."),
    ]
    found = variance(subject)
    if found is not None:
        parts.append(found)
    text = [] if found is not None else [note("The model does not learn the variance of the reverse process.")]
    return joined([side_by_side(*parts), *text])


def variance(subject: Subject) -> Html | None:
    """The standard deviation of the reverse process with the learned variance and without; None if none is learned."""
    model = subject.model
    steps = model.process.schedule.steps or subject.run.sampling_steps
    x = model.encode(spread(subject.validation, 32))
    q, generator = model.process(x), seeded(subject.seed)
    learned, plain = [], []
    for k in range(1, steps + 1, max(1, steps // 50)):
        s, t = full_times((k - 1) / steps, x), full_times(k / steps, x)
        z = q.marginal(t).sample(generator)
        if model.predictor(z, t, model.process).variance is None:
            return None
        learned.append((k / steps, model(z, t).posterior(z, s, t).std.mean().item()))
        plain.append((k / steps, q.posterior(z, s, t).std.mean().item()))
    chart = line_chart([Curve("learned", learned, 0), Curve("of the forward process", plain, 1, dashed=True)],
                       "t", "standard deviation", "standard deviation of the reverse process", log=True)  # fmt: skip
    return figure(chart, f"The standard deviation of a reverse step of 1/{steps} from time t, a mean over {len(x)} "
                         "validation rows and all elements.")  # fmt: skip

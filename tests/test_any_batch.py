"""Any batch at all gives the figures of a plain float64 computation, or is refused in one line.

The model predicts x = 0, so that the bound in one step and the likelihood have closed forms, written here in NumPy.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import ndm

DIM, MEAN, STD, LEVELS, START, END = 2, 1.5, 2.0, 5, -5.0, 5.0
EXHAUSTIVE = settings(
    derandomize=True, max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
sigmoid = lambda g: 1 / (1 + math.exp(-g))  # noqa: E731


class Nothing(nn.Module):
    """A network of one weight, which gives the model a dtype, and of output zero."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float32))
        self.shape = (DIM,)

    def forward(self, z, t):
        return self.weight * z


def make(decoder, dtype):
    process = ndm.ForwardProcess(ndm.LinearSchedule(START, END))
    return ndm.NDM(process, ndm.Predictor(Nothing(), "x"), decoder).to(dtype)


def one_step(x_model):
    """The prior and the diffusion term of the bound in one step, nats per row."""
    prior = (sigmoid(-END) * x_model**2 + sigmoid(END) - 1 - math.log(sigmoid(END))) / 2
    return prior.sum(1), ((math.exp(-START) - math.exp(-END)) * x_model**2 / 2).sum(1)


def log_density(x_model):
    """log p(x) under the ODE, which scales z by sigma_t."""
    scale = math.sqrt(sigmoid(END) / sigmoid(START))
    z_1 = math.sqrt(sigmoid(-START)) * x_model * scale
    constant = math.log(scale) + 0.5 * math.log(sigmoid(-START)) - math.log(STD) - 0.5 * math.log(2 * math.pi)
    return (constant - z_1**2 / 2).sum(1)


KINDS = [*np.typecodes["AllFloat"], *np.typecodes["AllInteger"], "?", "F", "O"]
NUMBERS = st.one_of(
    st.integers(0, LEVELS - 1), st.integers(-(2**63), 2**64 - 1), st.floats(-10, 10), st.floats(), st.just(1.7e9)
)
SHAPES = st.one_of(st.tuples(st.integers(1, 4), st.just(DIM)), st.lists(st.integers(0, 4), max_size=4).map(tuple))


@st.composite
def batches(draw):
    """Arrays and tensors of any kind, shape and layout, as a user might have them."""
    kind, shape = draw(st.sampled_from(KINDS)), draw(SHAPES)
    size = math.prod(shape)
    values = draw(st.lists(NUMBERS, min_size=size, max_size=size))
    wide = np.array(values, dtype=object).reshape(shape)
    with np.errstate(all="ignore"):
        try:
            array = wide.astype(kind)
        except (OverflowError, ValueError):  # a NaN or a large number has no such integer
            array = np.array([draw(st.integers(0, LEVELS)) for _ in values], dtype=kind).reshape(shape)
    layout = draw(st.sampled_from(["plain", "strided", "transposed", "backwards", "swapped", "read-only"]))
    if layout == "strided":
        array = np.repeat(array, 2, axis=0)[::2] if array.ndim else array
    elif layout == "transposed":
        array = np.ascontiguousarray(array.T).T
    elif layout == "backwards":
        array = np.flip(np.ascontiguousarray(np.flip(array)))
    elif layout == "swapped" and kind != "O":
        array = array.astype(array.dtype.newbyteorder("S"))
    elif layout == "read-only":
        array = array.copy()
        array.flags.writeable = False
    if draw(st.booleans()) or kind == "O":
        return array
    try:
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    except TypeError:  # torch has no such kind
        return array


def plain(x):
    """The rows in float64, or None if they are no finite real rows of the model's shape."""
    array = x.numpy() if isinstance(x, torch.Tensor) else x
    if array.dtype.kind not in "iuf" or array.ndim != 2 or array.shape[1] != DIM or len(array) == 0:
        return None
    with np.errstate(all="ignore"):
        wide = array.astype(np.float64)
    return wide if np.isfinite(wide).all() else None


def outcome(call):
    """The result, or None if it is refused in one line."""
    try:
        return call()
    except ndm.InputError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1 and lines[0]
    return None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@EXHAUSTIVE
@given(x=batches())
def test_real_rows_have_their_figures_or_are_refused(dtype, x):
    model, rows = make(ndm.GaussianDecoder(MEAN, STD), dtype), plain(x)
    solver = ndm.Solver("dopri5", rtol=1e-3, atol=1e-4)
    encoded = outcome(lambda: model.encode(x))
    bound = outcome(lambda: ndm.bound(model, x, steps=1))
    log_prob = outcome(lambda: ndm.log_prob(model, x, solver=solver))
    if rows is None:
        assert encoded is None and bound is None and log_prob is None
        return
    x_model = (rows - MEAN) / STD
    if np.abs(x_model).max() < 1e6:
        assert encoded is not None and bound is not None and log_prob is not None
    constant = DIM * ((math.log(2 * math.pi) + START + 1) / 2 + math.log(STD))
    for found, expected in (
        (encoded, x_model),
        (bound and bound.total, sum(one_step(x_model)) + constant),
        (log_prob, log_density(x_model)),
    ):
        if found is not None:
            assert found.dtype == dtype
            np.testing.assert_allclose(found.detach().double().numpy(), expected, rtol=2e-3, atol=2e-3)


@EXHAUSTIVE
@given(x=batches())
def test_levels_have_their_figures_or_are_refused(x):
    model, rows = make(ndm.CategoricalDecoder(LEVELS), torch.float32), plain(x)
    bound = outcome(lambda: ndm.bound(model, x, steps=1))
    log_prob = outcome(lambda: ndm.log_prob(model, x, solver=ndm.Solver("rk4", 2)))
    fits = rows is not None and bool(((rows >= 0) & (rows < LEVELS) & (rows == rows.round())).all())
    assert (bound is not None) == (log_prob is not None) == fits
    if fits:
        expected = one_step((2 * rows + 1) / LEVELS - 1)
        for found, truth in zip(bound[:2], expected, strict=True):
            np.testing.assert_allclose(found.detach().double().numpy(), truth, rtol=1e-4, atol=1e-4)
        assert bound.reconstruction.isfinite().all() and (bound.reconstruction >= 0).all()
        assert log_prob.isfinite().all()


COUNTS = st.one_of(st.integers(-2, 4), st.floats(), st.booleans(), st.none(), st.text(max_size=2))


@EXHAUSTIVE
@given(shape=st.one_of(COUNTS, st.lists(COUNTS, max_size=3), st.tuples(st.integers(1, 4), st.just(DIM))))
def test_samples_have_the_shape_that_is_asked_for_or_it_is_refused(shape):
    model = make(ndm.GaussianDecoder(MEAN, STD), torch.float32)
    drawn = outcome(lambda: ndm.sample(model, shape, steps=1))
    whole = lambda n: isinstance(n, int) and not isinstance(n, bool) and n > 0  # noqa: E731
    rows = shape if whole(shape) else shape[0] if isinstance(shape, (list, tuple)) and len(shape) == 2 else None
    fits = whole(rows) and (whole(shape) or (whole(shape[1]) and shape[1] == DIM))
    assert (drawn is not None) == fits
    if fits:
        assert drawn.shape == (rows, DIM) and drawn.isfinite().all()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 4.2e9), (torch.float64, 1.1e77)])
def test_numbers_whose_squares_would_overflow_are_refused(dtype, limit):
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,), width=8)), ndm.GaussianDecoder()).to(dtype)
    x = torch.tensor([[0.0, 1.0], [limit, 0.0]], dtype=dtype)
    assert ndm.bound(model, x).total.isfinite().all()
    with pytest.raises(ndm.InputError, match="standard deviations from the mean .row 1."):
        ndm.bound(model, 1.2 * x)

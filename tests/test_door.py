"""The door for data: what a user passes in is computed right, or refused in one line that says what it is."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

import ndm
from ndm.likelihood import value_and_divergence
from ndm.sampling import velocity_field

from conftest import SmoothNet

QUICK = ndm.Solver("rk4", 2)
GENERATOR = lambda: torch.Generator().manual_seed(0)  # noqa: E731


def small_model(decoder=None, shape=(3,), transform=None, dropout=0.0, dtype=torch.float32):
    torch.manual_seed(0)
    net = ndm.nn.MLP(shape, width=8, depth=1, dropout=dropout)
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0), transform)
    return ndm.NDM(process, ndm.Predictor(net), decoder or ndm.GaussianDecoder()).to(dtype)


def figures(model, x):
    """The bound in continuous and discrete time, and the likelihood, of seeded draws."""
    return torch.stack([
        ndm.bound(model, x, generator=GENERATOR()).total.detach(),
        ndm.bound(model, x, steps=4, generator=GENERATOR()).total.detach(),
        ndm.log_prob(model, x, solver=QUICK, generator=GENERATOR()),
    ])  # fmt: skip


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, ">f8", np.int64, np.uint8, np.uint16, np.uint64])
def test_rows_from_numpy_or_in_another_precision_count_the_same(kind):
    model = small_model()
    rows = np.array([[0, 1, 2], [3, 1, 0]], dtype=kind)
    expected = figures(model, torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]], dtype=torch.float32))
    assert torch.equal(figures(model, rows), expected)
    assert torch.equal(figures(model, np.flip(np.flip(rows, 1), 1)), expected)  # negative strides
    if np.dtype(kind).isnative:
        assert torch.equal(figures(model, torch.from_numpy(rows)), expected)


def test_uint8_pictures_of_256_levels_have_a_bound():
    """256 does not fit into uint8, so that no comparison with it may be made there."""
    x = torch.tensor([[0, 128, 255]], dtype=torch.uint8)
    decoder = ndm.CategoricalDecoder(256)
    assert torch.equal(decoder.encode(x), decoder.encode(x.long()))
    model = small_model(decoder)
    assert torch.equal(figures(model, x), figures(model, x.long()))
    with pytest.raises(ndm.InputError, match=r"integers 0\.\.99 .* got values in \[0, 255\]"):
        ndm.bound(small_model(ndm.CategoricalDecoder(100)), x)


REFUSED = [
    (torch.zeros(2, 3, dtype=torch.complex64), "got complex64 values"),
    (torch.zeros(2, 3, dtype=torch.bool), "got bool values"),
    (torch.zeros(2, 3).to_sparse(), "must be a plain tensor"),
    (np.zeros((2, 3), dtype=bool), "NumPy array of bool"),
    (np.zeros((2, 3), dtype=complex), "NumPy array of complex128"),
    (np.array([["a", "b", "c"]]), "NumPy array of <U1"),
    (np.array([[None, 1.0, 2.0]], dtype=object), "NumPy array of object"),
    (np.ma.masked_array(np.zeros((2, 3)), mask=np.eye(2, 3)), "masked array"),
    (np.array([[2**64 - 1, 0, 0]], dtype=np.uint64), "integers above"),
    ([[0.0, 1.0, 2.0]], "NumPy array, got list"),
    (torch.zeros(2, 1), r"\(batch, 3\).*got \(2, 1\)"),
    (torch.zeros(2, 4), r"\(batch, 3\).*got \(2, 4\)"),
    (torch.zeros(2, 1, 3), r"\(batch, 3\).*got \(2, 1, 3\)"),
    (torch.zeros(3), r"\(batch, 3\).*got \(3,\)"),
    (torch.zeros(0, 3), r"at least one row, got \(0, 3\)"),
    (torch.tensor([[0.0, 1.0, 2.0], [0.0, torch.nan, 2.0]]), "not finite in 1 of 2 rows.*row 1"),
    (torch.tensor([[torch.inf, 0.0, 0.0]]), "not finite in 1 of 1 rows"),
]


@pytest.mark.parametrize(("x", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_what_is_no_batch_of_rows_is_refused_with_its_kind(x, message):
    model = small_model()
    for call in (ndm.bound, ndm.log_prob, ndm.NDM.encode):
        with pytest.raises(ndm.InputError, match=message) as error:
            call(model, x)
        assert "\n" not in str(error.value)


def test_a_time_stamp_keeps_its_digits():
    """Rounded to float32 the mean moves by 50 seconds and more; the standard deviation here is one second."""
    torch.set_default_dtype(torch.float32)
    stamps = 1.7e9 + torch.randn(5, 1, dtype=torch.float64, generator=GENERATOR())
    mean = torch.tensor([1.7e9 + 0.25], dtype=torch.float64)
    model = small_model(ndm.GaussianDecoder(mean, torch.ones(1)), shape=(1,))
    expected = (stamps - mean).float()
    for model in (model, model.double().float(), small_model(ndm.GaussianDecoder(1.7e9 + 0.25), shape=(1,))):  # noqa: B020
        assert torch.equal(model.encode(stamps), expected)
    seconds = torch.tensor([[1_700_000_000], [1_700_000_003]])
    assert torch.equal(model.encode(seconds), torch.tensor([[-0.25], [2.75]]))
    drawn = ndm.sample(model, 4, steps=5, generator=GENERATOR())
    assert drawn.dtype == torch.float64 and (drawn - mean).abs().max() < 20 and len(drawn.unique()) == 4


def test_statistics_are_saved_and_loaded_exactly(tmp_path):
    torch.set_default_dtype(torch.float32)
    for given in (torch.tensor([1.7e9 + 0.1], dtype=torch.float64), torch.tensor([0.3])):
        model = small_model(ndm.GaussianDecoder(given, given), shape=(1,))
        model.save_pretrained(tmp_path)
        loaded = ndm.NDM.from_pretrained(tmp_path)
        for decoder in (model.decoder, loaded.decoder, model.to(torch.float16).decoder):
            assert decoder.mean.dtype == given.dtype and torch.equal(decoder.mean, given)
            assert torch.equal(decoder.std, given)


def test_statistics_keep_their_digits_through_a_state_dict():
    torch.set_default_dtype(torch.float32)
    exact = ndm.GaussianDecoder(torch.tensor([1.7e9 + 0.1], dtype=torch.float64))
    plain = ndm.GaussianDecoder(torch.zeros(1))
    plain.load_state_dict(exact.state_dict())
    assert torch.equal(plain.mean, exact.mean) and plain.std.dtype == torch.float32


@pytest.mark.parametrize(
    ("statistic", "message"),
    [
        (torch.full((3,), torch.nan), r"std is not finite in 3 of 3.*only one row"),
        ([1.0, float("nan")], r"std is not finite in 1 of 2 elements \(first: element 1\).*NaN"),
        (float("inf"), "std is not finite"),
        ([1.0, 0.0], "element 1 is 0: constant columns"),
        ([1.0, -2.0], "element 1 is -2"),
        ("wide", "std must be a number"),
        (torch.ones(2, dtype=torch.complex64), "got complex64 values"),
    ],
)
def test_the_cause_of_useless_statistics_is_named(statistic, message):
    with pytest.raises(ndm.InputError, match=message):
        ndm.GaussianDecoder(std=statistic)
    with pytest.raises(ndm.InputError, match="mean is not finite"):
        ndm.GaussianDecoder(mean=[0.0, float("nan")])


def test_a_mean_per_channel_must_not_fall_on_the_width():
    x = torch.rand(2, 3, 3, 3)
    mean = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(ndm.GaussianDecoder(mean[:, None, None]).encode(x), x - mean[:, None, None])
    for decoder in (ndm.GaussianDecoder(mean), ndm.GaussianDecoder(std=mean)):
        with pytest.raises(ndm.InputError, match=r"shape \(3,\) .* rows of shape \(3, 3, 3\)"):
            decoder.encode(x)
    with pytest.raises(ndm.InputError, match=r"shape \(3,\) .* rows of shape \(1,\)"):
        ndm.GaussianDecoder(mean).encode(torch.zeros(2, 1))  # would broadcast to (2, 3)


def test_a_model_knows_the_shape_of_its_rows():
    assert small_model(shape=(1, 2, 2)).shape == (1, 2, 2) and "shape=(3,)" in repr(small_model())
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    foreign = ndm.NDM(process, ndm.Predictor(SmoothNet(3, 3)), ndm.GaussianDecoder())
    told = ndm.NDM(process, ndm.Predictor(SmoothNet(3, 3)), ndm.GaussianDecoder(), shape=[3])
    assert foreign.shape is None and told.shape == (3,)
    with pytest.raises(ndm.InputError, match=r"\(batch, 3\)"):
        ndm.bound(told, torch.zeros(2, 2))
    with pytest.raises(ndm.InputError, match=r"shape \(4,\) of a sample gives latents of shape \(4,\)"):
        ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((3,))), ndm.GaussianDecoder(), shape=(4,))
    assert ndm.sample(told, 2, steps=2).shape == (2, 3)
    with pytest.raises(ndm.InputError, match=r"pass \(2, \*shape\)"):
        ndm.sample(foreign, 2, steps=2)


def test_samples_by_their_number_or_their_shape():
    model = small_model()
    whole = ndm.sample(model, (4, 3), steps=3, generator=GENERATOR())
    for shape in (4, np.int64(4), [4, 3], torch.Size([4, 3])):
        assert torch.equal(ndm.sample(model, shape, steps=3, generator=GENERATOR()), whole)
    for shape in ((3,), (4, 2), (4, 1, 3), (0, 3), (-1, 3), (2.5, 3), 0, 2.5, True, "4", None, ()):
        with pytest.raises(ndm.InputError, match="shape must be"):
            ndm.sample(model, shape, steps=3)


def test_a_model_in_training_mode_with_dropout_has_no_likelihood():
    x = torch.randn(2, 3, dtype=torch.float32)
    model = small_model(dropout=0.2)
    for call in (ndm.log_prob, ndm.ode_likelihood):
        with pytest.raises(ndm.InputError, match=r"training mode, where Dropout .*call model.eval\(\) first"):
            call(model, x)
    for solver in ("dopri5", "ancestral", "stochastic_heun"):
        with pytest.raises(ndm.InputError, match=r"call model.eval\(\) first"):
            ndm.sample(model, 2, solver=solver)
    assert ndm.bound(model, x).total.isfinite().all()  # this is the loss
    assert ndm.log_prob(model.eval(), x, solver=QUICK).isfinite().all()
    assert ndm.log_prob(small_model(), x, solver=QUICK).isfinite().all()  # fresh, in training mode, nothing random


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.RReLU(), nn.AlphaDropout(0.1)], ids=lambda m: type(m).__name__)
def test_a_network_of_ones_own_with_random_layers_has_no_likelihood_in_training_mode(layer):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer.train()

        def forward(self, z, t):
            return self.layer(z)

    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    model = ndm.NDM(process, ndm.Predictor(Own()), ndm.GaussianDecoder())
    with pytest.raises(ndm.InputError, match=type(layer).__name__):
        ndm.log_prob(model, torch.zeros(2, 3))
    assert ndm.log_prob(model.eval(), torch.zeros(2, 3), solver=QUICK).shape == (2,)


def test_inference_mode_has_likelihoods_and_samples():
    model = small_model(transform=ndm.Network(SmoothNet(3, 3)))
    x = torch.randn(2, 3, dtype=torch.float32)
    expected = ndm.log_prob(model, x, solver=QUICK)
    with torch.inference_mode():
        inside = x.clone()
        for rows in (x, inside):
            torch.testing.assert_close(ndm.log_prob(model, rows, solver=QUICK), expected)
            _, divergence = value_and_divergence(velocity_field(model), torch.full((2,), 0.5).to(rows), rows)
            assert divergence.isfinite().all()
        made_here = small_model()
        assert ndm.log_prob(made_here, inside, solver=QUICK).isfinite().all()
        assert ndm.bound(model, inside).total.isfinite().all()
        assert ndm.sample(model, 2, solver=QUICK).shape == (2, 3)


def test_a_wrapped_model_is_refused_with_the_way_inside():
    wrapped = nn.DataParallel(small_model())
    for call in (
        lambda m: ndm.bound(m, torch.zeros(2, 3)),
        lambda m: ndm.log_prob(m, torch.zeros(2, 3)),
        lambda m: ndm.sample(m, 2),
    ):
        with pytest.raises(ndm.InputError, match="got DataParallel: pass the model inside, its attribute module"):
            call(wrapped)
        with pytest.raises(ndm.InputError, match="got MLP"):
            call(ndm.nn.MLP((3,)))


def test_threads_share_a_model_whose_transform_differentiates_forward():
    model = small_model(transform=ndm.Network(SmoothNet(3, 3)))
    x = torch.randn(2, 3, dtype=torch.float32)
    expected, found, errors = ndm.bound(model, x, generator=GENERATOR()).total, [], []

    def work():
        try:
            found.extend(ndm.bound(model, x, generator=GENERATOR()).total for _ in range(20))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors and len(found) == 80
    assert all(torch.equal(total, expected) for total in found)


def test_the_divergence_of_large_rows_takes_its_passes_in_parts(monkeypatch):
    """The answer stays the same, and no batch of passes has more elements than it may."""
    torch.manual_seed(0)
    matrix, sizes = torch.randn(300, 300), []
    field = lambda t, z: (z @ matrix).tanh()  # noqa: E731
    z, t = torch.randn(2, 300), torch.rand(2)
    grad = torch.autograd.grad

    def recorded(outputs, inputs, grad_outputs, **options):
        sizes.append(grad_outputs.numel())
        return grad(outputs, inputs, grad_outputs, **options)

    monkeypatch.setattr("torch.autograd.grad", recorded)
    _, whole = value_and_divergence(field, t, z)
    assert sizes == [300 * 2 * 300]
    sizes.clear()
    monkeypatch.setattr("ndm.likelihood.PASS_ELEMENTS", 2**14)
    _, parts = value_and_divergence(field, t, z)
    assert len(sizes) > 1 and max(sizes) <= 2**14
    torch.testing.assert_close(parts, whole)
    truth = (1 - field(t, z) ** 2) @ matrix.diagonal()
    torch.testing.assert_close(parts, truth)
    y = z.clone().requires_grad_()
    (score,) = grad(value_and_divergence(field, t, y)[1].sum(), y)
    monkeypatch.setattr("ndm.likelihood.PASS_ELEMENTS", 2**20)
    torch.testing.assert_close(score, grad(value_and_divergence(field, t, y)[1].sum(), y)[0])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_nanosecond_stamps_a_few_nanoseconds_apart_are_refused_and_not_made_equal(dtype):
    stamps = torch.tensor([[1_700_000_000_000_000_001], [1_700_000_000_000_000_050]]).to(dtype)
    model = small_model(ndm.GaussianDecoder(1.7e18, 100.0), shape=(1,))
    for call in (model.encode, model.decoder.encode, lambda x: ndm.bound(model, x)):
        with pytest.raises(ndm.InputError, match="3.8 standard deviations apart.*subtract an offset"):
            call(stamps)
    with pytest.raises(ndm.InputError, match="standard deviations apart"):
        ndm.sample(model, 2, steps=2)
    hours = small_model(ndm.GaussianDecoder(1.7e18, 3.6e12), shape=(1,)).encode(stamps)
    assert hours.abs().max() < 1e-9


def test_whole_numbers_beyond_float32_are_encoded_by_the_decoder_alone_and_drawn_apart():
    """The mean 2^31 is exact in float32, where the next number is 256 standard deviations away."""
    decoder = ndm.GaussianDecoder(2.0**31, 1.0)
    stamps = torch.tensor([[2**31 + 1], [2**31 + 2]])
    model = small_model(decoder, shape=(1,)).double().float()
    for call in (ndm.GaussianDecoder(2.0**31, 1.0).encode, model.encode):
        assert torch.equal(call(stamps).double(), torch.tensor([[1.0], [2.0]], dtype=torch.float64))
    assert len(ndm.sample(model, 4, steps=2).unique()) == 4
    with pytest.raises(ndm.InputError, match="pass data in float64"):
        model.encode(stamps.float())


@pytest.mark.parametrize("shape", [(4, 1), (7, 2, 2), (3,)])
@pytest.mark.parametrize("solver", ["ancestral", "rk4", "euler_maruyama"])
def test_statistics_that_do_not_fit_the_rows_give_no_samples(shape, solver):
    model = small_model(ndm.GaussianDecoder(torch.zeros(shape), torch.ones(shape)), shape=(2,))
    with pytest.raises(ndm.InputError, match="does not fit rows of shape"):
        ndm.sample(model, 4, steps=2, solver=solver)
    with pytest.raises(ndm.InputError, match="does not fit rows of shape"):
        model.decoder.decode(torch.zeros(4, 2), model.process)


def test_a_mean_without_values_is_refused():
    for mean in (torch.eye(2).to_sparse(), torch.zeros(2, device="meta")):
        with pytest.raises(ndm.InputError, match="mean must be a plain tensor that holds its values"):
            ndm.GaussianDecoder(mean)


def test_a_masked_tensor_is_refused():
    with pytest.warns(UserWarning, match="prototype"):
        x = torch.masked.masked_tensor(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ndm.InputError, match="must not be a masked tensor"):
        ndm.bound(small_model(), x)


def test_a_network_that_is_no_module_is_refused():
    for make in (lambda: ndm.Predictor("mlp"), lambda: ndm.TimeBasis("mlp", 2), lambda: ndm.Network(ndm.nn.MLP)):
        with pytest.raises(ndm.InputError, match="net must be a torch module"):
            make()

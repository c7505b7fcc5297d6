"""Rows with known symbols: the conditional distribution by enumeration, and what is no row of codes."""

import pytest
import torch

import ndm
from ndm.embedding import embedding_of
from ndm.filling import chosen, drawn_again
from ndm.predictor import BasePredictor, Prediction

V, D, N = 3, 2, 3


class Exact(BasePredictor):
    """The exact probabilities of all symbols of rows with a known distribution."""

    def __init__(self, log_p):
        super().__init__(torch.nn.Identity())
        self.levels = V
        self.log_p = log_p
        self.rows = torch.cartesian_prod(*[torch.arange(V)] * N)
        self.hot = torch.eye(V)[self.rows]  # (V^N, N, V)

    def forward(self, z_t, t, process):
        alone = embedding_of(process).log_likelihoods(z_t, t, process)
        p = (self.log_p + torch.einsum("bvn,mnv->bm", alone, self.hot)).softmax(1)
        return Prediction(torch.einsum("bm,mnv->bvn", p, self.hot), None, None)


def exact_model(eta=1.0, clock=None):
    """A model whose reverse process is that of its forward process, and its probabilities of all rows: neighbours are
    mostly equal, and 1 is rare."""
    torch.manual_seed(0)
    x = torch.cartesian_prod(*[torch.arange(V)] * N)
    log_p = (2.5 * (x[:, 1:] == x[:, :-1]).sum(1) - 1.5 * (x == 1).sum(1) + 0.3 * torch.randn(V**N)).log_softmax(0)
    embedding = ndm.Embedding((V,), dim=D, num_basis=1)
    torch.nn.init.normal_(embedding.moves, std=0.3)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-8.0, 6.0), embedding, eta, "noise", clock)
    return ndm.NDM(process, Exact(log_p), ndm.SymbolDecoder(V, "abc"), shape=(N,)).eval(), log_p.exp()


def distance(model, p, codes, known, particles):
    """Half of the sum of differences between frequencies of filled rows and their conditional probabilities."""
    rows = model.predictor.rows
    p = torch.where((rows[:, known] == codes[known]).all(1), p, 0.0)
    generator = torch.Generator().manual_seed(0)
    x = ndm.infill(model, codes, known, 1500, steps=40, particles=particles, generator=generator)
    found = torch.bincount(x @ torch.tensor([V**2, V, 1]), minlength=V**N) / len(x)
    assert (x[:, known] == codes[known]).all()
    return float((found - p / p.sum()).abs().sum() / 2)


@pytest.mark.parametrize(
    ("known", "codes"),
    [([True, False, False], [1, 2, 0]), ([False, True, True], [1, 2, 0]), ([True, False, True], [1, 1, 1])],
)
def test_what_is_filled_in_has_the_conditional_distribution(known, codes):
    """1,500 draws of it are off by 0.01 to 0.02. What one particle gives is off by more."""
    model, p = exact_model()
    one, many = (distance(model, p, torch.tensor(codes), torch.tensor(known), count) for count in (1, 16))
    assert many < 0.035 and one > 2 * many


@pytest.mark.parametrize("clock", [None, ndm.LearnedSchedule(-8.0, 6.0)])
def test_eta_changes_nothing(clock):
    """A path of the known places with another eta would not be that of the reverse process."""
    codes, known = torch.tensor([1, 1, 1]), torch.tensor([True, False, True])
    one, two = (
        ndm.infill(exact_model(*of)[0], codes, known, 50, 10, generator=torch.Generator().manual_seed(0))
        for of in ((1.0, None), (4.0, clock))
    )
    assert torch.equal(one, two)


def test_no_graph_of_the_steps_is_kept(monkeypatch):
    model, _ = exact_model()
    seen = []
    monkeypatch.setattr("ndm.filling.check_finite", lambda model, z_0: seen.append(z_0))
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            ndm.infill(model, torch.tensor([1, 1, 1]), torch.tensor([True, False, True]), 2, 3)
    assert len(seen) == 3 and not any(z_0.requires_grad for z_0 in seen)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_given_codes_is_not_that_of_samples(dtype):
    model, _ = exact_model()
    known = torch.tensor([True, False, True])
    x = ndm.infill(model, torch.tensor([1, 0, 2]).to(dtype), known, 4, 3, generator=torch.Generator().manual_seed(0))
    assert x.dtype == torch.long and (x[:, known] == torch.tensor([1, 2])).all()


def test_a_predictor_that_does_not_look_guides_nothing():
    model, _ = exact_model()

    class Flat(BasePredictor):
        levels = V

        def forward(self, z_t, t, process):
            return Prediction(torch.full((len(z_t), V, N), 1 / V), None, None)

    flat = ndm.NDM(model.process, Flat(torch.nn.Identity()), model.decoder, shape=(N,)).eval()
    x = ndm.infill(flat, torch.tensor([1, 0, 2]), torch.tensor([True, False, True]), 4, 3)
    assert (x[:, 0] == 1).all()


def test_nothing_known_is_the_model_itself():
    model, p = exact_model()
    assert distance(model, p, torch.zeros(N, dtype=torch.long), torch.zeros(N, dtype=torch.bool), 2) < 0.07


def test_everything_known_is_the_row():
    model, _ = exact_model()
    codes = torch.tensor([1, 2, 0])
    assert (ndm.infill(model, codes, torch.ones(N, dtype=torch.bool), 3, steps=4) == codes).all()


def test_systematic_draws_have_the_number_that_their_probability_says():
    generator = torch.Generator().manual_seed(0)
    w = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).expand(1000, 4)
    counts = torch.nn.functional.one_hot(chosen(w, 8, generator), 4).sum(1)
    assert (counts == torch.tensor([4, 2, 1, 1])).all()
    one = torch.nn.functional.one_hot(chosen(w, 1, generator)[:, 0], 4).to(w.dtype).mean(0)
    torch.testing.assert_close(one, w[0], atol=0.05, rtol=0)
    assert (chosen(torch.tensor([[0.0, 1.0, 0.0]]).expand(100, 3), 5, generator) == 1).all()


def test_particles_are_drawn_again_where_few_are_in_effect():
    z = torch.arange(12.0).view(12, 1)
    log_w = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -50.0, -50.0, -50.0], [0.0, 0.1, 0.0, 0.2]])
    again, left = drawn_again(z, log_w, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again[:, 0], torch.tensor([0, 1, 2, 3, 4, 4, 4, 4, 8, 9, 10, 11.0]))
    torch.testing.assert_close(left, torch.tensor([[0.0] * 4, [0.0] * 4, [0.0, 0.1, 0.0, 0.2]]))


def test_filling_in_needs_symbols_and_rows_of_the_model():
    model, _ = exact_model()
    codes, known = torch.tensor([1, 9, 0]), torch.tensor([True, False, True])
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    numbers = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,))), ndm.GaussianDecoder(), shape=(2,))
    bare = ndm.NDM(model.process, model.predictor, model.decoder)
    net = torch.nn.Linear(1, 1)
    aimed = ndm.NDM(model.process, ndm.Predictor(net, target=True), model.decoder, shape=(N,))
    with torch.inference_mode():
        made_there = ndm.NDM(model.process, ndm.SymbolPredictor(torch.nn.Linear(1, 1), V), model.decoder, shape=(N,))
    for bad, message in [
        ((bare, codes, known, 1), r"make it with NDM\(..., shape=shape\)"),
        ((aimed, codes, known, 1), "predicts probabilities of symbols"),
        ((made_there, codes, known, 1), "inference_mode"),
        ((model, codes.to_sparse(), known, 1), "dense tensors"),
        ((model, codes, known, 10**14), "do not fit into the memory"),
        ((model, codes, known, 10**9, 5, 10**12), "do not fit into the memory"),
        ((numbers, torch.zeros(2), torch.ones(2, dtype=torch.bool), 1), "only a model of symbols"),
        ((None, codes, known, 1), "model must be a NDM"),
        ((model, codes[:2], known, 1), r"shape \(3,\)"),
        ((model, codes, known[:2], 1), r"shape \(3,\)"),
        ((model, codes, known.long(), 1), "known must be bool"),
        ((model, [1, 0, 0], known, 1), "codes must be a Tensor"),
        ((model, codes.to("meta"), known, 1), "that hold values"),
        ((model, codes + 2, known, 1), "codes 0..2"),
        ((model, codes, known, 0), "num must be"),
        ((model, codes, known, 1, 5, 0), "particles must be"),
        ((model, codes, known, 1, 0), "steps"),
    ]:
        with pytest.raises(ndm.InputError, match=message):
            ndm.infill(*bad)
    assert (ndm.infill(model, codes, known, 4, steps=3)[:, known] == codes[known]).all()

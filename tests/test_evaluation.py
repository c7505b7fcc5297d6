"""Evaluation: the reported numbers are the means and standard errors of what the library computes."""

import math
from dataclasses import replace

import pytest
import torch

import ndm
from ndm import Solver
from ndm.demo import headline
from ndm.evaluation import Estimate, Protocol, choose_protocols, evaluate
from ndm.evaluation.diagnosis import diagnose, jacobian_norm, report
from ndm.evaluation.motion import motion_of
from ndm.evaluation.pieces import make_pieces
from ndm.solvers import Failures
from ndm.support.journal import Journal
from ndm.support.tensors import seeded

from conftest import SmoothNet

ROUGH = Solver(rtol=1e-2, atol=1e-2)


def model():
    net = ndm.nn.MLP((3,), width=8, depth=1)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-4.0, 5.0))
    return ndm.NDM(process, ndm.Predictor(net), ndm.CategoricalDecoder(5)).eval()


@pytest.mark.parametrize("steps", [5, None])
def test_bound_is_the_mean_of_its_passes(steps):
    m, x = model(), torch.randint(5, (6, 3))
    generator = seeded(2, 0)
    passes = [ndm.bound(m, x, steps, generator=generator) for _ in range(3)]
    rows = torch.stack([b.total for b in passes]).mean(0) / (3 * math.log(2))
    e = evaluate(m, x, Protocol("bound", steps, passes=3, seed=2))
    assert e.bpd == pytest.approx(rows.mean().item())
    prior = torch.stack([b.prior for b in passes]).mean().item() / (3 * math.log(2))
    assert (e.prior, e.rows, e.samples, e.nfe) == (pytest.approx(prior), 6, 3, 3)
    assert e.bpd == pytest.approx(e.prior + e.diffusion + e.reconstruction)
    assert e.estimator == ("bound, continuous time" if steps is None else "bound, T=5")


@pytest.mark.parametrize("estimator", ["ode", "ode-uniform"])
def test_ode_is_log_prob_with_its_samples_and_tolerances(estimator):
    m, x = model(), torch.randint(5, (6, 3))
    e = evaluate(m, x, Protocol(estimator, samples=4, solver=Solver(rtol=1e-2, atol=1e-3), seed=2))
    dequantization = {"ode": "decoder", "ode-uniform": "uniform"}[estimator]
    options = {"samples": 4, "solver": Solver(rtol=1e-2, atol=1e-3), "generator": seeded(2, 0)}
    result = ndm.ode_likelihood(m, x, dequantization=dequantization, **options)
    assert e.nats == pytest.approx(-result.log_prob.mean().item(), rel=1e-12)
    assert e.bpd == pytest.approx(-ndm.bits_per_dim(result.log_prob, x).mean().item(), rel=1e-12)
    assert (e.nfe, e.divergence_nfe) == (result.nfe.mean().item(), result.divergence_nfe.mean().item())
    for text in ("4 importance samples", "rtol 0.01", "exact divergence", {"ode": "decoder"}.get(estimator, "uniform")):
        assert text in e.estimator


def test_pieces_cover_every_row_once_and_an_interrupted_evaluation_ends_with_the_same_figures(tmp_path, monkeypatch):
    """The evaluation stops after each number of pieces in turn and then resumes.

    The last line of the journal is cut in half.
    """
    monkeypatch.setattr("ndm.evaluation.pieces.ROWS", {"bound": 4, "ode": 4, "ode-uniform": 4})
    m, x = model(), torch.randint(5, (10, 3))
    for protocol in (Protocol("bound", 5, passes=2), Protocol("ode", solver=ROUGH)):
        whole = replace(evaluate(m, x, protocol), seconds=0.0)
        assert whole.rows == 10
        for stop in range(3):
            path = tmp_path / f"{protocol.estimator}-{stop}"
            calls = iter(range(stop))
            with pytest.raises(StopIteration):
                evaluate(m, x, protocol, Journal(path), lambda: next(calls))  # noqa: B023
            file = path.with_suffix(".0.jsonl")
            file.write_bytes(file.read_bytes() + b'["half a line", {"na')
            journal = Journal(path)
            assert len(journal.pieces) == stop + 1
            again = replace(evaluate(m, x, protocol, journal), seconds=0.0)
            assert again == whole
            assert len(Journal(path).pieces) == 3


def test_processes_share_the_pieces_and_exchange_them(tmp_path, monkeypatch):
    """Two processes make three and two of five pieces, none twice. Both end with the estimate of one process."""
    monkeypatch.setattr("ndm.evaluation.pieces.ROWS", {"bound": 2})
    m, x, protocol = model(), torch.randint(5, (9, 3)), Protocol("bound", 5, passes=2)
    journals = [Journal(tmp_path / "pieces.jsonl", rank) for rank in (0, 1)]
    shares = [make_pieces(m, x, protocol, journal, rank=rank, count=2) for rank, journal in enumerate(journals)]
    assert [list(share) for share in shares] == [[0, 2, 4], [1, 3]]
    assert [len(journal.pieces) for journal in journals] == [3, 2]
    alone = replace(evaluate(m, x, protocol), seconds=0.0)
    for rank in (0, 1):
        monkeypatch.setattr("ndm.evaluation.estimate.rank_and_count", lambda rank=rank: (rank, 2))
        monkeypatch.setattr("ndm.evaluation.estimate.gathered", lambda own, other=shares[1 - rank]: [other, own])
        assert replace(evaluate(m, x, protocol, journals[rank]), seconds=0.0) == alone
    monkeypatch.undo()
    journals[1].remove()
    assert list(tmp_path.iterdir()) == []


def test_the_protocols_are_those_of_the_model_and_the_rows():
    m, x = model(), torch.randint(5, (6, 3))
    assert choose_protocols(m, x, passes=3) == [
        *(Protocol("bound", t, passes=3) for t in (10, 50, None)), Protocol("ode")
    ]  # fmt: skip
    assert choose_protocols(m, x, "ode-uniform", divergence="hutchinson") == [
        Protocol("ode-uniform", divergence="hutchinson")
    ]
    assert [p.divergence for p in choose_protocols(m, torch.zeros(1, 257), "ode")] == ["hutchinson"]
    assert [p.divergence for p in choose_protocols(m, torch.zeros(1, 256), "ode")] == ["exact"]
    m.process.schedule = ndm.StepwiseSchedule(-4.0, 5.0, steps=5)
    assert choose_protocols(m, x) == [Protocol("bound", 5)]
    assert choose_protocols(m, x, "bound", [7, None]) == [Protocol("bound", 7), Protocol("bound", None)]
    with pytest.raises(ndm.InputError, match="--solver_steps"):
        choose_protocols(m, x, "ode", [7])


def test_the_standard_error_of_a_bound_is_that_of_its_mean():
    """It matches the spread of the mean over n = 60 test sets of 100 rows, each with its own noise, within 25 %.

    The rows of a pass share their times. A formula for independent rows would give twice the standard error here.
    """
    m, generator = model(), torch.Generator().manual_seed(0)
    sets = [torch.randint(5, (100, 3), generator=generator) for _ in range(60)]
    for passes in (2, 10):
        results = [evaluate(m, x, Protocol("bound", passes=passes, seed=k)) for k, x in enumerate(sets)]
        spread = torch.tensor([e.bpd for e in results]).std().item()
        reported = torch.tensor([e.standard_error for e in results]).square().mean().sqrt().item()
        assert reported == pytest.approx(spread, rel=0.25)


def test_pieces_have_noise_of_their_own(monkeypatch):
    """The pieces hold the same four rows, so equal figures would mean equal draws."""
    monkeypatch.setattr("ndm.evaluation.pieces.ROWS", {"bound": 4, "ode": 4})
    x, journal = torch.randint(5, (4, 3)).repeat(2, 1), Journal()
    for protocol in (Protocol("bound", 5, passes=2), Protocol("ode", solver=ROUGH)):
        evaluate(model(), x, protocol, journal)
        key = "nats" if protocol.estimator == "bound" else "log_prob"
        first, second = (journal[f"{protocol}/{k}"][key] for k in (0, 1))
        assert first != second


def test_a_solver_failure_names_the_row_of_the_whole_set(monkeypatch):
    """The second row of the second of three pieces fails. All other rows keep their figures."""
    monkeypatch.setattr("ndm.evaluation.pieces.ROWS", {"ode": 4})
    m, x = model(), torch.randint(5, (12, 3))
    protocol, whole, journal = Protocol("ode", solver=ROUGH), Journal(), Journal()
    evaluate(m, x, protocol, whole)

    def fail(model, rows, *args, **kwargs):
        if torch.equal(rows, x[4:8]):
            log_p = torch.tensor([1.0, math.nan, 3.0, 4.0])
            failures = Failures("dopri5", 4, torch.tensor([1]), torch.tensor([0.5]), ("why",))
            return ndm.Likelihood(log_p, *torch.ones(3, 4), failures)
        return ndm.ode_likelihood(model, rows, *args, **kwargs)

    monkeypatch.setattr("ndm.evaluation.pieces.ode_likelihood", fail)
    with pytest.raises(ndm.SolverError, match=r"in 1 of 12 rows \(row 5 near t = 0.5: why\)") as failure:
        evaluate(m, x, protocol, journal)
    first, last = (whole[f"{protocol}/{k}"]["log_prob"] for k in (0, 2))
    expected = torch.tensor([*first, 1.0, math.nan, 3.0, 4.0, *last])
    assert failure.value.failures.rows.tolist() == [5] and failure.value.failures.reasons == ("why",)
    torch.testing.assert_close(failure.value.result.log_prob, expected, rtol=0, atol=0, equal_nan=True)
    monkeypatch.undo()
    monkeypatch.setattr("ndm.evaluation.pieces.ROWS", {"ode": 4})
    assert len(journal.pieces) == 2
    assert replace(evaluate(m, x, protocol, journal), seconds=0.0) == replace(
        evaluate(m, x, protocol, whole), seconds=0.0
    )


def test_a_number_is_called_what_it_is():
    name = lambda **options: Protocol("ode", **options).name(True)  # noqa: E731
    assert "torchdiffeq:heun2 50 steps" in name(solver=Solver("torchdiffeq:heun2"))
    assert "scipy:RK45 rtol 0.0001)" in name(solver=Solver("scipy:RK45", rtol=1e-4, atol=1e-4))
    assert "dopri5 rtol 0.0001)" in name()
    assert "rtol 0.01, atol 0.1" in name(solver=Solver(rtol=1e-2, atol=1e-1))
    assert Protocol("ode", samples=10).draws(drawn=False) == 1
    assert Protocol("ode", samples=10, divergence="hutchinson").draws(drawn=False) == 10


def test_doctor_finds_what_was_broken():
    x = torch.randint(5, (40, 3))
    d = diagnose(model(), x, passes=8)
    assert sum(d.profile) == pytest.approx(d.diffusion, rel=0.25)
    assert d.nfe > 6 and len(d.lipschitz) == 11 and d.ode is not None
    m = model()
    m.process.schedule = ndm.LinearSchedule(-4.0, 0.0)
    assert any("raise model.gamma_max" in a for a in diagnose(m, x).advice)
    m.process.schedule = ndm.LearnedSchedule(-4.0, 0.0, learned_end=True)  # whose end training chooses
    assert not any("model.gamma_max" in a for a in diagnose(m, x).advice)
    m.process.schedule = ndm.LinearSchedule(0.0, 5.0)
    assert any("lower model.gamma_min" in a for a in diagnose(m, x).advice)
    m.process.schedule = ndm.LinearSchedule(-14.0, 5.0)
    assert any("raise model.gamma_min" in a for a in diagnose(m, x).advice)
    m.process.schedule = ndm.StepwiseSchedule(-4.0, 5.0, steps=5)
    d = diagnose(m, x)
    assert d.ode is None and "diffusion by time" in report(d)


@pytest.mark.parametrize(("places", "divergence"), [(32, "exact"), (33, "hutchinson")])
def test_the_doctor_estimates_the_divergence_of_many_latents(places, divergence, monkeypatch):
    asked = []

    def listening(model, x, protocol, journal):
        asked.append(protocol)
        return make_pieces(model, x, protocol, journal)

    monkeypatch.setattr("ndm.evaluation.diagnosis.make_pieces", listening)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0), ndm.Embedding((3,), dim=2), tied_to="noise")
    net = ndm.nn.Conv1d((2, places), 3, width=8, depth=1, beliefs=3)
    m = ndm.NDM(process, ndm.SymbolPredictor(net, 3), ndm.SymbolDecoder(3), shape=(places,)).eval()
    d = diagnose(m, torch.randint(3, (2, places)), passes=1, solves=2)
    assert [(p.divergence, p.samples) for p in asked if p.estimator == "ode"] == [
        (divergence, 1 if divergence == "exact" else 4)
    ]
    assert d.ode is not None and d.gap is not None


def test_the_doctor_says_where_the_ode_cannot_be_solved(monkeypatch):
    m, x = model(), torch.randint(5, (40, 3))
    field = ndm.sampling.velocity_field(m)
    broken = lambda t, z: torch.where(t[:, None] > 0.5, math.nan, field(t, z))  # noqa: E731
    monkeypatch.setattr("ndm.likelihood.velocity_field", lambda _: broken)
    d = diagnose(m, x, passes=1)
    assert d.ode is None and d.nfe is None and d.ode_bound is not None
    assert "the ODE cannot be solved: dopri5 stopped in 32 of 32 rows (row 0 near t = 0.5" in d.advice[0]


def test_jacobian_norm_is_the_largest_singular_value():
    matrix = torch.randn(4, 4)
    z, t = torch.randn(3, 4), torch.rand(3)
    norm = jacobian_norm(lambda t, z: torch.sin(z) @ matrix.T, t, z, iterations=200)
    expected = torch.stack([torch.linalg.matrix_norm(matrix * row.cos(), 2) for row in z])
    torch.testing.assert_close(norm, expected)


def test_the_headline_says_who_is_better():
    def estimates(bpd):
        return [Estimate("bound", bpd, 0.01, 0.0, None, None, None, 30, None, 10, 1, 0, 0.0)] * 3

    assert "0.100 better, which is beyond" in headline({"conventional": estimates(2.3), "NDM": estimates(2.2)})
    assert "0.010 worse, which is within" in headline({"conventional": estimates(2.3), "NDM": estimates(2.31)})


def test_every_option_of_the_protocol_counts():
    m, x = model(), torch.randint(5, (6, 3))
    protocol = Protocol("ode", samples=3, divergence="hutchinson", solver=Solver("rk4", 7), seed=2)
    e = evaluate(m, x, protocol)
    generator = seeded(2, 0)
    result = ndm.ode_likelihood(m, x, Solver("rk4", 7), divergence="hutchinson", samples=3, generator=generator)
    assert e.nats == pytest.approx(-result.log_prob.mean().item(), rel=1e-12)
    assert (e.samples, e.nfe) == (3, 28)


def test_the_standard_error_over_pieces_is_that_of_all_rows(monkeypatch):
    """Three pieces of 20 rows with 40 passes match the formula on all rows at once."""
    monkeypatch.setattr("ndm.evaluation.pieces.ROWS", {"bound": 20})
    m, x = model(), torch.randint(5, (60, 3))
    e = evaluate(m, x, Protocol("bound", passes=40))
    pieces = []
    for k, rows in enumerate(x.split(20)):
        generator = seeded(0, k)
        pieces.append(torch.stack([ndm.bound(m, rows, generator=generator).total.detach() for _ in range(40)]))
    passes = torch.cat(pieces, dim=1) / 3 / math.log(2)
    rows = (passes.mean(0).var() - passes.var(0).mean() / 40).clamp(min=0) / 60
    assert e.standard_error == pytest.approx((rows + passes.mean(1).var() / 40).sqrt().item(), rel=1e-6)


def test_kept_pieces_are_not_computed_again(monkeypatch):
    monkeypatch.setattr("ndm.evaluation.pieces.ROWS", {"bound": 4})
    m, x, journal = model(), torch.randint(5, (10, 3)), Journal()
    first = evaluate(m, x, Protocol("bound", 5, passes=2), journal)
    monkeypatch.setattr("ndm.evaluation.pieces.bound", lambda *_, **__: pytest.fail("computed again"))
    assert evaluate(m, x, Protocol("bound", 5, passes=2), journal) == first


def test_the_doctors_ode_is_the_negative_log_likelihood():
    m, x = model(), torch.randint(5, (40, 3))
    d = diagnose(m, x, passes=4)
    ode = torch.stack([ndm.log_prob(m, x[:32], solver=Solver(rtol=1e-4, atol=1e-4)) for _ in range(2)]).mean()
    total = torch.stack([ndm.bound(m, x[:32]).total.detach().mean() for _ in range(30)]).mean()
    assert d.ode == pytest.approx(-ode.item() / 3 / math.log(2), rel=0.1)
    assert d.ode_bound == pytest.approx(total.item() / 3 / math.log(2), rel=0.2)


def test_the_diagnosis_says_how_far_f_moves():
    """With F = (1 + t w) x it is |t w| alpha / sigma times the root mean square of x."""
    transform = ndm.Linear(3, num_basis=1).double()
    with torch.no_grad():
        transform.gains.copy_(torch.tensor([[0.5, -1.0, 2.0]]))
    schedule = ndm.LinearSchedule(-4.0, 4.0)
    torch.manual_seed(0)
    predictor = ndm.Predictor(SmoothNet(3, 3)).double()
    m = ndm.NDM(ndm.ForwardProcess(schedule, transform), predictor, ndm.GaussianDecoder(), shape=(3,)).double().eval()
    x = torch.randn(64, 3, dtype=torch.float64)
    found = diagnose(m, x, passes=2, solves=2)
    t = torch.arange(11, dtype=torch.float64) / 10
    expected = t * torch.exp(-schedule(t).gamma / 2) * (x * transform.gains.detach()).square().mean().sqrt()
    torch.testing.assert_close(torch.tensor(found.motion.distance, dtype=torch.float64), expected)
    assert 0 < found.motion.gradient < 1 and not any("F stays" in line for line in found.advice)
    assert "how far F moves" in report(found) and all(not p.requires_grad or p.grad is None for p in m.parameters())
    with torch.no_grad():
        transform.gains.mul_(1e-3)
    still = diagnose(m, x, passes=2, solves=2)
    assert any("F stays within" in line for line in still.advice)
    conventional = ndm.NDM(ndm.ForwardProcess(schedule), predictor, ndm.GaussianDecoder(), shape=(3,)).double().eval()
    assert diagnose(conventional, x, passes=2, solves=2).motion is None


def test_the_gradient_of_f_is_its_part_of_the_whole():
    """A predictor without weights leaves all of it to F, and the schedule takes the rest."""
    x = torch.randn(32, 2, dtype=torch.float64)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-4.0, 4.0), ndm.Linear(2, num_basis=1))
    m = ndm.NDM(process, ndm.Predictor(lambda z, t: 0 * z), ndm.GaussianDecoder(), shape=(2,)).double().eval()
    assert motion_of(m, x).gradient == pytest.approx(1)
    process.schedule = ndm.LearnedSchedule(-4.0, 4.0).double()
    share = motion_of(m, x, torch.Generator().manual_seed(0)).gradient
    total = ndm.bound(m, x, generator=torch.Generator().manual_seed(0)).total.mean()
    gradients = torch.autograd.grad(total, [*m.parameters()], allow_unused=True)
    squares = {
        id(p): 0 if g is None else g.square().sum().item() for p, g in zip(m.parameters(), gradients, strict=True)
    }
    own = sum(squares[id(p)] for p in process.transform.parameters())
    assert share == pytest.approx((own / sum(squares.values())) ** 0.5) and share < 1

"""How symbols move: when noise makes pairs one, in which order groups merge, and the picture."""

import math

import numpy as np
import pytest
import torch

import ndm
from ndm.evaluation.moves import draw_moves, moves, names_of, report_moves, single_linkage


def model(start, moved=None):
    """A model of V symbols at points on a line, ``(V,)``, of mean 0 and RMS 1."""
    start = torch.tensor(start)[:, None]
    embedding = ndm.Embedding((len(start),), dim=1, num_basis=1)
    embedding.start.data, embedding.moves.data[0] = start, torch.zeros_like(start) if moved is None else moved
    process = ndm.ForwardProcess(ndm.LinearSchedule(-8.0, 8.0), embedding)
    net = lambda z, t: z.new_zeros(len(z), len(start), 1)  # noqa: E731
    decoder = ndm.SymbolDecoder(len(start), "a b\ncdefg"[: len(start)])
    return ndm.NDM(process, ndm.SymbolPredictor(net, len(start)), decoder, shape=(1,))


def test_a_pair_merges_where_its_distance_is_two_standard_deviations_of_the_noise():
    found = moves(model([-1.0, 1.0]))
    assert found.means.shape == (201, 2, 1)
    torch.testing.assert_close(found.means[0].abs(), torch.ones(2, 1), atol=1e-3, rtol=0)
    (merger,) = found.mergers
    assert merger.time == pytest.approx(0.5, abs=0.006)  # alpha = sigma where gamma = 0
    assert {*merger.first, *merger.second} == {0, 1}


def test_points_that_move_apart_merge_later_and_those_that_meet_at_once():
    times = {}
    for moved in (-1.0, 0.0, 3.0):
        found = moves(model([-1.0, 1.0], torch.tensor([[-moved], [moved]])))
        times[moved] = found.mergers[0].time
    # with moves: alpha (1 + t m) = sigma; by bisection on exp(gamma / 2) = 1 + t m
    for moved, time in times.items():
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if math.exp((-8 + 16 * middle) / 2) < 1 + middle * moved else (low, middle)
        assert time == pytest.approx(low, abs=0.006)
    assert times[-1.0] < times[0.0] < times[3.0]


def test_groups_merge_in_the_order_of_their_nearest_pair():
    scipy = pytest.importorskip("scipy.cluster.hierarchy")
    rng = np.random.default_rng(0)
    times = rng.random((9, 9))
    times = (times + times.T) / 2
    np.fill_diagonal(times, 0)
    heights = scipy.linkage(times[np.triu_indices(9, 1)], "single")[:, 2]
    found = single_linkage(times)
    np.testing.assert_allclose([merger.time for merger in found], heights)
    assert sorted((*found[-1].first, *found[-1].second)) == list(range(9))


def test_the_report_and_the_picture_name_characters(tmp_path):
    points = model([-1.5, -1.4, 0.2, 0.3, 1.1, 1.3])
    found, names = moves(points), names_of(points)
    assert names == ["a", "space", "b", "newline", "c", "d"]
    lines = report_moves(found, names).splitlines()
    assert len(lines) == 6
    assert {frozenset(line.split()[1::2]) for line in lines[1:3]} == {
        frozenset({"a", "space"}),
        frozenset({"b", "newline"}),
    }
    draw_moves(found, names, tmp_path / "x.png", "a title")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_other_models_have_no_symbols_that_move():
    process = ndm.ForwardProcess(ndm.LinearSchedule(-5.0, 5.0))
    numbers = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((2,))), ndm.GaussianDecoder())
    with pytest.raises(ndm.InputError, match="one alphabet"):
        moves(numbers)

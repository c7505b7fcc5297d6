r"""Exact probabilities of rows of categories and integers, to compare with.

A column has finitely many values: the categories, or the integers from the smallest to the largest. Its values fall
into bins ``b``. Every method here is a distribution of a row's bins and, within a bin, the column's own distribution:

.. math:: P(x) = P(b_1, \ldots, b_D) \prod_j \frac{P_j(x_j)}{P_j(b_j)}

A category is its own bin. The bins of an integer column end at quantiles, and a frequent integer has its own. For the
column's own distribution of integers, with counts ``n`` of ``N`` rows and a histogram ``h`` of ``K`` such bins,

.. math:: P_j(v) = \lambda n_v / N + (1 - \lambda) h_K(v)

with the weight and ``K`` chosen by validation rows. The distributions of the bins:

* independent: :math:`\prod_j P_j(b_j)`
* mixture of products: :math:`\sum_k \pi_k \prod_j \theta_{kj}(b_j)`, by EM, ``k`` up to 128 by validation
* tree (Chow and Liu): :math:`P(b_r) \prod_j P(b_j \mid b_{parent(j)})`, the spanning tree of largest information
* boosted trees: :math:`\prod_j P(b_j \mid x_1, \ldots, x_{j-1})`, a gradient-boosted classifier for each column
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ndm.errors import InputError

LogProb = Callable[[np.ndarray], np.ndarray]
"""Log-probabilities in nats, shape ``(N,)``, of rows of codes, shape ``(N, D)``."""


@dataclass(frozen=True)
class Column:
    """A column of codes ``0 .. size - 1``.

    Args:
        name: its name.
        size: how many values there are.
        integer: whether the codes are integers counted from the smallest one, or else categories.
    """

    name: str
    size: int
    integer: bool


@dataclass
class Fitted:
    """A fitted distribution of rows: its log-probabilities, the mean of the validation rows, and what was chosen."""

    log_prob: LogProb
    valid: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def checked(p: np.ndarray) -> np.ndarray:
    """Probabilities, after a check that they sum to one along the last axis."""
    assert np.all(p >= 0) and np.allclose(p.sum(-1), 1, rtol=0, atol=1e-9), "these are no probabilities"
    return p


def quantile_edges(codes: np.ndarray, size: int, count: int) -> np.ndarray:
    """The edges of about ``count`` bins of the values ``0 .. size - 1``; a value as frequent as a bin has its own."""
    values, counts = np.unique(codes, return_counts=True)
    frequent = values[counts >= len(codes) / count]
    quantiles = np.quantile(codes, np.arange(1, count) / count, method="lower")
    edges = np.unique(np.concatenate([[0, size], quantiles, frequent, frequent + 1]).astype(np.int64))
    return edges[(edges >= 0) & (edges <= size)]


def histogram(codes: np.ndarray, size: int, count: int) -> np.ndarray:
    """A probability of every value that is uniform within bins; each bin counts half a row more than it has."""
    edges = quantile_edges(codes, size, count)
    weights = np.bincount(np.searchsorted(edges, codes, "right") - 1, minlength=len(edges) - 1) + 0.5
    return np.repeat(weights / weights.sum() / np.diff(edges), np.diff(edges))


def marginal(train: np.ndarray, valid: np.ndarray, column: Column) -> np.ndarray:
    """The probability of every value of a column, shape ``(size,)``; none is zero."""
    counts = np.bincount(train, minlength=column.size)
    if not column.integer:
        tried = [(counts + s) / (len(train) + s * column.size) for s in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)]
    else:
        shares = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99, 0.999)
        flat = [histogram(train, column.size, k) for k in (1, 8, 16, 32, 64, 128, 256, 512)]
        tried = [share * counts / len(train) + (1 - share) * h for h in flat for share in shares]
    return checked(max(tried, key=lambda p: np.log(p[valid]).sum()))


@dataclass
class Bins:
    """The bins of all columns.

    Args:
        edges: for each column, the first code of every bin and the number of codes.
        own: for each column, the probability of every value.
    """

    edges: list[np.ndarray]
    own: list[np.ndarray]

    def __post_init__(self) -> None:
        self.bin_p = [checked(np.add.reduceat(p, e[:-1])) for p, e in zip(self.own, self.edges, strict=True)]

    @classmethod
    def of(cls, train: np.ndarray, own: list[np.ndarray], columns: list[Column], count: int) -> Bins:
        """About ``count`` bins for every integer column."""
        edges = [
            quantile_edges(codes, c.size, count) if c.integer else np.arange(c.size + 1)
            for codes, c in zip(train.T, columns, strict=True)
        ]
        return cls(edges, own)

    @property
    def sizes(self) -> list[int]:
        """The number of bins of every column."""
        return [len(p) for p in self.bin_p]

    def index(self, codes: np.ndarray) -> np.ndarray:
        """The bins of rows, shape ``(N, D)``."""
        return np.stack([np.searchsorted(e, c, "right") - 1 for e, c in zip(self.edges, codes.T, strict=True)], axis=1)

    def within(self, codes: np.ndarray) -> np.ndarray:
        """The log-probability of rows given their bins, shape ``(N,)``."""
        total = np.zeros(len(codes))
        for p, q, code, b in zip(self.own, self.bin_p, codes.T, self.index(codes).T, strict=True):
            total += np.log(p[code]) - np.log(q[b])
        return total


def independent(train: np.ndarray, valid: np.ndarray, columns: list[Column], seed: int) -> Fitted:
    """Columns that know nothing of each other."""
    own = [marginal(*pair, column) for *pair, column in zip(train.T, valid.T, columns, strict=True)]

    def log_prob(codes: np.ndarray) -> np.ndarray:
        return sum((np.log(p[code]) for p, code in zip(own, codes.T, strict=True)), np.zeros(len(codes)))

    return Fitted(log_prob, float(log_prob(valid).mean()), {"own": own})


def over_bins(bins: Bins, log_bins: LogProb) -> LogProb:
    """The log-probability of rows from that of their bins."""
    return lambda codes: log_bins(bins.index(codes)) + bins.within(codes)


def best_of(tried: list[Fitted]) -> Fitted:
    """The one with the best validation."""
    return max(tried, key=lambda fitted: fitted.valid if fitted.valid is not None else -np.inf)


def chow_liu_tree(index: np.ndarray, sizes: list[int]) -> list[tuple[int, int]]:
    """The pairs ``(column, parent)`` in an order from the root, which is its own parent.

    The tree has the largest sum of mutual informations.
    """
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

    count = len(sizes)
    cost = np.zeros((count, count))
    for i in range(count):
        for j in range(i + 1, count):
            p = joint(index, i, j, sizes) / len(index)
            product = p.sum(1, keepdims=True) * p.sum(0)
            information = (p[p > 0] * np.log(p[p > 0] / product[p > 0])).sum()
            cost[i, j] = -(information + 1.0)  # one is added because a cost of zero means that there is no edge
    order, parents = breadth_first_order(minimum_spanning_tree(cost), 0, directed=False)
    return [(int(j), int(j if parents[j] < 0 else parents[j])) for j in order]


def joint(index: np.ndarray, i: int, j: int, sizes: list[int]) -> np.ndarray:
    """The counts of the pairs of bins of two columns, shape ``(sizes[i], sizes[j])``."""
    pairs = index[:, i] * sizes[j] + index[:, j]
    return np.bincount(pairs, minlength=sizes[i] * sizes[j]).reshape(sizes[i], sizes[j])


def chow_liu(train: np.ndarray, valid: np.ndarray, columns: list[Column], seed: int) -> Fitted:
    """A Bayesian network that is a tree; the bins and the smoothing are chosen by validation."""
    own, tried = independent(train, valid, columns, seed).facts["own"], []
    for count in (8, 16, 32, 64, 128) if any(column.integer for column in columns) else (8,):
        bins = Bins.of(train, own, columns, count)
        index = bins.index(train)
        tree = chow_liu_tree(index, bins.sizes)
        for rows in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0):
            given = {}
            for j, parent in tree[1:]:
                counts = joint(index, parent, j, bins.sizes)
                smooth = (counts + rows * bins.bin_p[j]) / (counts.sum(1, keepdims=True) + rows)
                given[j] = np.log(checked(smooth))
            log_prob = over_bins(bins, tree_log_prob(tree, np.log(bins.bin_p[tree[0][0]]), given))
            facts = {"bins": count, "smoothing": rows}
            tried.append(Fitted(log_prob, float(log_prob(valid).mean()), facts))
    return best_of(tried)


def tree_log_prob(tree: list[tuple[int, int]], root: np.ndarray, given: dict[int, np.ndarray]) -> LogProb:
    """The log-probability of bins under a tree, from tables ``given[j][parent's bin, bin]``."""
    return lambda b: root[b[:, tree[0][0]]] + sum(given[j][b[:, parent], b[:, j]] for j, parent in tree[1:])


def one_hot(index: np.ndarray, sizes: list[int]) -> Any:
    """A sparse matrix with a one for each bin of a row, shape ``(N, sum of sizes)``."""
    from scipy.sparse import csr_matrix

    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    flat = (index + offsets).ravel()
    ends = np.arange(len(index) + 1) * index.shape[1]
    return csr_matrix((np.ones(len(flat)), flat, ends), shape=(len(index), sum(sizes)))


def expectation_maximisation(
    index: np.ndarray, bins: Bins, components: int, seed: int, most: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Weights, shape ``(K,)``, and the log-probabilities of bins, shape ``(sum of sizes, K)``, of a mixture.

    Each component has a tenth of a row of each column's own distribution added to its counts. The iteration ends when
    a step gains less than 1e-4 nats per row.
    """
    hot, prior = one_hot(index, bins.sizes), np.concatenate(bins.bin_p)
    starts = np.concatenate([[0], np.cumsum(bins.sizes)[:-1]])
    share = np.random.default_rng(seed).dirichlet(np.full(components, 0.1), len(index))
    before = -np.inf
    for _ in range(most):
        weights = checked((share.sum(0) + 1e-3) / (len(index) + 1e-3 * components))
        counts = hot.T @ share + 0.1 * prior[:, None]
        totals = np.repeat(np.add.reduceat(counts, starts), bins.sizes, axis=0)
        log_theta = np.log(counts / totals)
        log_rows, share = responsibilities(hot, weights, log_theta)
        if log_rows.mean() - before < 1e-4:
            break
        before = log_rows.mean()
    assert np.allclose(np.add.reduceat(np.exp(log_theta), starts), 1, rtol=0, atol=1e-9)
    return weights, log_theta


def responsibilities(hot: Any, weights: np.ndarray, log_theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of rows, shape ``(N,)``, and the components' posterior probabilities, shape ``(N, K)``."""
    terms = hot @ log_theta + np.log(weights)
    largest = terms.max(1, keepdims=True)
    share = np.exp(terms - largest)
    total = share.sum(1, keepdims=True)
    return (largest + np.log(total))[:, 0], share / total


def mixture(
    train: np.ndarray,
    valid: np.ndarray,
    columns: list[Column],
    seed: int,
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128),
) -> Fitted:
    """A mixture of products; the number of components and the bins are chosen by validation."""
    own, tried = independent(train, valid, columns, seed).facts["own"], []
    for count in (16, 64) if any(column.integer for column in columns) else (16,):
        bins = Bins.of(train, own, columns, count)
        index = bins.index(train)
        for components in sizes:
            weights, log_theta = expectation_maximisation(index, bins, components, seed)

            def log_bins(b, sizes=bins.sizes, weights=weights, log_theta=log_theta):  # type: ignore[no-untyped-def]
                return responsibilities(one_hot(b, sizes), weights, log_theta)[0]

            log_prob = over_bins(bins, log_bins)
            facts = {"bins": count, "components": components}
            tried.append(Fitted(log_prob, float(log_prob(valid).mean()), facts))
    return best_of(tried)


def boosted(train: np.ndarray, valid: np.ndarray, columns: list[Column], seed: int, count: int = 20) -> Fitted:
    """A gradient-boosted classifier of every column's bin, given the columns before it.

    Boosting ends when ten iterations have brought nothing on the validation rows. A share of each column's own
    distribution is mixed in, chosen by validation, so that no bin has probability zero.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    if "X_val" not in inspect.signature(HistGradientBoostingClassifier.fit).parameters:
        raise InputError("boosted trees with validation rows need scikit-learn 1.7: upgrade it, or leave out boosted")
    own = independent(train, valid, columns, seed).facts["own"]
    bins = Bins.of(train, own, columns, count)
    index, checks = bins.index(train), bins.index(valid)
    models: list[tuple[Any, float]] = []
    for j in range(len(columns)):
        seen = np.isin(checks[:, j], index[:, j])
        if j == 0 or len(np.unique(index[:, j])) == 1:
            models.append((None, 1.0))
            continue
        model = HistGradientBoostingClassifier(
            max_iter=300,
            early_stopping=True,
            random_state=seed,
            categorical_features=[not c.integer and c.size <= 255 for c in columns[:j]],
        )
        model.fit(train[:, :j], index[:, j], X_val=valid[seen, :j], y_val=checks[seen, j])
        p = conditional(model, valid[:, :j], bins.bin_p[j])
        shares = (1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
        value = {s: log_chosen((1 - s) * p + s * bins.bin_p[j], checks[:, j]).mean() for s in shares}
        models.append((model, max(shares, key=value.__getitem__)))

    def log_prob(codes: np.ndarray) -> np.ndarray:
        b, total = bins.index(codes), bins.within(codes)
        for j, (model, share) in enumerate(models):
            p = np.broadcast_to(bins.bin_p[j], (len(codes), bins.sizes[j]))
            if model is not None:
                p = checked((1 - share) * conditional(model, codes[:, :j], bins.bin_p[j]) + share * p)
            total += log_chosen(p, b[:, j])
        return total

    iterations = sum(model.n_iter_ for model, _ in models if model is not None)
    return Fitted(log_prob, float(log_prob(valid).mean()), {"bins": count, "iterations": int(iterations)})


def conditional(model: Any, x: np.ndarray, bin_p: np.ndarray) -> np.ndarray:
    """A classifier's probabilities of all bins, shape ``(N, bins)``; those it has never seen have zero."""
    p = np.zeros((len(x), len(bin_p)))
    p[:, model.classes_] = model.predict_proba(x)
    return p / p.sum(1, keepdims=True)


def log_chosen(p: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The logarithm of one probability of each row."""
    return np.log(np.take_along_axis(p, index[:, None], axis=1)[:, 0])

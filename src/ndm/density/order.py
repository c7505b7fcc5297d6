r"""Which column of a table gets its noise first.

Noise on all columns at once hides a relation of many columns: if y is a function of independent columns x, then the
noise that is on y when the reverse process has to decide y is on x too. What x says about y is lost if the function is
not smooth, and with it most of the likelihood. With :class:`ndm.StaggeredSchedule` y gets its noise first, while x is
still clean, so that the network learns p(y | x) as a regression does.

Where columns depend on each other anyway, such an order is no gain, and it costs training time. So one column y goes
first only if the others say much about it and little about each other:

.. math:: R^2(y \mid x) \ge 0.2, \qquad \operatorname{mean}_j R^2(x_j \mid x_{-j}) \le \tfrac14 R^2(y \mid x)

Each :math:`R^2` is that of boosted trees on rows that they have not seen. Most tables are told sooner: if linear
functions of the others already explain more than a quarter of the columns' variance, whichever column is left out, no
column goes first.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

ROWS, MOST_COLUMNS = 4_000, 64
"""The most rows that are looked at; tables of more columns have no first column."""
FEWEST_ROWS, OTHERS = 200, 12
"""The fewest rows, and how many of the other columns are looked at."""
LEAST, SHARE = 0.2, 0.25


def first_column(scores: Tensor, seed: int = 0) -> int | None:
    """The column that gets its noise first, or None if all get it together.

    Args:
        scores: the normal scores of the training rows, ``(N, D)``.
        seed: seed of the rows that are looked at.
    """
    rows, columns = scores.shape
    if rows < FEWEST_ROWS or not 2 <= columns <= MOST_COLUMNS:
        return None
    z = scores.numpy()[np.random.default_rng(seed).permutation(rows)[:ROWS]]
    if columns > 2 and min(linearly_explained(np.delete(z, j, 1)).mean() for j in range(columns)) > SHARE:
        return None
    known = explained(z)
    first = int(known.argmax())
    if known[first] < LEAST:
        return None
    rest = explained(np.delete(z, first, 1), OTHERS) if columns > 2 else np.zeros(1)
    return first if rest.mean() <= SHARE * known[first] else None


def linearly_explained(z: np.ndarray) -> np.ndarray:
    r"""R^2 of each column given linear functions of all others, corrected for their number, ``(D,)``.

    It is :math:`1 - 1 / (C^{-1})_{jj}` with the correlations C.
    """
    rows, columns = z.shape
    if rows <= columns + 1:
        return np.zeros(columns)
    z = (z - z.mean(0)) / z.std(0).clip(1e-12)
    unexplained = 1 / np.diag(np.linalg.inv(z.T @ z / rows + 1e-9 * np.eye(columns)))
    return 1 - unexplained.clip(0, 1) * (rows - 1) / (rows - columns)


def explained(z: np.ndarray, most: int | None = None) -> np.ndarray:
    """R^2 of each column given all others, at least 0, on a quarter of the rows.

    Args:
        z: ``(N, D)``.
        most: how many columns are explained, evenly spaced; None is all.

    Returns:
        ``(D,)``, or ``(most,)`` if that is less.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    held = len(z) * 3 // 4
    found = []
    columns = z.shape[1]
    for j in np.linspace(0, columns - 1, min(columns, most or columns)).astype(int):
        x, y = np.delete(z, j, 1), z[:, j]
        trees = HistGradientBoostingRegressor(
            max_iter=50, learning_rate=0.15, max_leaf_nodes=16, min_samples_leaf=10, early_stopping=False
        )
        error = trees.fit(x[:held], y[:held]).predict(x[held:]) - y[held:]
        found.append(max(0.0, 1 - float((error**2).mean() / y[held:].var())))
    return np.array(found)

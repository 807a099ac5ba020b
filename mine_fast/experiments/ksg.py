"""The nearest-neighbour estimator that MINE is compared with."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma
from sklearn.neighbors import KDTree

__all__ = ["ksg"]


def ksg(x: np.ndarray, y: np.ndarray, neighbours: int = 3) -> float:
    """I(X;Y) in nats by Kraskov, Stoegbauer and Grassberger (2004, arXiv cond-mat/0305641), their first estimator.

        psi(k) + psi(N) - mean [psi(n_x + 1) + psi(n_y + 1)]

    with n_x the rows that are nearer in x alone than the k-th neighbour is in both, by the maximum norm. For continuous
    columns: scikit-learn's `mutual_info_regression` does the same for one column on each side.

    Args:
        x: [N, dx].
        y: [N, dy].
        neighbours: k.

    >>> x = np.random.default_rng(0).standard_normal((2000, 1))
    >>> y = x + np.random.default_rng(1).standard_normal((2000, 1))
    >>> bool(abs(ksg(x, y) - np.log(2) / 2) < 0.08)
    True
    """
    x, y = (side / side.std(0) for side in (x, y))
    pairs = np.hstack([x, y])
    radius = KDTree(pairs, metric="chebyshev").query(pairs, k=neighbours + 1)[0][:, -1]
    radius = np.nextafter(radius, 0)  # strictly nearer
    # A row counts itself: these are n + 1.
    inside = [KDTree(side, metric="chebyshev").query_radius(side, radius, count_only=True) for side in (x, y)]
    return float(digamma(neighbours) + digamma(len(x)) - sum(np.mean(digamma(count)) for count in inside))

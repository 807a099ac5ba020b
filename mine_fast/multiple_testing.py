"""Many p-values at once: the q-values of Benjamini and Hochberg."""

from __future__ import annotations

import numpy as np

__all__ = ["q_values"]


def q_values(p_values: np.ndarray) -> np.ndarray:
    """The false discovery rate at which each hypothesis would just be rejected (Benjamini & Hochberg 1995).

    Rejecting all with q <= 0.05 keeps the expected share of false ones among them at 0.05 or below, if the p-values are
    independent or positively dependent (Benjamini & Yekutieli 2001).

    Args:
        p_values: [m]; NaN where there was no test, which counts as none.

    Returns:
        [m], NaN where p is.

    >>> q_values(np.array([0.01, 0.02, 0.03, 0.5, np.nan])).round(3).tolist()
    [0.04, 0.04, 0.04, 0.5, nan]
    """
    tested = np.flatnonzero(~np.isnan(p_values))
    result = np.full(p_values.shape, np.nan)
    order = tested[np.argsort(p_values[tested], kind="stable")]
    if order.size:
        scaled = p_values[order] * order.size / np.arange(1, order.size + 1)
        result[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return result

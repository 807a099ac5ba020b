"""Average linkage: which variables belong together, and an order that puts them beside each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Merge", "average_linkage"]


class Merge(NamedTuple):
    """Two clusters that become one.

    Attributes:
        left, right: the members of each, in the order in which they are drawn.
        height: the mean distance between a member of one and a member of the other.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    height: float


def average_linkage(distance: np.ndarray) -> list[Merge]:
    """Merge the two nearest clusters, by the mean distance of their members (Sokal & Michener 1958), until one is left.

    Args:
        distance: [d, d], symmetric; the diagonal is not read.

    Returns:
        d - 1 merges. The last one's members, left then right, are an order of all: each merge turns its clusters so
        that the nearest of their ends meet.

    >>> merges = average_linkage(np.array([[0, 9, 1], [9, 0, 8], [1, 8, 0]]))
    >>> merges[-1].left + merges[-1].right, merges[-1].height
    ((0, 2, 1), 8.5)
    """
    between = np.array(distance, dtype=float)
    np.fill_diagonal(between, np.inf)
    clusters: dict[int, tuple[int, ...]] = {i: (i,) for i in range(len(between))}
    merges = []
    while len(clusters) > 1:
        i, j = sorted(divmod(int(between.argmin()), len(between)))
        left, right = _turned(clusters[i], clusters[j], distance)
        merges.append(Merge(left, right, float(between[i, j])))
        # The mean over the members of both is that of the two means, by their numbers (Lance & Williams 1967).
        sizes = len(clusters[i]), len(clusters[j])
        mean = (sizes[0] * between[i] + sizes[1] * between[j]) / sum(sizes)
        mean[i] = np.inf
        between[i] = between[:, i] = mean
        between[j] = between[:, j] = np.inf
        clusters[i] = left + right
        del clusters[j]
    return merges


def _turned(left: tuple[int, ...], right: tuple[int, ...], distance: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Either cluster as it is or reversed, such that the members that meet are the nearest."""
    ways = [(a, b) for a in (left, left[::-1]) for b in (right, right[::-1])]
    return min(ways, key=lambda way: float(distance[way[0][-1], way[1][0]]))

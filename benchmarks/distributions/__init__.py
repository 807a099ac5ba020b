"""Samples with known mutual information, to judge an estimator by.

`CASES` names them all, `FAMILIES` sorts them, `BMI` names those of the benchmark of Czyz et al. (2023, "Beyond
Normal"). Each is drawn by a numpy generator, so a case, a size and a seed name a sample. Truths are closed forms, or
quadrature fine enough for four digits (`tests/test_distributions.py` checks). An invertible map of either variable
leaves the truth as it is: many cases are a Gaussian or a Student-t behind one.
"""

from .case import Case, Draw, Pair
from .catalogue import BMI, CASES, FAMILIES, HIGH

__all__ = ["BMI", "CASES", "FAMILIES", "HIGH", "Case", "Draw", "Pair"]

"""What a careful reader should know about an estimate: every flag a result can carry, its code and its reason.

Each function looks at one thing and returns its flag, or None. docs/flags.md lists the codes for users.

- of_scores.py: what the held-out scores can and cannot show.
- of_training.py: how the training went.
- of_rows.py: what the columns and rows are, whatever is estimated from them.

That one variable is a function of the other is found in mine_fast/determinism.py, what is repeated in
mine_fast/repeats.py.
"""

from mine_fast.flags.of_rows import (
    column_flags,
    constants,
    discrete,
    duplicate_columns,
    duplicate_rows,
    heavy_tails,
    many_levels,
    rare_codes,
)
from mine_fast.flags.of_scores import below_zero, few_effective_marginals, few_rows, not_certifiable, reliability_flags
from mine_fast.flags.of_training import diverged, overfitted, still_rising, training_flags

__all__ = [
    "below_zero",
    "column_flags",
    "constants",
    "discrete",
    "diverged",
    "duplicate_columns",
    "duplicate_rows",
    "few_effective_marginals",
    "few_rows",
    "heavy_tails",
    "many_levels",
    "not_certifiable",
    "overfitted",
    "rare_codes",
    "reliability_flags",
    "still_rising",
    "training_flags",
]

"""`mine_fast.pairwise`: time and agreement on a real table, and what its q-values find where there is nothing.

    python benchmarks/pairwise.py [--columns 20]                 the table
    python benchmarks/pairwise.py --null [--tables 100]          independent columns

The table is scikit-learn's breast cancer data (569 rows, 30 columns of measurements, 20 of them by default), beside
scikit-learn's `mutual_info_regression` (KSG with 3 neighbours) on the same pairs. Nobody knows the truth there: the two
are compared by ranks and differences.

Independent columns are those of that table, each in an order of its own: real marginal distributions, and nothing
shared. A table in which any pair has q <= 0.05 is a false discovery, so the share of those is the false discovery rate;
how often small p-values come is counted over all pairs.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import record
import torch
from scipy.stats import beta, spearmanr
from sklearn.datasets import load_breast_cancer
from sklearn.feature_selection import mutual_info_regression

import mine_fast

LEVELS = (0.2, 0.05, 0.01, 0.001)


def real_table(columns: int) -> list[dict[str, Any]]:
    data = load_breast_cancer()
    values, names = data.data[:, :columns], [str(name) for name in data.feature_names[:columns]]
    wall, cpu = time.perf_counter(), time.process_time()
    m = mine_fast.pairwise(dict(zip(names, values.T, strict=True)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    began = time.process_time()
    theirs = np.array([mutual_info_regression(values, values[:, i], random_state=0) for i in range(columns)]).T
    seconds = time.process_time() - began
    upper = np.triu_indices(columns, 1)
    asymmetry = np.abs(theirs - theirs.T)[upper]
    a, b = m.mi[upper], (0.5 * (theirs + theirs.T))[upper]
    far = np.argsort(np.abs(a - b))[::-1][:5]
    return [
        {
            "what": "table",
            "columns": columns,
            "rows": len(values),
            "pairs": len(a),
            "threads": torch.get_num_threads(),
            "wall_s": round(wall, 1),
            "cpu_s": round(cpu, 1),
            "cpu_s_per_pair": round(cpu / len(a), 3),
            "sklearn_cpu_s": round(seconds, 2),
            "spearman": round(float(spearmanr(a, b).statistic), 4),
            "mean_difference": round(float((a - b).mean()), 4),
            "mean_absolute_difference": round(float(np.abs(a - b).mean()), 4),
            "median_stderr": round(float(np.median(m.stderr[upper])), 4),
            "dependent": int((m.q_value[upper] <= 0.05).sum()),
            "sklearn_mean_asymmetry": round(float(asymmetry.mean()), 4),
            "failed": len(m.errors),
            "farthest": [
                [names[upper[0][k]], names[upper[1][k]], round(float(a[k]), 3), round(float(b[k]), 3)] for k in far
            ],
        }
    ]


def null_tables(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    columns, rows, began = options.columns or 3, options.rows, time.monotonic()
    values = load_breast_cancer().data
    p_values: list[float] = []
    discoveries = done = 0
    for table in range(options.tables):
        if time.monotonic() - began > 60 * options.minutes:
            break
        rng = np.random.default_rng(1000 + table)
        chosen = rng.choice(values.shape[1], columns, replace=False)
        shuffled = np.column_stack([rng.permutation(values[:, column])[:rows] for column in chosen])
        m = mine_fast.pairwise(shuffled, seed=1000 + table, **settings)
        upper = np.triu_indices(columns, 1)
        p_values += m.p_value[upper].tolist()
        discoveries += bool((m.q_value[upper] <= 0.05).any())
        done += 1
    p = np.array(p_values)
    return {
        "what": "independent columns",
        "tables": done,
        "columns": columns,
        "rows": rows,
        "pairs": len(p),
        "settings": settings,
        "tables_with_q_below_0.05": discoveries,
        "false_discovery_rate": round(discoveries / done, 4),
        "interval_95": [round(float(v), 4) for v in _clopper_pearson(discoveries, done)],
        **{f"share_of_p_below_{level}": round(float((p <= level).mean()), 5) for level in LEVELS},
    }


def _clopper_pearson(hits: int, trials: int) -> tuple[float, float]:
    low = beta.ppf(0.025, hits, trials - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, trials - hits) if hits < trials else 1.0
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--columns", type=int)
    parser.add_argument("--null", action="store_true", help="independent columns instead of the table")
    parser.add_argument("--tables", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60, help="begin no further table after so long")
    parser.add_argument("--rows", type=int, default=569)
    parser.add_argument("--steps", type=int, help="training steps, where not pairwise's own")
    options = parser.parse_args()
    if options.null:
        settings = {} if options.steps is None else {"steps": options.steps}
        rows = [null_tables(options, settings)]
    else:
        rows = real_table(options.columns or 20)
    kept = []
    path = record.RESULTS / "pairwise.json"
    if path.exists():  # the other part stays
        key = [(row["what"], row.get("settings")) for row in rows]
        kept = [row for row in json.loads(path.read_text())["rows"] if (row["what"], row.get("settings")) not in key]
    record.write("pairwise", [*kept, *rows], what="pairwise on a real table, and on independent columns")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()

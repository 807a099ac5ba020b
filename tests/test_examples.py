"""The examples run, and do what they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_gan_with_mi(capsys):
    example = runpy.run_path(str(EXAMPLES / "gan_with_mi.py"))
    generator = example["train"](500)
    said = capsys.readouterr().out
    found = re.fullmatch(r"step 500: I\(x_fake; code\) about (-?\d+\.\d\d) nats on this batch\n", said)
    # Without the term it stays near 0: nothing asks the samples to tell their codes.
    assert float(found[1]) > 0.3
    counts = example["modes"](generator)
    assert len(counts) == 4
    assert sum(counts) > 100  # samples all over the square: about 125

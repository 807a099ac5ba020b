"""The examples run, and do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_gan_with_mi(capsys):
    example = runpy.run_path(str(EXAMPLES / "gan_with_mi.py"))
    generator = example["train"](500)
    said = capsys.readouterr().out
    assert said.startswith("step 500: I(x_fake; code) at least ")
    # Without the term it stays near 0: nothing asks the samples to tell their codes.
    assert float(said.split()[-2]) > 0.3
    counts = example["modes"](generator)
    assert len(counts) == 4
    assert sum(counts) > 100  # samples all over the square: about 125

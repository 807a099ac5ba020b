"""What an installed mine_fast must do, whatever torch it meets: for wheels, beside no source and no test package.

    cd /somewhere/else && python wheel_smoke.py      prints one JSON line; fails with a traceback

Values that the stable ABI has to carry unchanged (the shuffle's bits, the estimates) are printed, so that
`wheel_check.py` can hold one torch's against another's.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import subprocess
import sys
import sysconfig
import warnings

import numpy as np
import torch
from torch import nn

import mine_fast
from mine_fast import info, ops, reference


def check_ops() -> str:
    """Kernels against their references, gradients, opcheck and compile; returns a hash of the shuffle."""
    torch.manual_seed(0)
    key = ops.shuffle_key(7, 3)
    index = ops.shuffle_index(1000, key, 3)
    assert (index != torch.arange(1000)).all()
    assert torch.equal(index.sort(1).values, torch.arange(1000).expand(3, -1))

    joint, marginal = torch.randn(50), torch.randn(200) + 100  # scores at which exp leaves float32
    joint.requires_grad_()
    marginal.requires_grad_()
    for loss in reference.LOSSES[:2]:
        term = ops.dv_loss(joint, marginal, loss=loss)
        wanted = torch.logsumexp(marginal, 0) - math.log(200) - joint.mean()
        torch.testing.assert_close(term.loss, wanted)
        torch.testing.assert_close(
            torch.autograd.grad(term.loss, marginal)[0], torch.softmax(marginal, 0), atol=1e-6, rtol=1e-4
        )

    y = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: ops.marginal_shuffle(y, key, 2), y)
    torch.library.opcheck(torch.ops.mine_fast.marginal_shuffle.default, (y.detach(), key, 2))

    def loss(joint: torch.Tensor, marginal: torch.Tensor) -> torch.Tensor:
        return ops.dv_loss(joint, marginal).loss

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(joint, marginal), loss(joint, marginal))
    return hashlib.sha256(index.numpy().tobytes()).hexdigest()[:16]


def check_estimates() -> dict[str, float]:
    """The trainings by the engine and by torch, a loss in a loop, many at once."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(1000)
    y = 0.9 * x + math.sqrt(1 - 0.81) * rng.standard_normal(1000)
    found = {}
    for engine in ("native", "torch"):
        torch.manual_seed(0)
        critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
        r = mine_fast.MINE(critic, method="concat", seed=0).fit(x, y, steps=200, engine=engine)
        found[engine] = r.mi
    assert abs(found["native"] - found["torch"]) < 1e-3, found
    result = mine_fast.estimate(x, y, steps=100)
    found["default critic"] = result.mi
    assert abs(result.mi - 0.830) < 5 * result.stderr + 0.02, result
    assert result.p_value < 1e-3
    first, second = mine_fast.estimate_many([(x, y), (x, rng.standard_normal(1000))], steps=100)
    assert first.mi == result.mi
    assert abs(second.mi) < 0.05

    mine = mine_fast.MINE(nn.Bilinear(3, 3, 1), seed=0)
    z = torch.randn(64, 3, requires_grad=True)
    mine(z, z * 2).backward()
    assert z.grad is not None
    again = mine_fast.MINE(nn.Bilinear(3, 3, 1), seed=1)
    again.load_state_dict(mine.state_dict())
    assert torch.equal(again.log_ema, mine.log_ema)
    return found


def main() -> None:
    """All of it, and what was met."""
    assert sysconfig.get_paths()["platlib"] in mine_fast.__file__, f"not the installed package: {mine_fast.__file__}"
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        shuffle, estimates = check_ops(), check_estimates()
    told = subprocess.run([sys.executable, "-m", "mine_fast", "info"], capture_output=True, text=True, check=True)
    assert torch.__version__ in told.stdout
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "torch_cuda": torch.version.cuda,
                "numpy": np.__version__,
                "python": platform.python_version(),
                "mine_fast": mine_fast.__version__,
                "built_with": info.build_info()["torch"],
                "shuffle": shuffle,
                "estimates": estimates,
            }
        )
    )


if __name__ == "__main__":
    main()

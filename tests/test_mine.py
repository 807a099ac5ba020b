"""`mine_fast.MINE` as a loss and as mine-pytorch's `Mine`."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from helpers import assert_compiles_alike
from torch import nn

import mine_fast
from mine_fast import ops

LOSSES = ("mine", "mine_biased", "fdiv")


class TwoArgumentCritic(nn.Module):
    """T(x, z) over a stack of layers, as mine-pytorch's `T`."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x, z):
        return self.layers(torch.cat([x, z], 1))


def stack(x_width=2, z_width=1, hidden=16, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(x_width + z_width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, 1)
    ).to(dtype)


def batch(rows=32, x_width=2, z_width=1, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, x_width, generator=generator, dtype=torch.float64)
    z = x[:, :1].expand(-1, z_width) + torch.randn(rows, z_width, generator=generator, dtype=torch.float64)
    return x.to(dtype), z.to(dtype)


class LinearDomainMine:
    """The semantics to match, written out in the linear domain: what mine-pytorch's `Mine.forward` computes."""

    def __init__(self, critic, loss, alpha):
        self.critic, self.loss, self.alpha, self.mean = critic, loss, alpha, None

    def __call__(self, x, z, z_marg):
        joint = self.critic(x, z).mean()
        t = self.critic(x, z_marg)
        if self.loss == "fdiv":
            return torch.exp(t - 1).mean() - joint
        if self.loss == "mine_biased":
            return torch.log(torch.exp(t).mean()) - joint
        batch_mean = torch.exp(t.detach()).mean()
        self.mean = batch_mean if self.mean is None else self.alpha * batch_mean + (1 - self.alpha) * self.mean
        weighted = (torch.exp(t.detach()) / (self.mean + 1e-6) * t).mean()
        return torch.log(batch_mean) + weighted - weighted.detach() - joint


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", [None, "concat"])
@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_values_and_gradients_are_those_of_mine_pytorch(loss, alpha, method, dtype):
    layers = stack(dtype=dtype)
    mine = mine_fast.MINE(layers if method == "concat" else TwoArgumentCritic(layers), loss, alpha, method)
    reference_layers = copy.deepcopy(layers)
    reference = LinearDomainMine(TwoArgumentCritic(reference_layers), loss, alpha)
    ours = torch.optim.SGD(layers.parameters(), lr=0.5)
    theirs = torch.optim.SGD(reference_layers.parameters(), lr=0.5)
    for step in range(6):
        x, z = batch(dtype=dtype, seed=step)
        z_marg = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(step))] * (1 + step)
        inputs = [v.clone().requires_grad_() for v in (x, z, z_marg)]
        reference_inputs = [v.clone().requires_grad_() for v in (x, z, z_marg)]
        ours.zero_grad()
        theirs.zero_grad()
        value, expected = mine(*inputs), reference(*reference_inputs)
        value.backward()
        expected.backward()
        tolerance = {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(value, expected, **tolerance)
        for name, a, b in zip(("x", "z", "z_marg"), inputs, reference_inputs, strict=True):
            torch.testing.assert_close(a.grad, b.grad, **tolerance, msg=lambda m, n=name: f"gradient of {n}: {m}")
        for a, b in zip(layers.parameters(), reference_layers.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, **tolerance)
        ours.step()
        theirs.step()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shuffles", [1, 3])
def test_every_way_to_score_gives_the_same_loss_and_gradients(loss, shuffles):
    """The split first layer, one call on paired rows, and two calls of an opaque critic, for the same key."""
    x, z = batch(33)
    layers = stack()
    no_first_linear = nn.Sequential(nn.Identity(), *copy.deepcopy(layers))
    variants = {
        "split": mine_fast.MINE(layers, loss, method="concat", shuffles=shuffles, seed=5),
        "paired": mine_fast.MINE(no_first_linear, loss, method="concat", shuffles=shuffles, seed=5),
        "opaque": mine_fast.MINE(TwoArgumentCritic(copy.deepcopy(layers)), loss, shuffles=shuffles, seed=5),
        "function": mine_fast.MINE(lambda x, z: layers(torch.cat([x, z], 1)), loss, shuffles=shuffles, seed=5),
    }
    results = {}
    for name, mine in variants.items():
        for _ in range(2):  # the second call has another key and an average to use
            inputs = [x.clone().requires_grad_(), z.clone().requires_grad_()]
            mine.zero_grad()
            layers.zero_grad()
            value = mine(*inputs)
            value.backward()
        parameters = layers if name == "function" else mine
        results[name] = [value, *(i.grad for i in inputs), *(p.grad.clone() for p in parameters.parameters())]
    for name in ("paired", "opaque", "function"):
        for a, b in zip(results["split"], results[name], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_marginals_are_derangements_of_z_for_the_key():
    seen = []

    def critic(x, z):
        seen.append(z.detach().clone())
        return (x * z).sum(1)

    x, z = batch(16)
    mine = mine_fast.MINE(critic, seed=3)
    mine(x[:, :1], z)
    index = ops.shuffle_index(16, ops.shuffle_key(3, 0))[0]
    assert torch.equal(seen[1], z[index])
    assert not (index == torch.arange(16)).any()


def test_training_moves_the_average_and_the_shuffle_and_eval_moves_no_average():
    mine = mine_fast.MINE(stack(), method="concat", seed=1)
    x, z = batch()
    assert mine.log_ema == -math.inf
    first, second = mine(x, z), mine(x, z)
    assert first != second  # other pairs
    assert mine.shuffle_key.tolist() == [1, 2]
    kept = mine.log_ema.clone()
    assert torch.isfinite(kept)
    mine.eval()
    mine(x, z)
    assert torch.equal(mine.log_ema, kept)
    for other in ("mine_biased", "fdiv"):
        biased = mine_fast.MINE(stack(), other, method="concat")
        biased(x, z)
        assert biased.log_ema == -math.inf


def test_mi_leaves_everything_alone_and_repeats():
    mine = mine_fast.MINE(stack(), method="concat", seed=1)
    x, z = batch()
    mine(x, z)
    before = copy.deepcopy(mine.state_dict())
    state = torch.get_rng_state()
    a, b = mine.mi(x, z), mine.mi(x.numpy(), z[:, 0].numpy())
    assert a.shape == ()
    assert not a.requires_grad
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in mine.state_dict().items():
        assert torch.equal(value, before[name]), name
    z_marg = z.flip(0)
    expected = -LinearDomainMine(TwoArgumentCritic(mine.T), "mine", 0.01)(x, z, z_marg)
    torch.testing.assert_close(mine.mi(x, z, z_marg), expected.detach())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale", [200.0, 1e4])
def test_scores_far_outside_exp_have_finite_loss_and_gradients(loss, scale):
    if loss == "fdiv":
        scale = 80.0  # its value is mean exp(t - 1), which no fp32 number is beyond 89
    mine = mine_fast.MINE(lambda x, z: scale * x * z, loss, seed=0)
    x = torch.linspace(-1, 1, 33)[:, None].requires_grad_()
    z = torch.linspace(-1, 1, 33)[:, None].requires_grad_()
    for _ in range(3):
        value = mine(x, z)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(x.grad).all()
        assert torch.isfinite(z.grad).all()
        assert x.grad.abs().max() > 0


def test_state_dict_continues_bit_for_bit():
    def run(mine, optimizer, steps):
        losses = []
        for step in steps:
            optimizer.zero_grad()
            loss = mine(*batch(seed=step))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    mine = mine_fast.MINE(stack(), method="concat", seed=4)
    optimizer = torch.optim.Adam(mine.parameters())
    run(mine, optimizer, range(3))
    resumed = mine_fast.MINE(stack(), method="concat")
    resumed.load_state_dict(mine.state_dict())
    resumed_optimizer = torch.optim.Adam(resumed.parameters())
    resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # load shares tensors
    assert run(mine, optimizer, range(3, 6)) == run(resumed, resumed_optimizer, range(3, 6))


def test_seed_comes_from_torchs_generator_or_the_argument():
    def pairs(**kwargs):
        return mine_fast.MINE(stack(), method="concat", **kwargs).shuffle_key.tolist()

    torch.manual_seed(3)
    a = pairs()
    torch.manual_seed(3)
    assert a == pairs()
    assert pairs(seed=9) == [9, 0]


def test_gradients_accumulate_over_calls_before_one_backward():
    """The key of each call must outlive the next call's."""
    x, z = batch()
    apart, together = (mine_fast.MINE(stack(), "mine_biased", method="concat", seed=2) for _ in range(2))
    for _ in range(2):
        apart(x, z).backward()
    (together(x, z) + together(x, z)).backward()
    for a, b in zip(apart.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("loss", LOSSES)
def test_compiles_as_one_graph(loss):
    eager = mine_fast.MINE(stack(), loss, method="concat", seed=2)
    graph = mine_fast.MINE(stack(), loss, method="concat", seed=2)
    assert_compiles_alike(eager, graph, batch(), steps=3)
    assert torch.equal(eager.shuffle_key, graph.shuffle_key)
    torch.testing.assert_close(eager.log_ema, graph.log_ema)


def test_autocast_keeps_the_loss_in_float32():
    x, z = batch(64)
    full = mine_fast.MINE(stack(), method="concat", seed=2)
    mixed = mine_fast.MINE(stack(), method="concat", seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = mixed(x, z)
    assert loss.dtype == torch.float32
    loss.backward()
    expected = full(x, z)
    expected.backward()
    assert abs(loss.item() - expected.item()) < 0.02  # bfloat16 has 8 bits
    a, b = (torch.cat([p.grad.flatten() for p in mine.parameters()]) for mine in (full, mixed))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.99


def test_module_in_half_or_double_follows():
    for dtype in (torch.float64, torch.bfloat16):
        mine = mine_fast.MINE(stack(), method="concat", seed=2).to(dtype)
        loss = mine(*batch(dtype=dtype))
        loss.backward()
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.isfinite(mine.log_ema)


def test_batch_normalisation_sees_joint_and_marginal_rows_apart():
    """A critic whose rows are not independent is called as mine-pytorch calls it."""
    layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    x, z = batch()
    mine = mine_fast.MINE(layers, "mine_biased", method="concat", seed=0)
    z_marg = ops.marginal_shuffle(z, ops.shuffle_key(0))[0]
    t, t_marg = layers(torch.cat([x, z], 1)), layers(torch.cat([x, z_marg], 1))
    torch.testing.assert_close(mine(x, z), t_marg.exp().mean().log() - t.mean())


def test_hooks_of_a_layer_still_run():
    layers = stack()
    calls = []
    layers[0].register_forward_hook(lambda *_: calls.append(1))
    mine = mine_fast.MINE(layers, method="concat")
    mine(*batch())
    assert calls


def test_convolutional_critic_takes_images():
    class ImageCritic(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(1, 4, 3)
            self.out = nn.Linear(4 * 36 + 1, 1)

        def forward(self, image, z):
            return self.out(torch.cat([self.convolution(image).flatten(1), z], 1))

    images = torch.randn(12, 1, 8, 8, requires_grad=True)
    mine = mine_fast.MINE(ImageCritic(), shuffles=2)
    mine(images, torch.randn(12)).backward()
    assert images.grad.abs().sum() > 0
    assert torch.isfinite(mine.mi(images.detach(), torch.randn(12)))


def test_the_readme_example_of_mine_pytorch():
    """As it stands there, with the comma it lacks, numpy's name for the mean, and a size for there to be samples."""
    x_dim = y_dim = 1
    torch.manual_seed(0)
    statistics_network = nn.Sequential(
        nn.Linear(x_dim + y_dim, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 1)
    )
    mine = mine_fast.MINE(
        T=statistics_network,
        loss="mine",  # mine_biased, fdiv
        method="concat",
    )
    np.random.seed(0)  # noqa: NPY002
    joint_samples = np.random.multivariate_normal(  # noqa: NPY002
        mean=np.array([0, 0]), cov=np.array([[1, 0.2], [0.2, 1]]), size=3000
    )
    X, Y = joint_samples[:, 0], joint_samples[:, 1]
    mi = mine.optimize(X, Y, iters=100)
    assert abs(float(mi) - 0.0204) < 0.03


@pytest.mark.parametrize("loss", LOSSES)
def test_optimize_finds_the_information(loss):
    generator = np.random.default_rng(0)
    x = generator.standard_normal(2000)
    y = 0.9 * x + math.sqrt(1 - 0.81) * generator.standard_normal(2000)
    mine = mine_fast.MINE(stack(1, 1, 64), loss, method="concat", seed=0)
    optimizer = torch.optim.Adam(mine.parameters(), lr=5e-3)
    mi = mine.optimize(x, y, iters=60, batch_size=200, opt=optimizer)
    assert 0.70 < float(mi) < 0.95  # the truth is 0.830


def test_optimize_with_few_rows_default_critic_and_partial_batches():
    mine = mine_fast.MINE(seed=0)
    mi = mine.optimize(torch.randn(7), torch.randn(7), iters=2)
    assert torch.isfinite(mi)
    assert torch.isfinite(mine.mi(torch.randn(9), torch.randn(9)))


def test_divergence_is_an_error():
    mine = mine_fast.MINE(stack(1, 1), method="concat")
    optimizer = torch.optim.SGD(mine.parameters(), lr=1e20)
    with pytest.raises(mine_fast.DivergenceError, match="diverged"):
        mine.optimize(torch.randn(64), torch.randn(64), iters=20, opt=optimizer)


X, Z = batch()
T = stack()
BAD_CONSTRUCTIONS = [
    ({"T": 3}, TypeError, "T must be"),
    ({"loss": "dv"}, ValueError, "loss must be one of mine, mine_biased, fdiv, nwj, js, infonce, smile, got 'dv'"),
    ({"loss": None}, ValueError, "loss must be"),
    ({"method": "cat"}, ValueError, "method must be None or 'concat', got 'cat'"),
    ({"alpha": 0.0}, ValueError, "alpha must be in"),
    ({"alpha": 1.5}, ValueError, "alpha must be in"),
    ({"alpha": math.nan}, ValueError, "alpha must be in"),
    ({"alpha": "0.1"}, TypeError, "alpha must be a number"),
    ({"clip": 0}, ValueError, "clip must be above 0, got 0"),
    ({"clip": math.nan}, ValueError, "clip must be above 0"),
    ({"clip": "5"}, TypeError, "clip must be a number above 0, got str '5'"),
    ({"shuffles": 0}, ValueError, "shuffles must be at least 1"),
    ({"shuffles": 1.5}, TypeError, "shuffles must be an int"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_CONSTRUCTIONS)
def test_bad_constructions(arguments, error, message):
    with pytest.raises(error, match=message):
        mine_fast.MINE(**{"T": T, "method": "concat", **arguments})


BAD_BATCHES = [
    ((X, Z[:-1]), ValueError, "equally many rows, got 32 and 31"),
    ((X[:1], Z[:1]), ValueError, "at least 2 rows"),
    ((X[:0], Z[:0]), ValueError, "must have rows"),
    ((X[:, :0], Z), ValueError, "x must have rows and columns"),
    ((X.long(), Z.long()), TypeError, "x must be a floating-point tensor, got a torch"),
    ((X.to(torch.complex64), Z), TypeError, "x must be a floating-point tensor"),
    ((X, Z.to(torch.complex64)), TypeError, "z must be a floating-point tensor"),
    ((X, Z.double()), TypeError, "z must have the dtype of x"),
    ((X, Z.to("meta")), ValueError, "z must be on the device of x"),
    ((X.double(), Z.double()), TypeError, "T does not fit the data"),
    ((X, torch.cat([Z, Z], 1)), ValueError, "T does not fit the data"),
    ((X[:, :, None], Z), ValueError, r"must be \[B, d\] to be concatenated"),
    ((X.numpy(), Z), TypeError, "x must be a torch tensor in a loss"),
    ((None, Z), TypeError, "x must be a torch tensor"),
    ((X[0, 0], Z), ValueError, "x must have rows"),
    ((X, Z, Z[:-1]), ValueError, "z and z_marg must have equally many rows"),
    ((X, Z, Z.double()), TypeError, "z_marg must have the dtype"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_BATCHES)
def test_bad_batches(arguments, error, message):
    mine = mine_fast.MINE(copy.deepcopy(T), method="concat", seed=0)
    with pytest.raises(error, match=message):
        mine(*arguments)
    assert mine.log_ema == -math.inf


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        (nn.Linear(3, 2), r"one score per row, shape \[32\] or \[32, 1\], got \[32, 2\]"),
        (nn.Sequential(nn.Linear(3, 2)), r"got \[64, 2\]"),
        (lambda rows: rows.mean(), r"one score per row"),
        (lambda rows: 3.0, "got float"),
        (nn.Linear(5, 1), "T does not fit the data"),
    ],
)
def test_bad_critics(critic, message):
    with pytest.raises(ValueError, match=message):
        mine_fast.MINE(critic, method="concat")(X, Z)


def test_the_default_critic_is_no_loss_before_it_saw_data():
    with pytest.raises(ValueError, match="T is None"):
        mine_fast.MINE()(X, Z)
    with pytest.raises(ValueError, match="before prepare"):
        mine_fast.MINE(mine_fast.MLPCritic())(X, Z)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"iters": 0}, ValueError, "iters must be at least 1, got 0"),
        ({"batch_size": 1}, ValueError, "batch_size must be at least 2, got 1"),
        ({"iters": 2.0}, TypeError, "iters must be an int"),
        ({"opt": "adam"}, TypeError, "opt must be a torch.optim.Optimizer"),
        ({"X": [[float("nan")]] * 8}, ValueError, "X|x"),
        ({"Y": ["a"] * 32}, TypeError, "Y|y"),
        ({"Y": np.zeros(31)}, ValueError, "31"),
    ],
)
def test_bad_optimize(arguments, error, message):
    mine = mine_fast.MINE(copy.deepcopy(T), method="concat")
    with pytest.raises(error, match=message):
        mine.optimize(**{"X": X, "Y": Z, **arguments})


class Tokens(nn.Module):
    """Scores x against one of ten words."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(10, 2)

    def forward(self, x, z):
        return (x * self.words(z[:, 0])).sum(1)


@pytest.mark.parametrize("marginals", ["shuffle", "all"])
def test_tokens_go_to_a_critic_of_two_arguments_as_they_are(marginals):
    mine = mine_fast.MINE(Tokens(), seed=0, marginals=marginals)
    x, z = torch.randn(40, 2), torch.arange(40) % 10
    mine(x, z).backward()
    assert mine.T.words.weight.grad.abs().sum() > 0
    assert mine.mi(x, z) == -mine.eval()(x, z)
    if marginals == "shuffle":
        assert mine.mi(x, z, z.flip(0)) == -mine(x, z, z.flip(0))
    with pytest.raises(TypeError, match=r"T does not fit the data.*scalar types"):
        mine.fit(x, z)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_whole_numbers_are_concatenated_as_the_other_sides_dtype(dtype):
    x, codes = torch.randn(40, 2, dtype=torch.float64), nn.functional.one_hot(torch.arange(40) % 3)
    for given, wanted in (((x, codes.to(dtype)), (x, codes.double())), ((codes.to(dtype), x), (codes.double(), x))):
        mine = mine_fast.MINE(stack(3, 2).double(), method="concat", seed=0).eval()
        assert mine(*given) == mine(*wanted)
        assert mine(*given, given[1].flip(0)) == mine(*wanted, wanted[1].flip(0))
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        mine(codes, codes)


def test_autocast_takes_raw_rows_beside_encoded_ones():
    encoder = nn.Linear(2, 1)
    x = torch.randn(40, 2)
    for T, method in ((stack(), "concat"), (TwoArgumentCritic(stack()), None)):
        mine = mine_fast.MINE(T, method=method, seed=0).eval()
        with torch.autocast("cpu", torch.bfloat16):
            z = encoder(x)
            assert z.dtype == torch.bfloat16
            loss = mine(x, z)
            assert torch.isfinite(mine(x, z, z.flip(0)))
        assert loss.dtype == torch.float32
        loss.backward()
        assert encoder.weight.grad.abs().sum() > 0
        encoder.zero_grad()
    with pytest.raises(TypeError, match=r"z must have the dtype of x, torch\.float32, got torch\.bfloat16"):
        mine(x, z)


@pytest.mark.parametrize("method", [None, "concat"])
def test_vmap_over_critics_has_the_gradient_of_each(method):
    """Eager: a tensor of vmap does not say that it needs a gradient."""
    mines = [mine_fast.MINE(TwoArgumentCritic(stack()) if method is None else stack(), method=method) for _ in range(3)]
    for k, mine in enumerate(mines):
        nn.init.normal_(next(mine.T.parameters()), std=0.1 * (1 + k))
        mine.shuffle_key.zero_()
        mine.eval()
    x, z = batch()
    parameters, buffers = torch.func.stack_module_state(mines)
    losses = torch.vmap(lambda p, b: torch.func.functional_call(mines[0], (p, b), (x, z)))(parameters, buffers)
    found = torch.autograd.grad(losses.sum(), list(parameters.values()))
    for k, mine in enumerate(mines):
        loss = mine(x, z)
        torch.testing.assert_close(losses[k], loss)
        for got, wanted in zip(found, torch.autograd.grad(loss, list(mine.T.parameters())), strict=True):
            torch.testing.assert_close(got[k], wanted, rtol=1e-4, atol=1e-6)

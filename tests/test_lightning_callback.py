"""`MutualInfoCallback` in small trainings: what it logs, when, of which rows; the training does not feel it."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")

import lightning.pytorch as lightning

from mine_fast import estimate
from mine_fast.integrations.lightning import MutualInfoCallback
from mine_fast.integrations.row_sample import RowSample

# Lightning's advice on workers and intervals of logging.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning", "ignore:::pytorch_lightning")

QUICK = {"steps": 30, "folds": 2}


class Noisy(lightning.LightningModule):
    """A linear layer with noise: I(X; Z) is known from its weight."""

    def __init__(self, noise: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(1, 1)
        self.head = nn.Sequential(nn.Identity(), nn.Dropout(0.5))
        self.noise = noise
        self.batches = []

    def forward(self, x):
        return self.head(self.encoder(x) + self.noise * torch.randn_like(x))

    def training_step(self, batch, batch_idx):
        self.batches.append(batch[0].clone())
        return {"loss": (self(batch[0]) - batch[1]).square().mean(), "z": batch[1] * 2}

    def validation_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def loaders():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(320, 1, generator=generator)
    data = TensorDataset(x, x + torch.randn(320, 1, generator=generator))
    order = torch.Generator().manual_seed(1)
    return DataLoader(data, batch_size=32, shuffle=True, generator=order), DataLoader(data, batch_size=50)


def train(model, loaders, *callbacks, package=lightning, **settings):
    trainer = package.Trainer(
        accelerator="cpu",
        max_epochs=settings.pop("max_epochs", 2),
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(model, *loaders)
    return trainer


def first_column(batch, outputs):
    return batch[0]


def test_the_information_of_a_layer_at_every_validation(loaders):
    callback = MutualInfoCallback(first_column, "head.0", name="I(X;Z)", **QUICK)
    model = Noisy(noise=0.1)
    nn.init.ones_(model.encoder.weight)
    trainer = train(model, loaders, callback)
    assert [step for step, _ in callback.results] == [10, 20]  # the sanity check is none
    result = callback.results[-1][1]
    assert trainer.callback_metrics["I(X;Z)"].item() == pytest.approx(result.mi, rel=1e-6)
    assert trainer.callback_metrics["I(X;Z)_stderr"].item() == pytest.approx(result.stderr, rel=1e-6)
    weight = model.encoder.weight.item()
    assert abs(result.mi - 0.5 * math.log(1 + (weight / 0.1) ** 2)) < 4 * result.stderr
    assert result.mi > 0.4
    assert result.n == 320
    assert len(result.joint_scores) == 0
    assert not model.encoder._forward_hooks
    assert not model.head[0]._forward_hooks


def test_every_second_validation_and_a_bounded_sample(loaders):
    callback = MutualInfoCallback(first_column, lambda batch, z: z, every_n_epochs=2, rows=100, **QUICK)
    train(Noisy(), loaders, callback, max_epochs=4)
    assert [step for step, _ in callback.results] == [20, 40]
    assert [result.n for _, result in callback.results] == [100, 100]


def test_the_latest_rows_of_the_training(loaders):
    callback = MutualInfoCallback(first_column, "encoder", every_n_steps=6, rows=70, **QUICK)
    model = Noisy()
    seen = []
    callback._estimate = lambda trainer, module: seen.append((trainer.global_step, *callback._sample.rows()))
    train(model, loaders, callback)
    assert [step for step, _, _ in seen] == [6, 12, 18]
    for step, x, y in seen:
        latest = torch.cat(model.batches[:step])[-70:]
        assert np.array_equal(x, latest.numpy())
        assert y.shape == (70, 1)
    assert not model.encoder._forward_hooks


def test_it_copies_no_more_batches_than_it_needs(loaders):
    asked = []

    def x(batch, outputs):
        asked.append(len(batch[0]))
        return batch[0]

    train(Noisy(), loaders, MutualInfoCallback(x, "encoder", every_n_steps=10, rows=40, **QUICK))
    assert len(asked) == 10 + 2  # all of the first ten, of unknown size; then two of 32 rows for 40


def test_estimates_are_those_of_estimate(loaders):
    callback = MutualInfoCallback(first_column, lambda batch, outputs: outputs["z"], every_n_steps=10, seed=3, **QUICK)
    model = Noisy()
    train(model, loaders, callback, max_epochs=1)
    x = torch.cat(model.batches).numpy()
    targets = {float(a): b for a, b in zip(*(side.flatten() for side in loaders[0].dataset.tensors), strict=True)}
    y = np.array([[2 * targets[float(value)]] for value in x.flatten()], dtype=np.float32)
    assert callback.results[0][1].mi == estimate(x, y, seed=3, **QUICK).mi


def test_the_training_does_not_feel_it(loaders):
    """Dropout, noise and the order of batches: the same weights with and without the callbacks."""
    weights = []
    for callbacks in (
        [],
        [
            MutualInfoCallback(first_column, "encoder", **QUICK),
            MutualInfoCallback("head", "encoder", every_n_steps=7, name="other", **QUICK),
        ],
    ):
        loaders[0].generator.manual_seed(1)
        model = Noisy()
        torch.manual_seed(5)
        train(model, loaders, *callbacks)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_by_the_other_package(loaders):
    package = pytest.importorskip("pytorch_lightning", reason="pytorch_lightning is not installed")

    class Other(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(1, 1)

        def forward(self, x):
            return self.encoder(x)

        def training_step(self, batch, batch_idx):
            return (self(batch[0]) - batch[1]).square().mean()

        validation_step, configure_optimizers = Noisy.validation_step, Noisy.configure_optimizers

    saved = {name: sys.modules.pop(name) for name in list(sys.modules) if name == "mine_fast.integrations.lightning"}
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "lightning"}
    try:
        from mine_fast.integrations.lightning import MutualInfoCallback as OtherCallback

        assert issubclass(OtherCallback, package.Callback)
        callback = OtherCallback(first_column, "encoder", **QUICK)
        train(Other(), loaders, callback, package=package, max_epochs=1)
        assert len(callback.results) == 1
    finally:
        sys.modules.update(saved | hidden)


def test_a_checkpoint_goes_on_counting():
    callback = MutualInfoCallback(first_column, "encoder", every_n_steps=7)
    callback.load_state_dict({"validations": 3, "batches": 9})
    assert callback.state_dict() == {"validations": 3, "batches": 9}


# What cannot be estimated. --------------------------------------------------------------------------------------------


def test_values_that_are_not_finite_warn_and_the_training_goes_on(loaders):
    callback = MutualInfoCallback(first_column, lambda batch, z: z * math.nan, **QUICK)
    with pytest.warns(UserWarning, match="mi was not estimated at step 10: y must be finite"):
        trainer = train(Noisy(), loaders, callback, max_epochs=1)
    assert callback.results == []
    assert "mi" not in trainer.callback_metrics
    assert trainer.global_step == 10


BAD = [
    ((3, "encoder"), {}, TypeError, "x must be the name of a submodule or a function, got 3"),
    (("encoder", None), {}, TypeError, "y must be"),
    (("encoder", "head"), {"rows": 19}, ValueError, "rows must be at least 20"),
    (("encoder", "head"), {"every_n_steps": 0}, ValueError, "every_n_steps"),
    (("encoder", "head"), {"every_n_epochs": 1.5}, TypeError, "every_n_epochs"),
    (("encoder", "head"), {"widths": 3}, TypeError, "widths is no setting"),
    (("encoder", "head"), {"loss": "kl"}, ValueError, "loss must be one of"),
]


@pytest.mark.parametrize(("sources", "arguments", "error", "message"), BAD)
def test_bad_arguments(sources, arguments, error, message):
    with pytest.raises(error, match=message):
        MutualInfoCallback(*sources, **arguments)


BAD_IN_TRAINING = [
    (("decoder", "encoder"), ValueError, "x must name a submodule of the model, got 'decoder'; it has encoder, head"),
    ((first_column, lambda batch, z: z[:-1]), ValueError, "got 50 in x and 49 in y"),
    ((first_column, lambda batch, z: None), TypeError, "y: what the function returned must be a tensor"),
    ((first_column, lambda batch, z: z.sum()), TypeError, "got a 0-d tensor"),
    ((first_column, "unused"), ValueError, "y: submodule 'unused' was not called"),
]


@pytest.mark.parametrize(("sources", "error", "message"), BAD_IN_TRAINING)
def test_bad_sources(loaders, sources, error, message):
    model = Noisy()
    model.unused = nn.Linear(1, 1)
    with pytest.raises(error, match=message):
        train(model, loaders, MutualInfoCallback(*sources, **QUICK), max_epochs=1)
    assert not model.encoder._forward_hooks


# The sample. ----------------------------------------------------------------------------------------------------------


def test_a_random_sample_is_even():
    """Of 40 rows in uneven batches 10 stay: each in a quarter of 800 samples, to 4 standard deviations."""
    counts = np.zeros(40)
    for seed in range(800):
        sample = RowSample(10, latest=False, seed=seed)
        for part in np.split(np.arange(40.0)[:, None], [1, 4, 20]):
            sample.add(part, -part)
        x, y = sample.rows()
        assert np.array_equal(x, -y)
        assert len(x) == 10
        assert (np.diff(x[:, 0]) > 0).all()
        counts[x[:, 0].astype(int)] += 1
    assert abs(counts - 200).max() < 4 * math.sqrt(800 * 0.25 * 0.75)


def test_a_sample_of_few_rows_or_none():
    sample = RowSample(10, latest=False, seed=0)
    assert sample.rows()[0].shape == (0, 1)
    sample.add(np.ones((3, 2)), np.ones((3, 1)))
    assert sample.rows()[0].shape == (3, 2)
    with pytest.raises(ValueError, match="as many columns in every batch"):
        sample.add(np.ones((3, 3)), np.ones((3, 1)))
    sample.clear()
    assert len(sample.rows()[1]) == 0

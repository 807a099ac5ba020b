"""What the networks of `bigan-mnist` reconstruct if they are trained for that alone.

    MINE_FAST_DATA=... python benchmarks/reconstruction_limit.py [--seeds 0-2] [--steps 10000]

The encoder, with its noise, and the generator of the preset `quick`, by the same number of steps, batches and the same
optimiser, but the loss is the squared error of the reconstruction: no discriminator, no prior of the code, no
information. It bounds what the networks can do in that time, and is measured as the experiment is. Written to
benchmarks/results/reconstruction_limit.json.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import record
import torch
from sampling import seed_range
from torch import nn

from mine_fast.experiments.bigan import perceptrons
from mine_fast.experiments.bigan_mnist import EXPERIMENT, Settings, reconstructed, reconstruction
from mine_fast.experiments.digits import prepared, train_classifier
from mine_fast.experiments.gan import steps_to_look
from mine_fast.experiments.run import Run, seeded
from mine_fast.modules import in_mode


def measured(settings: Settings, seed: int, folder: Path) -> dict[str, Any]:
    """Error, accuracy and MS-SSIM on the test images, by step."""
    run = Run(settings, seed, folder)
    start = time.process_time()
    with seeded(seed):
        training, test = prepared(run, "train", settings.rows), prepared(run, "test", settings.test_rows)
        classifier, _ = train_classifier(run, training, test, settings.classifier_epochs)
        networks = perceptrons(settings, 784, [nn.Tanh()])
        generator, encoder = networks.generator, networks.encoder
        optimizer = torch.optim.Adam(
            [*generator.parameters(), *encoder.parameters()], settings.rate, betas=(0.5, 0.999)
        )
        images = training.images.flatten(1)
        looks, at = [], steps_to_look(settings.steps, settings.looks)
        for step in range(1, settings.steps + 1):
            x = images[torch.randint(len(images), (settings.batch,))]
            loss = (generator(encoder.draw(x)) - x).square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step in at:
                with in_mode(generator, False), in_mode(encoder, False), torch.no_grad():
                    sd = float(encoder(test.images.flatten(1))[1].mean())
                    noted = reconstruction(classifier, test, reconstructed(networks, test.images))
                looks.append({**noted, "noise sd": sd, "step": step})
    run.close()
    row = {"seed": seed, "steps": settings.steps, "cpu_seconds": time.process_time() - start}
    return row | {"last": looks[-1], "error by step": [look["error"] for look in looks]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=seed_range, default="0-2", help="first-last, or one (default: 0-2)")
    parser.add_argument("--steps", type=int, default=EXPERIMENT.presets["quick"].steps)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = replace(EXPERIMENT.presets["quick"], steps=options.steps)
    rows = []
    for seed in options.seeds:
        with TemporaryDirectory() as folder:
            rows.append(measured(settings, seed, Path(folder)))
        print(rows[-1], flush=True)
    record.write(
        "reconstruction_limit", rows, about="bigan-mnist's encoder and generator, trained on the squared error"
    )


if __name__ == "__main__":
    main()

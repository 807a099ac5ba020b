"""Devices that cannot be computed on are refused in one line."""

import pytest
import torch

from mine_fast.devices import usable_device


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "cpu:0"])
def test_the_cpu(device):
    assert usable_device(device).type == "cpu"


@pytest.mark.parametrize(
    "device", ["meta", torch.device("meta"), "abacus", "", "xla", "privateuseone", "cuda:99", None]
)
def test_others_are_named(device):
    with pytest.raises(ValueError, match=r"^--device must be ") as caught:
        usable_device(device, "--device")
    message = str(caught.value)
    assert f"got {device if device is None else str(device)!r}" in message
    assert "\n" not in message
    assert len(message) < 250

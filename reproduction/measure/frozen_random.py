"""Provide ResNets with random weights, as frozen encoders to try the evaluation on.

    PYTHONPATH=reproduction/measure bigbigan evaluate python:frozen_random:grey --data mnist
    PYTHONPATH=reproduction/measure bigbigan evaluate python:frozen_random:colour --data cifar10

with --results results/frozen_random.jsonl to record the result.

The backbone is the encoder of the small experiments at its initialisation. Its batch norms keep the statistics of the
first batch, 256 random training images. With statistics of each batch, features would hide or reveal the class of
images that are sorted by class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bigbigan.models.layers import init_weights
from bigbigan.models.resnet import ResNetV2


class RandomResNet(torch.nn.Module):
    resolution = 32

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.trunk = ResNetV2(channels, (16, 32, 64, 256), (1, 1, 1, 1))
        init_weights(self.trunk, torch.Generator().manual_seed(0))
        for module in self.trunk.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        self.filled = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.filled:
            self.trunk.train()(x)
            self.filled = True
        return self.trunk.eval()(x)


grey, colour = RandomResNet(1), RandomResNet(3)

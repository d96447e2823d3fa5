"""Convolutions over space and time, an attention to places, and a prototype for each class: the nearest wins."""
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mfdan.zoo.am3f_flownet_inspired import UNKNOWN, guessed, guessed_train
from mfdan.zoo.contract import method
from mfdan.zoo.mol import GreyFrames

class Residual3d(nn.Module):
    "Two convolutions over space and time beside a shortcut; space is halved."

    def __init__(self, inputs: int, maps: int):
        super().__init__()
        def conv(a, b): return [nn.Conv3d(a, b, 3, padding=1, bias=False), nn.BatchNorm3d(b)]
        self.long = nn.Sequential(*conv(inputs, maps), nn.ReLU(), *conv(maps, maps))
        self.short, self.shrink = nn.Conv3d(inputs, maps, 1), nn.MaxPool3d((1, 2, 2))

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t i j"]:
        return self.shrink((self.long(x) + self.short(x)).relu())

class LocalAttention(nn.Module):
    "How much each place counts; the shares sum to the number of places."

    def __init__(self, maps: int):
        super().__init__()
        self.look = nn.Conv2d(maps, 1, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        said = self.look(x)
        return x * said.numel() / len(x) * said.flatten(1).softmax(-1).view_as(said)


class Nearest(nn.Module):
    "Minus the squared distance to what each class looks like."

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.prototypes = nn.Parameter(0.1 * torch.randn(classes, width))

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b classes"]:
        return -(x.unsqueeze(1) - self.prototypes).square().sum(-1)

@dataclass(frozen=True)
class MEPLANConfig:
    "Settings, each with its source."
    size: int = 112  # side of the frames, pixel
    frames: int = 8
    maps: tuple[int, ...] = (8, 16, 32, 32)
    width: int = 32  # in which classes have their prototypes
    sources: ClassVar = guessed(
        size="guess; quick: 28", frames="guess", maps="guess; quick: 4, 8", width="guess",
        input="guess: grey frames from onset to offset, less the first",
        loss="guess: cross entropy over distances, without episodes")
    published: ClassVar = UNKNOWN


@method(
    "me_plan_inspired", title="ME-PLAN, inspired", cites="after Zhao et al., Neural Networks 2022",
    config=MEPLANConfig, inputs=lambda config: (GreyFrames(config.size, config.frames),),
    profiles={"paper": (MEPLANConfig(), guessed_train(60)),
              "quick": (MEPLANConfig(28, 5, (4, 8)), guessed_train(20, 3e-3)),
              "tiny": (MEPLANConfig(28, 3, (4, 8), 8), guessed_train(12, 1e-2, 6))},
)
class MEPLAN(nn.Module):
    "Blocks, an attention, distances."

    def __init__(self, config: MEPLANConfig, classes: int):
        super().__init__()
        self.blocks = nn.Sequential(*(Residual3d(a, b) for a, b in zip((1, *config.maps),
                                                                      config.maps)))
        self.attend = LocalAttention(config.maps[-1])
        left = config.maps[-1] * (config.size // 2 ** len(config.maps)) ** 2
        self.dense, self.nearest = nn.Linear(left, config.width), Nearest(config.width, classes)

    def forward(self, frames: Float[Tensor, "b t h w"]) -> Float[Tensor, "b classes"]:
        moved = (frames[:, 1:] - frames[:, :1]).unsqueeze(1)
        seen = self.attend(self.blocks(4 * moved).mean(2))
        return self.nearest(self.dense(seen.flatten(1)))

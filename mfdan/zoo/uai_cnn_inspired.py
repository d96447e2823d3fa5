"""A clip as one picture: the mean of its onset, its apex and its magnified face."""
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from mfdan.zoo.am3f_flownet_inspired import UNKNOWN, guessed, guessed_train
from mfdan.zoo.contract import method
from mfdan.zoo.fmanet_inspired import shrinking
from mfdan.zoo.inputs import Face, FramePair

def avatar(
    pair: Float[Tensor, "b 6 h w"], face: Float[Tensor, "b 3 h w"],  # onset and apex; magnified
) -> Float[Tensor, "b 3 h w"]:
    "The mean of the three."
    return (pair[:, :3] + pair[:, 3:] + face) / 3

@dataclass(frozen=True)
class UAIConfig:
    "Settings, each with its source."
    size: int = 224  # side of the faces, pixel
    maps: tuple[int, ...] = (16, 32, 64, 64)
    dropout: float = 0.5
    sources: ClassVar = guessed(
        size="guess; quick: 56", maps="guess; quick: 8, 16, 32", dropout="guess",
        input="paper: an average of magnified frames; guess: of three")
    one_frame: ClassVar = True
    published: ClassVar = UNKNOWN


@method(
    "uai_cnn_inspired", title="UAI-CNN, inspired", cites="after Kumar et al., CVPR workshops 2019",
    config=UAIConfig, inputs=lambda config: (FramePair(config.size), Face(config.size)),
    profiles={"paper": (UAIConfig(), guessed_train(60)),
              "quick": (UAIConfig(56, (8, 16, 32)), guessed_train(30, 3e-3)),
              "tiny": (UAIConfig(28, (8, 16), 0.0), guessed_train(12, 1e-2, 6))},
)
class UAICNN(nn.Module):
    "Convolutions and one linear layer."

    def __init__(self, config: UAIConfig, classes: int):
        super().__init__()
        side = config.size // 2 ** len(config.maps)
        self.look = nn.Sequential(
            shrinking(3, config.maps), nn.Flatten(), nn.Dropout(config.dropout),
            nn.Linear(config.maps[-1] * side**2, classes))

    def forward(self, pair: Float[Tensor, "b 6 h w"],
                face: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        return self.look(avatar(pair, face))

"""Small networks. They do not depend on the diffusion model, and any other ``nn.Module`` can take their place."""

from .conv1d import Conv1d
from .embedding import FourierFeatures, TimeEmbedding, UniformFeatures
from .flat_unet import FlatUNet
from .mlp import MLP
from .names import NETWORKS
from .transformer import Transformer
from .unet import UNet

__all__ = [
    "MLP",
    "NETWORKS",
    "Conv1d",
    "FlatUNet",
    "FourierFeatures",
    "TimeEmbedding",
    "Transformer",
    "UNet",
    "UniformFeatures",
]

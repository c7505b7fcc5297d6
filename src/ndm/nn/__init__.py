"""Small networks. They do not depend on the diffusion model, and any other ``nn.Module`` can take their place."""

from .embedding import FourierFeatures, TimeEmbedding, UniformFeatures
from .flat_unet import FlatUNet
from .mlp import MLP
from .names import NETWORKS
from .unet import UNet

__all__ = ["MLP", "NETWORKS", "FlatUNet", "FourierFeatures", "TimeEmbedding", "UNet", "UniformFeatures"]

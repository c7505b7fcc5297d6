"""Small networks. They know nothing of diffusion, and any ``nn.Module`` of your own serves as well."""

from .embedding import FourierFeatures, TimeEmbedding
from .flat_unet import FlatUNet
from .mlp import MLP
from .names import NETWORKS
from .unet import UNet

__all__ = ["MLP", "NETWORKS", "FlatUNet", "FourierFeatures", "TimeEmbedding", "UNet"]

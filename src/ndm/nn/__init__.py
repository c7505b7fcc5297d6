"""Small networks. They know nothing of diffusion, and any ``nn.Module`` of your own serves as well."""

from .embedding import FourierFeatures, TimeEmbedding
from .flat_unet import FlatUNet
from .mlp import MLP
from .unet import UNet

__all__ = ["MLP", "FlatUNet", "FourierFeatures", "TimeEmbedding", "UNet"]

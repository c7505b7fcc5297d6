"""Small networks. They know nothing of diffusion, and any ``nn.Module`` of your own serves as well."""

from .embedding import FourierFeatures, TimeEmbedding
from .mlp import MLP

__all__ = ["MLP", "FourierFeatures", "TimeEmbedding"]

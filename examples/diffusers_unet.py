"""A network of your own as predictor: the U-Net of diffusers, three training steps on random images.

    pip install diffusers
    python examples/diffusers_unet.py

The library takes any module ``(z, t) -> tensor``; a few lines adapt one that is called differently.
"""

import sys

import torch
from torch import Tensor, nn

import ndm

try:
    from diffusers import UNet2DModel
except ImportError as error:
    sys.exit(f"this example needs diffusers, which does not load ({error}): pip install diffusers")


class DiffusersUNet(nn.Module):
    """``UNet2DModel``, called as ``net(z, t)`` with t in [0, 1]."""

    def __init__(self, channels: int, size: int, multiplier: int = 1) -> None:
        super().__init__()
        self.unet = UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=multiplier * channels,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
        )

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        # Its embedding was made for 1000 discrete steps and takes fractions of them as well.
        return self.unet(z, 1000 * t).sample


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # The transform has a small network of the library's; the predictor, where most of the work is, diffusers'.
    transform = ndm.TimeBasis(ndm.nn.UNet((1, 16, 16), 2, channels=8, depth=1, multipliers=(1, 2), embedding=0), 2)
    process = ndm.ForwardProcess(ndm.LinearSchedule(-13.3, 5.0), transform)
    model = ndm.NDM(process, ndm.Predictor(DiffusersUNet(1, 16)), ndm.CategoricalDecoder(256))
    print(f"{model.num_parameters:,} parameters")

    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(3):
        images = torch.randint(256, (8, 1, 16, 16))
        loss = ndm.bound(model, images).total.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step + 1}: {ndm.bits_per_dim(loss.item(), images):.2f} bits per dimension")


if __name__ == "__main__":
    main()

"""Which device to compute on."""

from __future__ import annotations

from ..errors import InputError


def select_device(name: str) -> str:
    """The device of that name. ``auto`` takes CUDA if available, else Apple's GPU if available, else the CPU.

    Raises:
        InputError: if the device is not available.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {name!r} is not available ({str(error).splitlines()[0]}); use --device auto"
        ) from None
    return name

r"""The model: a forward process, a predictor that reverses it, and a decoder.

.. math:: p_\theta(z_s \mid z_t) = q_\phi(z_s \mid z_t, \hat x_\theta(z_t, t))
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .batch import as_batch, as_float, check_magnitude
from .decoder import Decoder
from .embedding import Embedding
from .errors import InputError
from .mixture import SymbolProcess
from .predictor import BasePredictor, Prediction
from .process import ConditionalProcess, ForwardProcess
from .support.checks import require, require_flag, require_kind, row_shape
from .transform import BasisCurve, Identity

if TYPE_CHECKING:
    from .distribution import ModelDistribution

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
RANDOM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.RReLU)
"""Modules that make a row's output depend on chance or on the other rows in training mode."""


class NDM(nn.Module):
    """A neural diffusion model; with the identity transform, a conventional diffusion model.

    Args:
        process: the forward process.
        predictor: predicts x from z_t.
        decoder: converts between data units and model units, and defines p(x | z_0).
        shape: the shape of one sample; not needed where the predictor's network has one, as all of ``ndm.nn`` do.

    Raises:
        InputError: if the predictor predicts a curve that the transform does not have, a target is predicted where the
            transform scales the noise or eta is learned, symbols have several noises, the predictor's levels are not
            the decoder's, ``shape`` is not that of its network, or a part is of another kind.

    Example:
        >>> f = ndm.nn.MLP((64,), multiplier=2, embedding=0)
        >>> process = ndm.ForwardProcess(ndm.LinearSchedule(-7.0, 5.0), ndm.TimeBasis(f, num_basis=2))
        >>> model = ndm.NDM(process, ndm.Predictor(ndm.nn.MLP((64,)), "v"), ndm.CategoricalDecoder(levels=17))
        >>> x = torch.randint(17, (5, 64))
        >>> ndm.bound(model, x).total.mean().backward()
    """

    def __init__(
        self, process: ForwardProcess, predictor: BasePredictor, decoder: Decoder, shape: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        require_kind(
            process=(process, ForwardProcess), predictor=(predictor, BasePredictor), decoder=(decoder, Decoder)
        )
        if predictor.num_basis and process.transform.predictable != predictor.num_basis:
            raise InputError(
                f"a predicted curve (Predictor(num_basis={predictor.num_basis})) needs a TimeBasis or LinearBasis "
                "transform with the same num_basis; to evaluate F(x_hat), use num_basis=0 (model.predict_curve false)"
            )
        if predictor.target and process.transform.scales:
            raise InputError(
                f"a target is predicted where the noise is the same for all x, and {type(process.transform).__name__} "
                "scales it; predict x"
            )
        if predictor.target and process.clock is not None and not isinstance(process.transform, Identity):
            raise InputError("a target is predicted for a fixed eta: do not learn eta, or predict x")
        if process.schedule.per_channel and isinstance(process.transform, Embedding):
            raise InputError(
                f"symbols need one noise for all of their point: choose another schedule than "
                f"{type(process.schedule).__name__}"
            )
        if predictor.levels is not None and predictor.levels != decoder.levels:
            raise InputError(
                f"LevelsPredictor(levels={predictor.levels}) needs CategoricalDecoder(levels={predictor.levels}): "
                "both must use the same values"
            )
        self.process = process
        self.predictor = predictor
        self.decoder = decoder
        self._shape = None if shape is None else row_shape(shape)
        own = network_shape(predictor)
        if self._shape is not None and own not in (None, latents := self.latent_shape(self._shape)):
            raise InputError(
                f"shape {self._shape} of a sample gives latents of shape {latents}, but the predictor's network is "
                f"made for {own}"
            )

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of one sample: as given, else that of the predictor's network; None if neither is known.

        Where it is known, batches of another shape are refused, and ``ndm.sample(model, 16)`` draws 16 rows.
        """
        return network_shape(self.predictor) if self._shape is None else self._shape

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the latents of a sample of ``shape``, both without the batch."""
        return self.process.transform.latent_shape(self.decoder.model_shape(shape))

    def extra_repr(self) -> str:
        return f"shape={self.shape}"

    def forward(self, z_t: Tensor, t: Tensor, eta: float | Tensor | None = None) -> ConditionalProcess:
        """The reverse process at ``z_t``: the forward process given the prediction from ``z_t``.

        Args:
            z_t: latents, ``(B, *)``.
            t: their times, ``(B,)``.
            eta: replaces the eta of the process, see :class:`ForwardProcess`.
        """
        return self.reverse(self.predict(z_t, t), eta)

    def predict(self, z_t: Tensor, t: Tensor) -> Prediction:
        """The prediction from ``z_t`` at times ``t``."""
        self.process.schedule.check_channels(z_t)
        return self.predictor(z_t, t, self.process)

    def reverse(self, prediction: Prediction, eta: float | Tensor | None = None) -> ConditionalProcess:
        """The reverse process given a prediction; ``eta`` is that of :meth:`forward`."""
        x_hat, coefficients, variance, value = prediction
        if self.predictor.symbols:
            alone = coefficients is None and variance is None
            require(alone, "a predictor of symbols predicts nothing beside them", "a curve or a variance")
            return SymbolProcess(self.process, x_hat, self.process.eta if eta is None else eta)
        if self.predictor.target:
            return self.process.toward(x_hat, value, variance, eta)
        if coefficients is None:
            return self.process(x_hat, variance, eta)
        return self.process.along(BasisCurve(x_hat, coefficients), variance, eta)

    @property
    def has_ode(self) -> bool:
        """Whether the model has an ODE: continuous time, and a prediction of F(x, t)."""
        told = self.predictor.value or not self.predictor.target or isinstance(self.process.transform, Identity)
        return told and self.process.schedule.steps is None

    @property
    def reference(self) -> Tensor:
        """An empty tensor with the model's dtype and device."""
        for tensor in chain(self.parameters(), self.buffers()):
            if tensor.is_floating_point():
                return torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return torch.empty(0)

    @property
    def weightless(self) -> bool:
        """Whether neither the process nor the predictor has any weights, as in closed-form models."""
        parts = (self.process, self.predictor)
        return not any(True for part in parts for _ in chain(part.parameters(), part.buffers()))

    @property
    def num_parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(p.numel() for p in self.parameters())

    def rows(self, x: Any) -> Tensor:
        """Data on the model's device, once their kind and shape are checked; the values stay as they are.

        Args:
            x: data in data units, ``(B, *shape)``: a torch tensor or a NumPy array of integers or floats.

        Raises:
            InputError: if ``x`` is of another kind, has no row, or has rows of another shape than the model's.
        """
        check_values(self)
        return as_batch(x, self.shape).to(self.reference.device)

    def encode(self, x: Any) -> Tensor:
        """Convert data units to model units: ``(B, *)`` in the model's dtype and on its device.

        All data enter through here. They are encoded in their own precision where that is higher than the model's. A
        model without any weights has no dtype, and takes that of floating-point data.

        Args:
            x: as of :meth:`rows`.

        Raises:
            InputError: as :meth:`rows`, or if the data are not finite or out of the decoder's range.
        """
        x = self.rows(x)
        dtype = x.dtype if x.is_floating_point() and self.weightless else self.reference.dtype
        x_model = self.decoder.encode(as_float(x, dtype)).to(dtype)
        if not self.decoder.discrete:
            check_magnitude(x_model)
        return x_model

    def distribution(self, **options: Any) -> ModelDistribution:
        """The model's ODE as a ``torch.distributions.Distribution``.

        Args:
            options: those of :class:`ndm.ModelDistribution`, such as ``solver``.

        Raises:
            InputError: if the model does not know its shape, or an option does not fit.
        """
        from .distribution import ModelDistribution

        return ModelDistribution(self, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``, each atomically.

        Raises:
            InputError: if the class of the schedule, process or decoder is not registered (networks and transforms may
                be of any class), if the model holds no values, or if the folder cannot be written.
        """
        from .saving import save

        check_values(self)
        require_kind(folder=(folder, (str, Path)))
        save(self, Path(folder))

    def push_to_hub(self, repository: str, private: bool = False, license: str = "unknown") -> str:
        """Upload the model to the Hugging Face Hub, with a card that names its parts and says how to use it.

        It needs ``pip install "ndm[hub]"`` and ``hf auth login``. ``ndm push RUN user/model`` uploads a run, whose card
        has the data and the estimates, too.

        Args:
            repository: the repository, ``user/model``; it is made unless it exists.
            private: whether a new repository is visible to its owner only.
            license: the identifier that the Hub has for the licence, such as ``apache-2.0``.

        Returns:
            The address of the repository.

        Raises:
            InputError: as :meth:`save_pretrained`, or if huggingface_hub is missing, nobody is logged in, or the Hub
                refuses the repository.
        """
        from .sharing import push_model

        check_values(self)
        require_kind(repository=(repository, str), license=(license, str))
        require_flag(private=private)
        return push_model(self, repository, private, license)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        predictor: nn.Module | None = None,
        transform: nn.Module | None = None,
    ) -> NDM:
        """Rebuild a saved model, in evaluation mode.

        Args:
            folder: the folder that ``save_pretrained`` wrote, or the folder of a run. A text may also be
                ``user/model``, a repository on the Hugging Face Hub, or ``digits-tiny``, a model of the package.
                A folder that exists comes first; a ``Path`` is always a folder. See :mod:`ndm.hub`.
            predictor, transform: your own network for the predictor or the transform, if it is not one of ``ndm.nn``;
                its weights are loaded too. Nothing in the folder can name code to import.

        Raises:
            InputError: if a file is missing, damaged or not from ndm, a network must be passed, or what is passed is
                no module or does not fit the weights; if a repository cannot be downloaded.
        """
        from .hub import located_or_on_hub
        from .saving import load

        require_kind(folder=(folder, (str, Path)))
        supplied = {k: v for k, v in {"predictor": predictor, "transform": transform}.items() if v is not None}
        require_kind(**{name: (value, nn.Module) for name, value in supplied.items()})
        return load(Path(folder) if isinstance(folder, Path) else located_or_on_hub(folder), supplied)


def network_shape(predictor: nn.Module) -> tuple[int, ...] | None:
    """The shape of one sample that a predictor's network is made for, if the network says so as ``net.shape``."""
    shape = getattr(getattr(predictor, "net", None), "shape", None)
    if not isinstance(shape, tuple) or not shape or not all(type(n) is int and n > 0 for n in shape):
        return None
    return tuple(shape)


def check_model(model: Any) -> None:
    """Refuse what is not a model, such as a wrapper that hides its parts.

    Raises:
        InputError: with the way to the model inside, if there is one.
    """
    if not isinstance(getattr(model, "process", None), ForwardProcess):
        inside = isinstance(getattr(model, "module", None), NDM)
        hint = ": pass the model inside, its attribute module" if inside else ""
        raise InputError(f"model must be an ndm.NDM, got {type(model).__name__}{hint}")
    check_values(model)


def check_values(model: NDM) -> None:
    """Refuse a model on the device meta, which has shapes and no weights.

    Raises:
        InputError: with what to do.
    """
    if model.reference.is_meta:
        raise InputError("the model must hold values, but it is on the device meta; load or initialise its weights")


def check_gradients(model: NDM) -> None:
    """Refuse a model that was made in inference mode, whose weights can have no gradients.

    Raises:
        InputError: with what to do.
    """
    if any(p.is_inference() for p in model.parameters()):
        raise InputError("the model was made in torch.inference_mode, so it has no gradients; make it outside of it")


def check_not_random(model: NDM) -> None:
    """Refuse a model whose field is random, or mixes the rows of a batch, because it is in training mode.

    It looks for dropout, batch norm, randomised activations, and attention and recurrent layers with dropout. What a
    network draws by other means is not seen.

    Raises:
        InputError: naming the first such module.
    """
    for name, module in model.named_modules():
        dropout = isinstance(module, DROPOUT) and module.p > 0
        inner = isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) and module.dropout > 0
        if module.training and (dropout or inner or isinstance(module, RANDOM)):
            raise InputError(
                f"the model is in training mode, where {type(module).__name__} ({name}) makes its field random: it has "
                "no likelihood and no ODE then; call model.eval() first"
            )

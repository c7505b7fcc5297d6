r"""Training of symbols in which the predictor learns by the cross-entropy, and the forward process by the bound.

In continuous time the diffusion term of the bound is a squared error of points, :math:`\| \hat F - F(x, t) \|^2` with
the mean :math:`\hat F = \sum_k w_k F(k, t)` of predicted probabilities w. Both it and the cross-entropy
:math:`-\log w_x` are least, at every time, where w are the true probabilities of the symbols given :math:`z_t`. But the
squared error says little to a predictor that is certain and wrong: its gradient in the logits has the factor w_x. So
the predictor learns faster by the cross-entropy, at the times that the bound draws. The forward process cannot learn by
it, because symbols that are far apart from the start have the least; it learns by the bound, given the predictor. So
does what a predictor says of the numbers of a row of a table.

Each group of parameters has the gradient of its own loss, from one evaluation of the network.

References:
    Austin et al. Structured Denoising Diffusion Models in Discrete State-Spaces. NeurIPS 2021 (a cross-entropy beside
    the bound).
    Dieleman et al. Continuous Diffusion for Categorical Data. 2022 (the cross-entropy alone, with learned points).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..mixed import MixedPredictor
from ..model import NDM
from ..predictor import Prediction
from ..support.checks import require
from ..support.tensors import sum_rows
from ..symbols import SymbolPredictor


def check_symbols(model: NDM) -> None:
    """Refuse a model that predicts no symbols.

    Raises:
        InputError: saying what is wrong.
    """
    predictor = model.predictor
    require(
        isinstance(predictor, (SymbolPredictor, MixedPredictor)), "training.weighting cross_entropy is for models of "
        "symbols (model.parameterization symbols, or a table with categories)", type(predictor).__name__,
    )  # fmt: skip


def numbers_of(model: NDM) -> int:
    """The number of channels of a prediction that are numbers; those behind them are probabilities of symbols."""
    return model.predictor.numbers if isinstance(model.predictor, MixedPredictor) else 0


def cross_entropy(model: NDM, prediction: Prediction, x_model: Tensor) -> Tensor:
    """-log of the predicted probability of each symbol, summed over the places of a row, nats, ``(B,)``.

    Args:
        model: a model of symbols.
        prediction: what it predicts, ``(B, *)``.
        x_model: data in model units, of the same shape.
    """
    weights, symbols = (part[:, numbers_of(model) :] for part in (prediction.x_hat, x_model))
    return -sum_rows(weights.clamp(min=torch.finfo(weights.dtype).tiny).log() * symbols)


def through_numbers(model: NDM, prediction: Prediction, bound: Tensor) -> Tensor:
    """A scalar that has the gradient of the bound in the predicted numbers, and none in the predicted probabilities."""
    numbers = numbers_of(model)
    if not numbers:
        return bound.new_zeros(())
    (slope,) = torch.autograd.grad(bound, prediction.x_hat, retain_graph=True)
    return (prediction.x_hat[:, :numbers] * slope[:, :numbers]).sum()


def learned_apart(model: NDM, prediction: Prediction, entropy: Tensor, bound: Tensor) -> Tensor:
    """0 with the gradients of training by the cross-entropy.

    Args:
        model: a model of symbols.
        prediction: what it predicted when these losses were computed.
        entropy: the mean of :func:`cross_entropy`, in the unit of the bound.
        bound: the mean of the bound.
    """
    rest = [*model.process.parameters(), *model.decoder.parameters()]
    own = entropy + through_numbers(model, prediction, bound)
    return with_own_gradients([(own, model.predictor.parameters()), (bound, rest)])


def with_own_gradients(losses: Iterable[tuple[Tensor, Iterable[nn.Parameter]]]) -> Tensor:
    """0 with the gradient of each loss in its own parameters, and of no loss in the parameters of others.

    Args:
        losses: scalars, and the parameters that learn by each; those that do not train are left out.
    """
    total = torch.zeros(())
    for loss, parameters in losses:
        learning = [p for p in parameters if p.requires_grad]
        gradients = torch.autograd.grad(loss, learning, retain_graph=True, allow_unused=True, materialize_grads=True)
        for p, gradient in zip(learning, gradients, strict=True):
            total = total.to(p) + ((p - p.detach()) * gradient).sum()
    return total

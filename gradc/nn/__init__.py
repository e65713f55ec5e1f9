"""The functions of torch.nn.functional that models use, with the same names, arguments and meanings, written in the language.

Functions of gradc that torch repeats (tanh, softmax, ...) are here too, under torch's argument names (`dim`).
"""

from typing import NoReturn

from gradc.absent import missing
from gradc.nn.activation import (
    celu,
    elu,
    geglu,
    gelu,
    glu,
    hardshrink,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    log_softmax,
    logsigmoid,
    mish,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softmax,
    softmin,
    softplus,
    softshrink,
    softsign,
    swiglu,
    tanh,
    tanhshrink,
    threshold,
)
from gradc.nn.attention import scaled_dot_product_attention
from gradc.nn.classification import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    kl_div,
    nll_loss,
    soft_margin_loss,
)
from gradc.nn.layers import cosine_similarity, dropout, embedding, linear, normalize, one_hot, pad
from gradc.nn.normalisation import batch_norm, group_norm, instance_norm, layer_norm, rms_norm, running_statistics
from gradc.nn.regression import (
    gaussian_nll_loss,
    hinge_embedding_loss,
    huber_loss,
    l1_loss,
    margin_ranking_loss,
    mse_loss,
    poisson_nll_loss,
    smooth_l1_loss,
)

__all__ = [
    "batch_norm", "binary_cross_entropy", "binary_cross_entropy_with_logits", "celu", "cosine_similarity", "cross_entropy", "dropout",
    "elu", "embedding", "gaussian_nll_loss", "geglu", "gelu", "glu", "group_norm", "hardshrink", "hardsigmoid", "hardswish", "hardtanh",
    "hinge_embedding_loss", "huber_loss", "instance_norm", "kl_div", "l1_loss", "layer_norm", "leaky_relu", "linear", "log_softmax",
    "logsigmoid", "margin_ranking_loss", "mish", "mse_loss", "nll_loss", "normalize", "one_hot", "pad", "poisson_nll_loss", "prelu", "relu",
    "relu6", "rms_norm", "running_statistics", "scaled_dot_product_attention", "selu", "sigmoid", "silu", "smooth_l1_loss", "soft_margin_loss",
    "softmax", "softmin", "softplus", "softshrink", "softsign", "swiglu", "tanh", "tanhshrink", "threshold",
]  # fmt: skip


def __getattr__(name: str) -> NoReturn:
    raise missing("gradc.nn", name, __all__)

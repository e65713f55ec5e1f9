"""What the library's functions give where mathematics leaves a choice: at kinks and saturations, at infinity, at NaN, for nothing at all.

Data alone, held by the tests: every row is run, and every difference between gradc.nn and torch.nn.functional that the tests allow is
a row here, with its reason. The kinks of elementwise functions stand in their rows of the table, `ops.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import Any

Numbers = Any  # a number, or numbers nested in tuples as an array would be


@dataclass(frozen=True)
class Convention:
    """A function at a point: `value` is its result, `gradients` those of its floating arguments for a cotangent of ones.

    `function` is a name of gradc. A `value` that is a word is the error raised, by the reference; a kernel gives `in_kernel`.
    `options` are its other arguments; `peer` is what PyTorch gives instead, empty where it agrees.
    """

    function: str
    arguments: tuple[Numbers, ...]
    value: Numbers
    gradients: tuple[Numbers, ...]
    why: str
    peer: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    in_kernel: Numbers = None


LARGEST = 1.7976931348623157e308

KINK = "One-sided slopes differ; the one PyTorch takes."
TIE = "Equal extrema share the derivative, so that it does not depend on their order."
ROOT = "The root of a sum of squares has every slope between -1 and 1 at 0; 0 is the middle, and 0·inf would be NaN."
NOTHING = "A sum over nothing is 0, and has no derivative."
NO_FINITE_MAXIMUM = "Nothing finite that is added to an element changes the result: as in logaddexp, the derivative is 0."
QUOTIENT = "0/0 and inf - inf are no number."
UNDEFINED = "Where the result is NaN no slope is better than another: each is what the chain rule gives."
NAN_STAYS = "NaN is not hidden: no comparison with it holds, so it takes the branch that passes it on."
SQUARES = "Squares are summed as they are: beyond the square root of the dtype's largest number they overflow, and are inf."
PRODUCTS = (
    "The chain rule multiplies cotangents from the result back: a product may overflow that a smaller factor would follow."
)
ZERO_TIMES_INF = "PyTorch multiplies 0 by inf where the derivative is a number."
OVERFLOW_IN_PEER = "PyTorch's formula overflows where the derivative is a number."
EXACT = "The derivative of what is computed; PyTorch's is another's."
SATURATED = (
    "PyTorch's gradient, which leads away from a probability that is exactly wrong, where the slope of the cut logarithm is 0."
)
ABSENT = "A target of 0 takes part in nothing: neither the infinite logarithm of a probability of 0 nor its own counts."
UNNUMBERED = "A number that names no class or row has no meaning. A kernel cannot raise: NaN leads to where it came from."
DROPPED = "What is dropped is not there, as a selection; PyTorch multiplies it by 0."
UNSEEN = "A query that may attend to nothing averages nothing."
NO_SPREAD = "Divided by a deviation of 0, a constant row is 0/0; eps is there to prevent that."
ONE_SAMPLE = "The unbiased variance of one sample is 0/0."
FUSED = "x·scale + (bias - mean·scale), as PyTorch computes it, is inf - inf where (x - mean)·scale is not."
CANCELS = "PyTorch's rounding: log(n) is lost beside the largest number, and the shares no longer sum to 1."

CONVENTIONS = (
    # Reductions ------------------------------------------------------------------------------------------------------
    Convention("max", ((2.0, 2.0, 1.0),), 2.0, ((0.5, 0.5, 0.0),), TIE),
    Convention("min", ((1.0, 2.0, 1.0),), 1.0, ((0.5, 0.0, 0.5),), TIE),
    Convention("prod", ((0.0, 0.0, 3.0),), 0.0, ((0.0, 0.0, 0.0),), "The product of the others, without a division."),
    Convention("mean", ((),), nan, ((),), QUOTIENT),
    Convention("var", ((1.0,),), nan, ((nan,),), ONE_SAMPLE, options=(("correction", 1),)),
    Convention("std", ((3.0, 3.0, 3.0),), 0.0, ((0.0, 0.0, 0.0),), ROOT),
    Convention("std", ((LARGEST, LARGEST),), inf, ((nan, nan),), SQUARES, peer="0.0"),
    Convention("optim.global_norm", ((0.0, 0.0),), 0.0, ((0.0, 0.0),), ROOT),
    Convention("softmax", ((-inf, -inf),), (nan, nan), ((nan, nan),), QUOTIENT),
    Convention("softmax", ((inf, 0.0),), (nan, nan), ((nan, nan),), QUOTIENT),
    Convention("softmax", ((),), (), ((),), NOTHING),
    Convention("log_softmax", ((),), (), ((),), NOTHING),
    Convention(
        "log_softmax", ((-inf, 0.0),), (-inf, 0.0), ((1.0, -1.0),), "The slope of x - log(sum(exp(x))), with exp(-inf) = 0."
    ),
    Convention("logsumexp", ((-inf, -inf),), -inf, ((0.0, 0.0),), NO_FINITE_MAXIMUM, peer="gradient (nan, nan)"),
    Convention("logsumexp", ((inf, 0.0),), inf, ((0.0, 0.0),), NO_FINITE_MAXIMUM, peer="gradient (nan, 0.0)"),
    Convention("logsumexp", ((LARGEST, LARGEST),), LARGEST, ((0.5, 0.5),), CANCELS, peer="gradient (1.0, 1.0)"),
    Convention("logsumexp", ((),), -inf, ((),), NOTHING),
    # Activations -----------------------------------------------------------------------------------------------------
    Convention("nn.relu", (0.0,), 0.0, (0.0,), KINK),
    Convention("nn.relu6", ((0.0, 6.0),), (0.0, 6.0), ((0.0, 0.0),), KINK),
    Convention("nn.relu6", (nan,), nan, (1.0,), NAN_STAYS, peer="gradient 0.0 or 1.0, by how many elements there are"),
    Convention("nn.hardtanh", ((-1.0, 1.0),), (-1.0, 1.0), ((0.0, 0.0),), KINK),
    Convention("nn.leaky_relu", (0.0,), 0.0, (0.01,), KINK),
    Convention("nn.prelu", (0.0, 0.25), 0.0, (0.25, 0.0), KINK),
    Convention("nn.elu", (0.0,), 0.0, (2.0,), KINK, options=(("alpha", 2.0),)),
    Convention("nn.celu", (0.0,), 0.0, (1.0,), "Smooth: both slopes are 1."),
    Convention("nn.selu", (0.0,), 0.0, (1.7580993408473766,), KINK),
    Convention("nn.softshrink", ((-0.5, 0.5),), (0.0, 0.0), ((0.0, 0.0),), KINK),
    Convention("nn.softshrink", (nan,), nan, (1.0,), NAN_STAYS, peer="gradient 0.0 or 1.0, by how many elements there are"),
    Convention("nn.hardshrink", ((-0.5, 0.5),), (0.0, 0.0), ((0.0, 0.0),), KINK),
    Convention("nn.hardsigmoid", ((-3.0, 3.0),), (0.0, 1.0), ((0.0, 0.0),), KINK),
    Convention("nn.hardswish", ((-3.0, 3.0),), (0.0, 3.0), ((0.0, 1.0),), KINK),
    Convention("nn.threshold", (0.5,), 7.0, (0.0,), KINK, options=(("threshold", 0.5), ("value", 7.0))),
    Convention(
        "nn.softplus", (20.0,), 20.000000002061153, (0.9999999979388463,), "At the threshold the smooth branch still counts."
    ),
    Convention("nn.softplus", (1000.0,), 1000.0, (1.0,), OVERFLOW_IN_PEER, peer="gradient nan", options=(("threshold", inf),)),
    Convention("nn.softsign", (0.0,), 0.0, (1.0,), "|x| has slope 0 at 0."),
    Convention("nn.silu", (-inf,), nan, (nan,), QUOTIENT),
    Convention("nn.gelu", (-inf,), nan, (nan,), QUOTIENT),
    Convention("nn.swiglu", (LARGEST, 2.0), inf, (1.7615941559557649, None), PRODUCTS, peer="gradient of the gate inf"),
    Convention("nn.geglu", (LARGEST, 2.0), inf, (1.9544997361036416, None), PRODUCTS, peer="gradient of the gate inf"),
    # Losses ----------------------------------------------------------------------------------------------------------
    Convention("nn.l1_loss", (1.0, 1.0), 0.0, (0.0, -0.0), KINK),
    Convention("nn.l1_loss", (nan, 1.0), nan, (nan, nan), UNDEFINED, peer="gradient 0.0"),
    Convention("nn.smooth_l1_loss", (1.0, 1.0), 0.0, (0.0, 0.0), KINK, options=(("beta", 0.0),)),
    Convention("nn.margin_ranking_loss", (1.0, 1.0, 1.0), 0.0, (-1.0, 1.0, 0.0), KINK),
    Convention("nn.hinge_embedding_loss", (1.0, -1), 0.0, (-1.0,), KINK),
    Convention("nn.hinge_embedding_loss", (0.25, 0), 1.0, (0.0,), "Both parts count for a target that is neither 1 nor -1."),
    Convention("nn.soft_margin_loss", (-1000.0, 1.0), 1000.0, (-1.0, 1000.0), OVERFLOW_IN_PEER, peer="gradient nan"),
    Convention("nn.binary_cross_entropy", (1.0, 0.0), 100.0, (1e12, None), SATURATED),
    Convention("nn.binary_cross_entropy", (0.0, 1.0), 100.0, (-1e12, None), SATURATED),
    Convention("nn.binary_cross_entropy", (1.0, 1.0), 0.0, (0.0, -100.0), EXACT, peer="gradient of the target -inf"),
    Convention("nn.binary_cross_entropy", (0.0, 0.0), 0.0, (0.0, 100.0), EXACT, peer="gradient of the target inf"),
    Convention("nn.kl_div", (-inf, 0.0), 0.0, (0.0, 0.0), ABSENT, peer="nan, gradient of the target nan"),
    Convention("nn.kl_div", (-1.0, 0.0), 0.0, (0.0, 0.0), ABSENT, peer="gradient of the target nan"),
    Convention("nn.kl_div", (0.0, -1.0), nan, (1.0, nan), "The logarithm of a negative target is NaN."),
    Convention("nn.cross_entropy", (((-inf, -inf),), (0,)), nan, (((nan, nan),),), QUOTIENT),
    Convention("nn.cross_entropy", (((-inf, 0.0),), (0,)), inf, (((-1.0, 1.0),),), "The slope of log(sum(exp(x))) - x."),
    Convention(
        "nn.cross_entropy",
        (((inf, 0.0), (0.0, 0.0)), (-100, 0)),
        0.6931471805599453,
        (((None, 0.0), (-0.5, 0.5)),),
        DROPPED,
        peer="gradient nan for the ignored",
    ),
    Convention(
        "nn.cross_entropy", (((0.0, 1.0),), (-100,)), nan, (((None, None),),), "As in PyTorch, the mean of nothing is 0/0."
    ),
    Convention("nn.cross_entropy", (((0.0, 1.0),), (2,)), "ShapeError", (((nan, nan),),), UNNUMBERED, in_kernel=nan),
    Convention("nn.cross_entropy", (((0.0, 1.0),), (-1,)), "ShapeError", (((nan, nan),),), UNNUMBERED, in_kernel=nan),
    Convention("nn.nll_loss", (((0.0, 1.0),), (2,)), "ShapeError", (((nan, 0.0),),), UNNUMBERED, in_kernel=nan),
    Convention("nn.nll_loss", (((0.0, 1.0),), (-1,)), "ShapeError", (((nan, 0.0),),), UNNUMBERED, in_kernel=nan),
    Convention("nn.nll_loss", (((-inf, 0.0),), (0,)), inf, (((-1.0, 0.0),),), "The slope of -x."),
    # Layers ----------------------------------------------------------------------------------------------------------
    Convention("nn.one_hot", ((2,), 2), "ShapeError", (), "Zeros in a kernel: integers have no NaN.", in_kernel=((0, 0),)),
    Convention("nn.embedding", ((2,), ((1.0,), (2.0,))), "ShapeError", (((0.0,), (0.0,)),), UNNUMBERED, in_kernel=((nan,),)),
    Convention("nn.embedding", ((-1,), ((1.0,), (2.0,))), "ShapeError", (((0.0,), (0.0,)),), UNNUMBERED, in_kernel=((nan,),)),
    Convention("nn.normalize", (((0.0, 0.0),),), ((0.0, 0.0),), (((1e12, 1e12),),), "Divided by eps, a constant."),
    Convention("nn.normalize", (((nan, 1.0),),), ((nan, nan),), (((nan, nan),),), NAN_STAYS),
    Convention(
        "nn.normalize",
        (((4.0, 0.0),),),
        ((4.0, 0.0),),
        (((1.0, 1.0),),),
        "As many as are not 0, a constant.",
        options=(("p", 0.0),),
    ),
    Convention(
        "nn.normalize",
        (((4.0, 0.0),),),
        ((4e12, 0.0),),
        (((1e12, 1e12),),),
        "1/0 is inf: the norm is 0.",
        options=(("p", -1.0),),
    ),
    Convention("nn.normalize", (((4.0, -4.0),),), ((1.0, -1.0),), (((0.25, 0.25),),), TIE, options=(("p", inf),)),
    Convention(
        "nn.normalize",
        (((inf, 0.0),),),
        ((nan, 0.0),),
        (((None, 0.0),),),
        ZERO_TIMES_INF,
        peer="gradient nan",
        options=(("p", inf),),
    ),
    Convention(
        "nn.cosine_similarity",
        (((0.0, 0.0),), ((3.0, 4.0),)),
        (0.0,),
        (((6e7, 8e7),), ((0.0, 0.0),)),
        "Divided by eps, a constant.",
    ),
    Convention("nn.cosine_similarity", (((nan, 1.0),), ((1.0, 1.0),)), (nan,), (((nan, nan),), ((nan, nan),)), NAN_STAYS),
    Convention("nn.cosine_similarity", (((1e200, 0.0),), ((1e200, 0.0),)), (nan,), (None, None), SQUARES, peer="0.0"),
    Convention("nn.layer_norm", (((2.0, 2.0),), 2), ((0.0, 0.0),), (((0.0, 0.0),),), "eps keeps the deviation from 0."),
    Convention("nn.layer_norm", (((2.0, 2.0),), 2), ((nan, nan),), (((nan, nan),),), NO_SPREAD, options=(("eps", 0.0),)),
    Convention("nn.layer_norm", (((1e200, 0.0),), 2), ((0.0, -0.0),), (((0.0, 0.0),),), SQUARES, peer="nan"),
    Convention("nn.group_norm", (((1e200, 0.0),), 1), ((0.0, -0.0),), (((0.0, 0.0),),), SQUARES, peer="nan"),
    Convention("nn.rms_norm", (((0.0, 0.0),), 2), ((nan, nan),), (((nan, nan),),), NO_SPREAD, options=(("eps", 0.0),)),
    Convention("nn.rms_norm", (((LARGEST, -LARGEST),), 2), ((0.0, -0.0),), (((0.0, 0.0),),), SQUARES, peer="gradient nan"),
    Convention(
        "nn.instance_norm",
        ((((2.0, 2.0),),),),
        (((nan, nan),),),
        ((((nan, nan),),),),
        NO_SPREAD,
        peer="0.0",
        options=(("eps", 0.0),),
    ),
    Convention("nn.instance_norm", ((((LARGEST, LARGEST),),),), (((nan, nan),),), (None,), SQUARES, peer="-inf in float32"),
    Convention(
        "nn.batch_norm",
        (((1.0,),), (0.0,), (0.0,)),
        ((inf,),),
        (((inf,),), (-inf,), (None,)),
        FUSED,
        peer="nan",
        options=(("eps", 0.0),),
    ),
    Convention(
        "nn.batch_norm",
        (((LARGEST,), (LARGEST,)), None, None),
        ((nan,), (nan,)),
        (None,),
        SQUARES,
        peer="-inf in float32",
        options=(("training", True),),
    ),
    Convention("nn.running_statistics", (((1.0,),), (0.0,), (1.0,)), ((0.1,), (nan,)), (None, None, None), ONE_SAMPLE),
    Convention(
        "nn.dropout", ((inf, nan, 1.0),), (0.0, 0.0, 0.0), ((0.0, 0.0, 0.0),), DROPPED, peer="nan", options=(("p", 1.0),)
    ),
    Convention(
        "nn.scaled_dot_product_attention",
        (((1.0,),), ((1.0,), (2.0,)), ((3.0,), (4.0,)), ((False, False),)),
        ((0.0,),),
        (((0.0,),), ((0.0,), (0.0,)), ((0.0,), (0.0,))),
        UNSEEN,
    ),
    Convention(
        "nn.scaled_dot_product_attention",
        (((-1e200,),), ((1e200,),), ((3.0,),)),
        ((nan,),),
        (None, None, None),
        QUOTIENT,
        peer="0.0",
    ),
)

"""Parametrizations: factors on initialisation, rate, decay and eps by width, depth and duration.

muP (Yang et al., arXiv 2203.03466), CompleteP (Dey et al., arXiv 2505.01618), Completed-P's batch
and duration (arXiv 2512.22382) and the experts of arXiv 2601.20205, for AdamW. Multipliers of the
forward pass are folded into the weights they multiply: with w = m W, AdamW on W is AdamW on w with
the initial deviation and the rate times m and eps and the decay over m. The model computes what it
computes under the standard parametrization, and its weights export unchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megascale.model.config import ModelConfig
from megascale.model.kinds import kind_of

RESIDUAL_BRANCHES = (".o_proj.weight", ".o_proj.bias", ".down_proj.weight", ".experts.down")
"""Ends of the names of parameters that write into the residual stream."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Factors of one parameter over its value at the base; all 1 there.

    Attributes:
        initial: on the standard deviation of the initial weights, or a norm's initial gain.
        lr: on the learning rate.
        weight_decay: on the coefficient that the learning rate multiplies.
        eps: on Adam's eps.
    """

    initial: float = 1.0
    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0

    def folded(self, multiplier: float) -> Scaling:
        """The same parameter with a multiplier of the forward pass folded into it."""
        return Scaling(
            self.initial * multiplier,
            self.lr * multiplier,
            self.weight_decay / multiplier,
            self.eps / multiplier,
        )

    def over(self, batch: float, duration: float) -> Scaling:
        """The same parameter at another batch and number of tokens (Completed-P, section 4).

        The rate and the decay go with sqrt(batch / duration), eps with its inverse; the averages
        forget by `megascale.config.init_section.scaled_beta`.

        Args:
            batch: this run's batch over the base's.
            duration: this run's tokens over the base's.
        """
        root = math.sqrt(batch / duration)
        return Scaling(
            self.initial,
            self.lr * root,
            self.weight_decay * root,
            self.eps / root,
        )


AT_THE_BASE = Scaling()
"""No factor at all."""


@dataclass(frozen=True, slots=True)
class Ratios:
    """This model's sizes over the base's; 1 where they are the same.

    Attributes:
        width: of the residual stream.
        depth: decoder layers.
        queries: all query heads together, which the attention's output projection reads.
        inner, expert, shared: inner widths of dense layers, of one routed expert and of the shared
            one.
        head: width of one head.
    """

    width: float
    depth: float
    queries: float
    inner: float
    expert: float
    shared: float
    head: float


def scaling_of(name: str, config: ModelConfig, ratios: Ratios, depth_exponent: float) -> Scaling:
    """The factors of one parameter under muP, and CompleteP where depth differs from the base.

    Hidden matrices: deviation 1 / sqrt(r), rate 1 / r and decay r, with r the ratio of their
    fan-in, rate also depth^(a - 1); residual branches are multiplied by depth^-a. The output
    projection is divided by the width ratio; a tied one by way of the last norm's gain. Routers
    have deviation and rate 1 / width; the experts' second matrices deviation
    sqrt(width) / expert. Eps follows the size of the gradients.

    Args:
        name: of the parameter.
        config: this model.
        ratios: its sizes over the base's.
        depth_exponent: a, between 0.5 and 1; without effect at a depth ratio of 1.
    """
    width, kind = ratios.width, kind_of(name)
    if kind == "embedding":
        return Scaling(eps=1 / width)
    if kind == "head":
        return Scaling(eps=1 / width).folded(1 / width)
    if name == "model.norm.weight":
        last = Scaling(eps=1 / width)
        return last.folded(1 / width) if config.tie_word_embeddings else last
    layer_lr = ratios.depth ** (depth_exponent - 1)
    branch = ratios.depth**-depth_exponent
    query = ratios.head**-0.5
    if kind == "qk_norm":
        gain = Scaling(lr=layer_lr, eps=branch)
        return gain.folded(query) if "q_norm" in name else gain
    eps = branch / width
    if kind in ("norms", "biases"):
        found = Scaling(lr=layer_lr, eps=eps)
    elif kind == "router":
        found = Scaling(1 / width, layer_lr / width, width, eps)
    elif name.endswith(".experts.down"):
        r = ratios.expert
        found = Scaling(math.sqrt(width) / r, layer_lr / r, r, eps)
    else:
        r = _fan_in(name, ratios)
        found = Scaling(r**-0.5, layer_lr / r, r, eps)
    if name.endswith(RESIDUAL_BRANCHES):
        return found.folded(branch)
    if ".q_proj." in name and not config.qk_norm:
        return found.folded(query)
    return found


def _fan_in(name: str, ratios: Ratios) -> float:
    if ".o_proj." in name:
        return ratios.queries
    if ".down_proj." in name:
        return ratios.shared if ".shared_expert." in name else ratios.inner
    return ratios.width

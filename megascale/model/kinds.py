"""Kinds of parameters by name, and which update method each kind gets."""

from __future__ import annotations

KINDS = ("embedding", "head", "router", "experts", "matrices", "norms", "qk_norm", "biases")


def kind_of(name: str) -> str:
    """The kind of a parameter, one of `KINDS`.

    `matrices` are the projections of attention and of dense and shared SwiGLU layers; a tied
    output projection is the embedding; a shared expert's gate counts as a router.
    """
    if name.endswith(".bias"):
        return "biases"
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return "qk_norm"
    if name.endswith(("norm.weight", "_layernorm.weight")):
        return "norms"
    if "embed_tokens." in name:
        return "embedding"
    if name.startswith("lm_head."):
        return "head"
    if ".experts." in name:
        return "experts"
    if name.endswith(("mlp.gate.weight", "shared_expert_gate.weight")):
        return "router"
    return "matrices"


def method_of(name: str, optimizer: str) -> str:
    """The update method of a parameter: Muon is for matrices, and AdamW has the rest beside it.

    Args:
        name: of the parameter.
        optimizer: `adamw`, `muon`, `sgd` or `sign`.
    """
    if optimizer == "muon":
        return "muon" if kind_of(name) in ("matrices", "experts") else "adamw"
    return optimizer

"""Published laws of the final loss, for orientation: other data and tokenizers, other losses."""

from __future__ import annotations

from collections.abc import Mapping

from megascale.laws.published.law import Constant, Fitted, PublishedLaw, Values


def _two_terms(k: Mapping[str, float], v: Values) -> float:
    return k["E"] + k["A"] / v.n ** k["alpha"] + k["B"] / v.d ** k["beta"]


CHINCHILLA = PublishedLaw(
    key="chinchilla-loss",
    name="Chinchilla",
    arxiv="2203.15556",
    quantity="loss",
    regime="loss",
    formula="1.69 + 406.4 / N^0.34 + 410.7 / D^0.28",
    constants={
        "E": Constant(1.6934, note="1.69 in print"),
        "A": Constant(406.4),
        "B": Constant(410.7),
        "alpha": Constant(0.3392, note="0.34 in print"),
        "beta": Constant(0.2849, note="0.28 in print"),
    },
    compute=_two_terms,
    n_meaning="parameters; active for MoE here",
    n_kind="active",
    d_meaning="tokens of the run",
    schedule="cosine, MassiveText",
    fitted=Fitted((7e7, 1.6e10), (5e9, 5e11), text="70M-16B parameters, 5-500B tokens"),
    source="paper, digits from its TeX source",
)

EPOCH = PublishedLaw(
    key="epoch-loss",
    name="Chinchilla, refitted",
    arxiv="2404.10102",
    quantity="loss",
    regime="loss",
    formula="1.8172 + 482.01 / N^0.3478 + 2085.43 / D^0.3658",
    constants={
        "E": Constant(1.8172, 0.03, "secondary"),
        "A": Constant(482.01, 125, "secondary"),
        "B": Constant(2085.43, 1293, "secondary"),
        "alpha": Constant(0.3478, 0.02, "secondary"),
        "beta": Constant(0.3658, 0.02, "secondary"),
    },
    compute=_two_terms,
    n_meaning=CHINCHILLA.n_meaning,
    n_kind="active",
    d_meaning=CHINCHILLA.d_meaning,
    schedule=CHINCHILLA.schedule,
    fitted=CHINCHILLA.fitted,
    source="secondary accounts: 240 points, Huber loss, 4000 bootstraps",
)

KAPLAN_N = PublishedLaw(
    key="kaplan-loss-n",
    name="Kaplan et al., D unlimited",
    arxiv="2001.08361",
    quantity="loss",
    regime="loss",
    formula="(8.8e13 / N)^0.076",
    constants={
        "k": Constant(8.8e13, certainty="secondary"),
        "n": Constant(0.076, certainty="secondary"),
    },
    compute=lambda k, v: (k["k"] / v.n) ** k["n"],
    n_meaning="non-embedding; active parameters for MoE here",
    n_kind="active_non_embedding",
    schedule="cosine, WebText2",
    source="the paper as quoted by others",
)

KAPLAN_D = PublishedLaw(
    key="kaplan-loss-d",
    name="Kaplan et al., N unlimited",
    arxiv="2001.08361",
    quantity="loss",
    regime="loss",
    formula="(5.4e13 / D)^0.095",
    constants={
        "k": Constant(5.4e13, certainty="secondary"),
        "d": Constant(0.095, certainty="secondary"),
    },
    compute=lambda k, v: (k["k"] / v.d) ** k["d"],
    d_meaning="tokens of the run",
    schedule="early stopping, WebText2",
    source="the paper as quoted by others",
)

LAWS = (CHINCHILLA, EPOCH, KAPLAN_N, KAPLAN_D)
"""In the order they are shown."""

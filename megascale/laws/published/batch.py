"""Published laws of the global batch size: optimal, critical, and by loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from megascale.laws.published.law import Constant, Fitted, PublishedLaw, Values
from megascale.laws.published.learning_rate import (
    DEEPSEEK_LR,
    LING_LR,
    MOONLIGHT_LR,
    STEP_GRID_MIDDLE,
    STEP_LR,
)

OPTIMAL: Final = "optimal batch"
CRITICAL: Final = "critical batch"
NOT_OPTIMAL = "a critical batch, where larger ones waste tokens: not the batch of lowest loss"


def _power_of_d(k: Mapping[str, float], v: Values) -> float:
    return k["k"] * v.d ** k["d"]


def _power_of_n(k: Mapping[str, float], v: Values) -> float:
    return k["k"] * v.n ** k["n"]


def _power_of_c(k: Mapping[str, float], v: Values) -> float:
    return k["k"] * v.c ** k["c"]


def _power_of_loss(k: Mapping[str, float], v: Values) -> float:
    return k["k"] / v.loss ** k["l"]


STEP_BATCH = PublishedLaw(
    key="step-batch",
    name="Step Law",
    arxiv="2503.04715",
    quantity="batch",
    regime=OPTIMAL,
    formula="0.58 D^0.571",
    constants={
        "k": Constant(0.58, note="bootstrap mean of the intercept -0.5435, i.e. 0.581"),
        "d": Constant(0.571, 0.019, note="one bootstrap standard deviation"),
    },
    compute=_power_of_d,
    d_meaning="tokens of the run",
    schedule=STEP_LR.schedule,
    fitted=STEP_LR.fitted,
    source=STEP_LR.source,
    spread_around=STEP_GRID_MIDDLE,
    band_meaning=STEP_LR.band_meaning,
)

DEEPSEEK_BATCH = PublishedLaw(
    key="deepseek-batch",
    name="DeepSeek LLM",
    arxiv="2401.02954",
    quantity="batch",
    regime=OPTIMAL,
    formula="0.2920 C^0.3271",
    constants={
        "k": Constant(0.2920, certainty="secondary"),
        "c": Constant(0.3271, certainty="secondary"),
    },
    compute=_power_of_c,
    c_meaning=DEEPSEEK_LR.c_meaning,
    c_kind="M D",
    schedule=DEEPSEEK_LR.schedule,
    fitted=DEEPSEEK_LR.fitted,
    source="the paper as quoted by others",
)

MOONLIGHT_BATCH = PublishedLaw(
    key="moonlight-batch",
    name="Moonlight",
    arxiv="2502.16982",
    quantity="batch",
    regime=OPTIMAL,
    formula="0.0065 C^0.4138",
    constants={
        "k": Constant(0.0065, certainty="secondary"),
        "c": Constant(0.4138, certainty="secondary"),
    },
    compute=_power_of_c,
    c_meaning=MOONLIGHT_LR.c_meaning,
    schedule=MOONLIGHT_LR.schedule,
    source=MOONLIGHT_LR.source,
)

LING_BATCH = PublishedLaw(
    key="ling-batch",
    name="Ling (Efficiency Leverage)",
    arxiv="2507.17702",
    quantity="batch",
    regime=OPTIMAL,
    formula="0.0694 C^0.3644",
    constants={"k": Constant(0.0694), "c": Constant(0.3644)},
    compute=_power_of_c,
    c_meaning=LING_LR.c_meaning,
    c_kind="M D",
    schedule=LING_LR.schedule,
    fitted=LING_LR.fitted,
    source=LING_LR.source,
    tolerance=0.25,
    band_meaning=LING_LR.band_meaning,
)

POWER_LINES_OPTIMAL = PublishedLaw(
    key="power-lines-batch",
    name="Power Lines, optimal",
    arxiv="2505.13738",
    quantity="batch",
    regime=OPTIMAL,
    formula="0.0306 D^0.383 sequences of 2048",
    constants={
        "k": Constant(0.0306, certainty="unverified"),
        "d": Constant(0.383, certainty="secondary", note="interval 0.367 to 0.391"),
    },
    compute=_power_of_d,
    d_meaning="tokens of the run",
    n_kind="active",
    unit_tokens=2048,
    schedule="muP, AdamW, linear decay to 0, warmup 10 %",
    fitted=Fitted((1.1e8, 3.3e9), text="0.11-3.3B parameters, 20-1280 tokens per parameter"),
    source="secondary accounts; agrees with one published point (610M, 20 tokens per parameter)",
)

PORIAN_BATCH = PublishedLaw(
    key="porian-batch",
    name="Porian et al.",
    arxiv="2406.19146",
    quantity="batch",
    regime=OPTIMAL,
    formula="0.7576 N^0.703",
    constants={"k": Constant(0.7576), "n": Constant(0.703)},
    compute=_power_of_n,
    n_meaning="including the output head; active parameters for MoE here",
    n_kind="active",
    schedule="nearly constant or cosine, D about 20 N, sequences of 2048",
    fitted=Fitted((5e6, 9.01e8), (1e8, 1.8e10), text="5-901M parameters, D about 20 N"),
    source="the authors' plotting code; rounded form 160 (N / 108M)^(2/3) sequences of 2048",
    caveat="knows no D: tuned at about 20 tokens per parameter",
)

SCHAIPP_BATCH = PublishedLaw(
    key="schaipp-batch",
    name="Schaipp",
    arxiv="2607.01487",
    quantity="batch",
    regime=OPTIMAL,
    formula="0.667 D^0.566",
    constants={
        "k": Constant(0.667, certainty="secondary"),
        "d": Constant(0.566, certainty="secondary"),
    },
    compute=_power_of_d,
    d_meaning="tokens of the run",
    schedule="",
    source="secondary accounts; half to twice this batch costs at most 5 % of compute",
)

ZHANG_D = PublishedLaw(
    key="zhang-cbs-d",
    name="Zhang et al., by D",
    arxiv="2410.21676",
    quantity="batch",
    regime=CRITICAL,
    formula="22.91 D^0.47 sequences of 512",
    constants={
        "k": Constant(22.91, certainty="secondary", note="unit of D derived"),
        "d": Constant(0.47, certainty="secondary"),
    },
    compute=_power_of_d,
    d_meaning="tokens in millions (billions, as many notes have it, is wrong)",
    d_scale=1e6,
    unit_tokens=512,
    schedule="constant with averaged weights, context 512, N fixed at 302M",
    fitted=Fitted((8.5e7, 1.2e9), text="85M-1.2B parameters"),
    source="secondary accounts; consistent with the paper's by-N law",
    caveat=NOT_OPTIMAL,
)

ZHANG_N = PublishedLaw(
    key="zhang-cbs-n",
    name="Zhang et al., by N",
    arxiv="2410.21676",
    quantity="batch",
    regime=CRITICAL,
    formula="93.20 N^0.468 sequences of 512",
    constants={"k": Constant(93.1968), "n": Constant(0.46828)},
    compute=_power_of_n,
    n_meaning="in millions; active parameters for MoE here",
    n_kind="active",
    n_scale=1e6,
    unit_tokens=512,
    schedule="constant with averaged weights, context 512, D = 20 N",
    fitted=Fitted((8.5e7, 1.2e9), text="85M-1.2B parameters, D = 20 N"),
    source="the authors' plotting code",
    caveat=NOT_OPTIMAL,
)

POWER_LINES_CRITICAL = PublishedLaw(
    key="power-lines-critical",
    name="Power Lines, critical",
    arxiv="2505.13738",
    quantity="batch",
    regime=CRITICAL,
    formula="0.0471 D^0.462 sequences of 2048",
    constants={
        "k": Constant(0.0471, certainty="unverified"),
        "d": Constant(0.462, certainty="secondary"),
    },
    compute=_power_of_d,
    d_meaning="tokens that the smallest batches need for the same loss; the run's tokens here",
    n_kind="active",
    unit_tokens=2048,
    schedule=POWER_LINES_OPTIMAL.schedule,
    fitted=POWER_LINES_OPTIMAL.fitted,
    source="secondary accounts",
    caveat=NOT_OPTIMAL,
)

MINICPM_BATCH = PublishedLaw(
    key="minicpm-batch",
    name="MiniCPM",
    arxiv="2404.06395",
    quantity="batch",
    regime="by loss",
    formula="1.21e9 / L^6.24",
    constants={"k": Constant(1.21e9), "l": Constant(6.24)},
    compute=_power_of_loss,
    schedule="cosine for the fit, learning rate 0.01, muP",
    fitted=Fitted(text="9M, 30M and 170M parameters; L is the loss on C4"),
    source="paper",
    needs=("loss",),
)

KAPLAN_BATCH = PublishedLaw(
    key="kaplan-batch",
    name="Kaplan et al., critical",
    arxiv="2001.08361",
    quantity="batch",
    regime="by loss",
    formula="2e8 / L^(1/0.21)",
    constants={
        "k": Constant(2e8, None, "secondary", "2e18 in a later comparison is a misprint"),
        "l": Constant(1 / 0.21, certainty="secondary"),
    },
    compute=_power_of_loss,
    schedule="cosine",
    fitted=Fitted(text="L is the loss on WebText2"),
    source="the paper as quoted by others",
    caveat=NOT_OPTIMAL,
    needs=("loss",),
)

LAWS = (
    STEP_BATCH,
    DEEPSEEK_BATCH,
    MOONLIGHT_BATCH,
    LING_BATCH,
    POWER_LINES_OPTIMAL,
    PORIAN_BATCH,
    SCHAIPP_BATCH,
    ZHANG_D,
    ZHANG_N,
    POWER_LINES_CRITICAL,
    MINICPM_BATCH,
    KAPLAN_BATCH,
)
"""In the order they are shown: optimal, critical, by loss."""

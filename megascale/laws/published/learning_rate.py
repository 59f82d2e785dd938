"""Published laws of the peak learning rate, and of the weight decay that goes with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from megascale.formats.law_file import SCALES
from megascale.laws.published.law import Constant, Fitted, PublishedLaw, Target, Values

TOGETHER: Final = "lr and batch tuned together"
FIXED: Final = "fixed batch"
STEP_GRID_MIDDLE: Final = (math.sqrt(2e8 * 1.07e9), 2e10)
"""Geometric middle of Step Law's grid: N, D in tokens."""


def _power_of_n_and_d(k: Mapping[str, float], v: Values) -> float:
    return k["k"] * v.n ** k["n"] * v.d ** k["d"]


def _power_of_c(k: Mapping[str, float], v: Values) -> float:
    return k["k"] * v.c ** k["c"]


def _zhou(k: Mapping[str, float], v: Values) -> float:
    target = v.target
    n = target.params if target.n_count == "total" else target.active_params
    if target.reference is not None:
        lr, n0, d0 = target.reference
        return lr * (n / n0) ** k["n"] * (target.tokens / d0) ** k["d"]
    return (
        k["k"]
        * (n / SCALES[target.n_unit]) ** k["n"]
        * (target.tokens / SCALES[target.d_unit]) ** k["d"]
    )


def _zhou_caveat(target: Target) -> str:
    if target.reference is not None:
        return "anchored at your reference run: only the exponents are the paper's"
    n = target.params if target.n_count == "total" else target.active_params
    k = {symbol: constant.value for symbol, constant in ZHOU_LR.constants.items()}
    raw = k["k"] * n ** k["n"] * target.tokens ** k["d"]
    return (
        f"units not published: read as {target.n_count} N in {target.n_unit}, D in "
        f"{target.d_unit}; N and D in units would give {raw:.2e}; calibrate with a tuned "
        "run (--reference-lr)"
    )


STEP_LR = PublishedLaw(
    key="step-lr",
    name="Step Law",
    arxiv="2503.04715",
    quantity="lr",
    regime=TOGETHER,
    formula="1.79 N^-0.713 D^0.307",
    constants={
        "k": Constant(1.79, note="bootstrap mean of the intercept 0.5863, i.e. 1.797"),
        "n": Constant(-0.713, 0.030, note="one bootstrap standard deviation"),
        "d": Constant(0.307, 0.019, note="one bootstrap standard deviation"),
    },
    compute=_power_of_n_and_d,
    n_meaning="non-embedding; for MoE all experts, not only the active ones",
    n_kind="non_embedding",
    d_meaning="tokens of the run",
    schedule="cosine to a fixed final learning rate of 1e-5, AdamW, sequences of 2048",
    fitted=Fitted((2e8, 1.07e9), (4e9, 1e11), text="0.2-1.07B parameters, 4-100B tokens"),
    source="paper, and the authors' published runs and fitting code",
    spread_around=STEP_GRID_MIDDLE,
    band_meaning="one standard deviation of the exponents, about the middle of the grid",
)

DEEPSEEK_LR = PublishedLaw(
    key="deepseek-lr",
    name="DeepSeek LLM",
    arxiv="2401.02954",
    quantity="lr",
    regime=TOGETHER,
    formula="0.3118 C^-0.1250",
    constants={
        "k": Constant(0.3118, None, "secondary", "0.3188 in a later comparison is a misprint"),
        "c": Constant(-0.1250, certainty="secondary"),
    },
    compute=_power_of_c,
    c_meaning="M D, M = 72 n_layer d^2 + 12 n_layer d l_seq training FLOPs per token",
    c_kind="M D",
    schedule="multi-step, 80 % / 10 % / 10 %; runs within 0.25 % of the best loss",
    fitted=Fitted(c=(1e17, 2e19), text="C of 1e17 to 2e19 (range quoted without a source)"),
    source="the paper as quoted by others, among them the code of arXiv 2406.19146",
)

MOONLIGHT_LR = PublishedLaw(
    key="moonlight-lr",
    name="Moonlight",
    arxiv="2502.16982",
    quantity="lr",
    regime=TOGETHER,
    formula="0.0127 C^-0.057",
    constants={
        "k": Constant(0.0127, certainty="secondary"),
        "c": Constant(-0.057, certainty="secondary"),
    },
    compute=_power_of_c,
    c_meaning="6 N D; N taken as active parameters here",
    schedule="cosine",
    source="secondary accounts of the paper",
)

LING_LR = PublishedLaw(
    key="ling-lr",
    name="Ling (Efficiency Leverage)",
    arxiv="2507.17702",
    quantity="lr",
    regime=TOGETHER,
    formula="1.1576 C^-0.1529",
    constants={"k": Constant(1.1576), "c": Constant(-0.1529)},
    compute=_power_of_c,
    c_meaning="M D, M = training FLOPs per token of the active parameters",
    c_kind="M D",
    schedule="WSD (warmup 1 %, exponential decay to 10 %), MoE of 64 experts, top-4 + 1 shared",
    fitted=Fitted(c=(3e17, 3e20), text="C of 3e17 to 3e20, activation ratio 4.7-10.9 %"),
    source="paper; its text calls M forward FLOPs, its model tables only fit training FLOPs",
    tolerance=0.25,
    band_meaning="25 %: how far the paper's own settings lie from its formula",
)

PORIAN_LR = PublishedLaw(
    key="porian-lr",
    name="Porian et al.",
    arxiv="2406.19146",
    quantity="lr",
    regime=TOGETHER,
    formula="3.7 N^-0.36",
    constants={"k": Constant(3.7), "n": Constant(-0.36)},
    compute=lambda k, v: k["k"] * v.n ** k["n"],
    n_meaning="including the output head; active parameters for MoE here",
    n_kind="active",
    schedule="nearly constant or cosine, D about 20 N; beta2 of 0.99 or more at small batches",
    fitted=Fitted((5e6, 9.01e8), (1e8, 1.8e10), text="5-901M parameters, D about 20 N"),
    source="the authors' plotting code; rounded form 0.0047 (N / 108M)^(-1/3)",
    caveat="knows no D: tuned at about 20 tokens per parameter",
)

BJORCK_LR = PublishedLaw(
    key="bjorck-lr",
    name="Bjorck et al. (Microsoft)",
    arxiv="2409.19913",
    quantity="lr",
    regime=FIXED,
    formula="1.3192 N^-0.23 D^-0.32",
    constants={
        "k": Constant(1.3192, certainty="derived", note="printed elsewhere as 1.3192e-5"),
        "n": Constant(-0.23, certainty="secondary"),
        "d": Constant(-0.32, note="paper's abstract"),
    },
    compute=_power_of_n_and_d,
    n_meaning="in billions; total or active is not said, active here",
    n_kind="active",
    n_scale=1e9,
    d_meaning="tokens of the run",
    schedule="cosine, batch 0.5M tokens",
    fitted=Fitted((5e7, 2.7e9), (0, 8e11), text="0.05-2.7B parameters, to 800B tokens"),
    source="abstract and secondary sources; the coefficient's unit inferred",
    caveat="the coefficient's unit is inferred: N in billions, D in tokens gives sensible values",
)

ZHOU_LR = PublishedLaw(
    key="zhou-lr",
    name="Zhou et al.",
    arxiv="2601.05049",
    quantity="lr",
    regime=FIXED,
    formula="38.4588 N^-0.2219 D^-0.3509, or lr0 (N/N0)^-0.2219 (D/D0)^-0.3509",
    constants={
        "k": Constant(38.4588, certainty="secondary", note="R^2 0.9622; units not found"),
        "n": Constant(-0.2219, certainty="secondary"),
        "d": Constant(-0.3509, certainty="secondary"),
    },
    compute=_zhou,
    n_meaning="model size; unit and counting not published: --n-unit, --n-count",
    d_meaning="training tokens; unit not published: --d-unit",
    schedule="WSD, MoE, batch 4M tokens, sequences of 4096",
    fitted=Fitted(text="MoE up to 12B-A1.3B and 500B tokens; grid not published"),
    source="four secondary accounts that agree",
    caveat=_zhou_caveat,
)

KAPLAN_LR = PublishedLaw(
    key="kaplan-lr",
    name="Kaplan et al.",
    arxiv="2001.08361",
    quantity="lr",
    regime=FIXED,
    formula="3.239e-3 - 1.395e-4 ln N",
    constants={
        "k": Constant(3.239e-3, certainty="secondary"),
        "slope": Constant(-1.395e-4, certainty="secondary"),
    },
    compute=lambda k, v: k["k"] + k["slope"] * math.log(v.n),
    n_meaning="non-embedding; active parameters for MoE here",
    n_kind="active_non_embedding",
    schedule="cosine, batch 0.5M tokens",
    fitted=Fitted((1e6, 1e9), text="1M-1B parameters"),
    source="paper, as quoted by others",
    caveat="a rule of thumb of 2020; negative beyond about 12B parameters",
)

MM1_LR = PublishedLaw(
    key="mm1-lr",
    name="MM1",
    arxiv="2403.09611",
    quantity="lr",
    regime=FIXED,
    formula="exp(-0.4214 ln N - 0.5535)",
    constants={
        "k": Constant(-0.5535, certainty="secondary"),
        "n": Constant(-0.4214, certainty="secondary"),
    },
    compute=lambda k, v: math.exp(k["k"] + k["n"] * math.log(v.n)),
    n_meaning="parameters; active for MoE here",
    n_kind="active",
    schedule="",
    source="secondary accounts of the paper",
    caveat="reads low beside all others (9e-5 at 1B): treat with suspicion",
)

MINICPM_LR = PublishedLaw(
    key="minicpm-lr",
    name="MiniCPM",
    arxiv="2404.06395",
    quantity="lr",
    regime="muP base",
    formula="0.01 at every size, under muP",
    constants={"k": Constant(0.01)},
    compute=lambda k, v: k["k"],
    schedule="WSD, muP: embeddings x 12, residuals x 1.4 / sqrt(layers), width-scaled matrices",
    fitted=Fitted((4e7, 2.1e9), text="stable for 0.04-2.1B parameters"),
    source="paper",
    caveat="a base rate for muP: hidden matrices get it divided by their width ratio",
)

POWER_LINES_DECAY = PublishedLaw(
    key="power-lines-decay",
    name="Power Lines",
    arxiv="2505.13738",
    quantity="weight_decay",
    regime="weight decay",
    formula="B / (eta D tau), tau = 1.084 (D/N)^-0.527",
    constants={
        "k": Constant(1.084, certainty="secondary"),
        "tpp": Constant(-0.527, certainty="secondary", note="10 to 90 %: -0.529 to -0.507"),
    },
    compute=lambda k, v: v.batch / (v.lr * v.d * k["k"] * (v.d / v.n) ** k["tpp"]),
    n_meaning="parameters; active for MoE here",
    n_kind="active",
    d_meaning="tokens of the run",
    schedule="muP, AdamW, linear decay to 0; eta is the matrices' own learning rate",
    fitted=Fitted((1.1e8, 3.3e9), text="0.11-3.3B parameters, 20-1280 tokens per parameter"),
    source="abstract and secondary accounts; R^2 0.975",
    needs=("batch_tokens", "lr"),
)

LAWS = (
    STEP_LR,
    DEEPSEEK_LR,
    MOONLIGHT_LR,
    LING_LR,
    PORIAN_LR,
    BJORCK_LR,
    ZHOU_LR,
    KAPLAN_LR,
    MM1_LR,
    MINICPM_LR,
    POWER_LINES_DECAY,
)
"""In the order they are shown: tuned together first, then at a fixed batch, then by other rules."""

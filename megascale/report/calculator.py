"""What the page's calculator needs: every law as data and JavaScript, models, defaults."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megascale.formats.law_band import half_width_matrix, shown_confidence
from megascale.formats.law_file import SCALES, LawFile
from megascale.laws.published.law import CERTAINTY, PublishedLaw, Target
from megascale.laws.published.recommend import POOLED, TITLES, own_row
from megascale.laws.published.registry import LAWS
from megascale.model.config import read_model_config
from megascale.report.formulas import caveat, formula, power_form


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the calculator's fields hold when the page opens; texts as a user types them.

    An empty `initial` starts a schedule at the law's batch in the middle of the first interval.
    """

    params: str = "4B"
    active_params: str = "538M"
    tokens: str = "500B"
    seq_length: str = "4096"
    interval: str = "125B"
    momentum: str = "0.5"
    initial: str = ""
    micro_batch: str = "1"
    dp: str = "32"


def calculator(
    laws: Sequence[LawFile], models: Sequence[str | Path], defaults: Defaults
) -> dict[str, Any]:
    """The calculator's data.

    Args:
        laws: law files, below the published ones.
        models: presets whose counts of N can be chosen.
        defaults: of the fields.

    Raises:
        ConfigError: a model's shape cannot be read.
    """
    return {
        "titles": TITLES,
        "certainty": CERTAINTY,
        "pooled": POOLED,
        "scales": SCALES,
        "laws": [_published(law) for law in LAWS],
        "own": [_own(law) for law in laws],
        "models": [_model(path) for path in models],
        "defaults": {name: getattr(defaults, name) for name in Defaults.__slots__},
    }


def formulas_script() -> str:
    """JavaScript that defines `FORMULAS`, {law key: {formula and caveat by options}}, and
    `POWER_FORM`, value and half-width of a power law of one's own."""
    entries = []
    for law in LAWS:
        parts = []
        for name, found in (("value", formula(law)), ("caveat", caveat(law))):
            cases = ", ".join(
                f"{json.dumps(key)}: (v, t) => {code}" for key, code in found["code"].items()
            )
            parts.append(f"{name}: {{options: {json.dumps(found['options'])}, code: {{{cases}}}}}")
        entries.append(f"{json.dumps(law.key)}: {{{', '.join(parts)}}}")
    own = ",\n".join(
        f"{name}: ({', '.join(names)}) => {code}" for name, (names, code) in power_form().items()
    )
    formulas = "const FORMULAS = {\n" + ",\n".join(entries) + "\n};\n"
    return f"{formulas}const POWER_FORM = {{\n{own}\n}};\n"


def _published(law: PublishedLaw) -> dict[str, Any]:
    meanings = (("N", law.n_meaning), ("D", law.d_meaning), ("C", law.c_meaning))
    return {
        "key": law.key,
        "name": law.name,
        "arxiv": law.arxiv,
        "quantity": law.quantity,
        "regime": law.regime,
        "formula": law.formula,
        "meaning": "; ".join(f"{symbol}: {text}" for symbol, text in meanings if text),
        "schedule": law.schedule,
        "fitted_text": law.fitted.text,
        "source": law.source,
        "certainty": law.certainty,
        "says_n": bool(law.n_meaning),
        "says_c": bool(law.c_meaning),
        "uses_d": bool(law.d_meaning),
        "n_kind": law.n_kind,
        "n_scale": law.n_scale,
        "d_scale": law.d_scale,
        "c_kind": law.c_kind,
        "unit_tokens": law.unit_tokens,
        "fitted": {"N": law.fitted.n, "D": law.fitted.d, "C": law.fitted.c},
        "spread_around": law.spread_around,
        "spreads": [
            [symbol, constant.spread]
            for symbol, constant in law.constants.items()
            if constant.spread is not None and symbol in ("n", "d")
        ],
        "tolerance": law.tolerance,
        "band_meaning": law.band_meaning,
        "needs": law.needs,
    }


def _own(law: LawFile) -> dict[str, Any]:
    target = Target(1e9, 1e9, 1e9)
    row = own_row(law, target, 1)
    return {
        "key": row.law,
        "name": row.name,
        "arxiv": row.arxiv,
        "quantity": {"peak_lr": "lr", "batch_tokens": "batch"}[law.output],
        "regime": row.regime,
        "formula": row.formula,
        "meaning": row.meaning,
        "schedule": row.schedule,
        "fitted_text": row.fitted,
        "source": row.source,
        "certainty": row.certainty,
        "certainty_text": row.certainty_text,
        "form": law.form,
        "parameters": {name: p.model_dump() for name, p in law.parameters.items()},
        "table": None if law.table is None else law.table.model_dump(),
        "uses_n": law.uses_n,
        "n_kind": law.n_kind,
        "n_scale": SCALES[law.n_unit],
        "d_scale": SCALES[law.d_unit],
        "d_kind": law.d_kind,
        "looks_at_n": law.looks_at_n,
        "left_out": law.left_out,
        "range": {"N": law.range.n, "D": law.range.d},
        "conditions": law.conditions.model_dump(),
        "half_width": half_width_matrix(law),
        "confidence": shown_confidence(law, None)[0],
        "band_meaning": row.band_meaning,
    }


def _model(path: str | Path) -> dict[str, Any]:
    config = read_model_config(path)
    plain = Target.of_model(config, 1, 1)
    attention = 12 * config.num_hidden_layers * config.query_size
    return {
        "name": Path(path).stem if Path(path).suffix else Path(path).name,
        "params": plain.params,
        "active_params": plain.active_params,
        "non_embedding": plain.non_embedding,
        "active_non_embedding": plain.active_non_embedding,
        "attention_per_position": attention,
    }

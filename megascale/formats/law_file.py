"""The law file: a fitted law with its units, its range and its evidence, as one JSON document.

`docs/formats/law.md` describes the format (`megascale.law/2`). Files of `megascale.law/1` are read
as what they meant; only the new version is written.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from megascale.errors import DataError
from megascale.formats.json_text import JsonTextError, parse_json
from megascale.formats.law_conditions import Conditions, Part
from megascale.formats.law_upgrade import FIRST_SCHEMA, POWER_PARAMETERS, SCHEMA, upgraded
from megascale.formats.power_form import log_power
from megascale.shipped import locate

STEEPEST = 100
"""Bound of the exponents."""
LEAST_OUTPUT, MOST_OUTPUT = 1e-30, 2.0**62
"""Bounds of what a law may give: a learning rate above nothing, a batch that can be counted."""
MOST_LAW_BYTES = 64 * 2**20
"""A law is small; what is larger is no law file."""

Scale = Literal["units", "thousands", "millions", "billions"]
SCALES: dict[Scale, float] = {"units": 1.0, "thousands": 1e3, "millions": 1e6, "billions": 1e9}

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Parameter(Part):
    """One fitted number with its interval."""

    value: float
    low: float | None = Field(None, description="lower end of the interval")
    high: float | None = Field(None, description="upper end of the interval")
    unit: str = Field("", description="unit in words; empty for a pure number")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low must not exceed high")
        return self


class Range(Part):
    """Where the points that were fitted lie; null where unknown."""

    n: tuple[float, float] | None = Field(None, description="smallest and largest N, parameters")
    d: tuple[float, float] | None = Field(None, description="smallest and largest D, tokens")


class Input(Part):
    """A file the law was fitted to."""

    path: str
    sha256: Sha256


def _semidefinite(m: list[list[float]]) -> bool:
    """Whether a 3 x 3 matrix whose 2 x 2 minors are not negative is positive semidefinite."""
    scale = [math.sqrt(m[i][i]) for i in range(3)]
    if not all(scale) or not all(math.isfinite(m[i][j]) for i in range(3) for j in range(3)):
        return all(math.isfinite(one) for one in scale)
    r, s, t = (m[i][j] / scale[i] / scale[j] for i, j in ((1, 0), (2, 0), (2, 1)))
    return 1 + 2 * r * s * t - r * r - s * s - t * t >= -1e-6


class Covariance(Part):
    """Covariance of the parameters of `power`, N and D in the law's own units."""

    parameters: tuple[Literal["log_coef"], Literal["a"], Literal["b"]] = POWER_PARAMETERS
    matrix: list[list[float]] = Field(description="3 x 3, symmetric")

    @model_validator(mode="after")
    def _symmetric(self) -> Self:
        m = self.matrix
        if [len(row) for row in m] != [3, 3, 3]:
            raise ValueError("matrix is 3 x 3")
        for i in range(3):
            if m[i][i] < 0:
                raise ValueError("variances are not negative")
            for j in range(i):
                most = math.sqrt(m[i][i] * m[j][j]) * (1 + 1e-6)
                if not math.isclose(m[i][j], m[j][i], rel_tol=1e-6, abs_tol=1e-12 + 1e-9 * most):
                    raise ValueError("matrix is symmetric")
                if abs(m[i][j]) > most + 1e-12:
                    raise ValueError("no covariance exceeds its variances' geometric mean")
        if not _semidefinite(m):
            raise ValueError("matrix has a negative eigenvalue: it is the covariance of nothing")
        return self


class Table(Part):
    """Knots of a tabulated law, D increasing."""

    d: list[float] = Field(min_length=1, description="tokens, in d_unit")
    value: list[float] = Field(min_length=1, description="the law's output at each D")
    low: list[float] | None = Field(None, description="lower end of the interval at each D")
    high: list[float] | None = Field(None, description="upper end of the interval at each D")


class TokensSteps(Part):
    """Tokens E to reach a loss at a constant batch B (tokens): one fitted law per target loss.

    `formats.tokens_to_loss` evaluates it.

    `E(B)` is, by form: `classic` `E_min + S_min B`; `noise_floor`
    `S_min B (1 - (B_min/B)^q)^(-1/p)`; `two_power` `a B^-u + c B^w`; `wsd` the point of the
    piecewise law on the ray E = B S;
    `loss_surface` `B (a / (L - L_inf - c B^-q))^(1/p)`, whose parameters hold for every target.
    """

    form: Literal["classic", "noise_floor", "two_power", "wsd", "loss_surface"]
    target_loss: list[float] = Field(min_length=2, description="nats per token, falling")
    parameters: dict[str, list[float]] = Field(
        description="by name, one value per target; one in all for loss_surface"
    )

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if any(later >= earlier for earlier, later in pairwise(self.target_loss)):
            raise ValueError("target_loss must fall")
        names = TOKENS_STEPS_PARAMETERS[self.form]
        if set(self.parameters) != set(names):
            raise ValueError(f"form {self.form} has the parameters {', '.join(names)}")
        count = 1 if self.form == "loss_surface" else len(self.target_loss)
        if any(len(values) != count for values in self.parameters.values()):
            raise ValueError(f"form {self.form} has {count} values of each parameter")
        return self


TOKENS_STEPS_PARAMETERS = {
    "classic": ("S_min", "E_min"),
    "noise_floor": ("S_min", "B_min", "p", "q"),
    "two_power": ("a", "c", "u", "w"),
    "wsd": ("S_min", "S_1", "S_opt", "S_2", "C", "E_min"),
    "loss_surface": ("L_inf", "a", "p", "c", "q"),
}
"""Parameters of each form of `TokensSteps`, as the fitting engine names them."""


class LawFile(Part):
    """A law f(N, D) that says how large the global batch (or the peak LR) should be.

    Forms: `power` is `coef * N**a * D**b`; `loglog_table` interpolates log(output) linearly in
    log(D) and holds the end values outside its knots.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    schema_: Literal["megascale.law/2"] = Field(SCHEMA, alias="schema")
    name: str
    version: str
    form: Literal["power", "loglog_table"]
    output: Literal["batch_tokens", "peak_lr"] = Field(description="what f(N, D) is")
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    table: Table | None = None
    confidence: float | None = Field(
        None, gt=0, lt=1, description="of every low and high; null where the source does not say"
    )
    degrees_of_freedom: float | None = Field(
        None, gt=0, description="of the errors, for Student's t; null for the normal distribution"
    )
    covariance: Covariance | None = Field(None, description="of the parameters of `power`")
    left_out: dict[Literal["a", "b"], str] = Field(
        default_factory=dict, description="exponents that the points cannot give, and why"
    )
    conditions: Conditions = Conditions()
    tokens_steps: TokensSteps | None = Field(
        None, description="tokens to a loss at a constant batch, where that was fitted too"
    )
    n_kind: Literal["total", "active", "non_embedding", "active_non_embedding"] = Field(
        description="which parameters N counts"
    )
    n_unit: Scale = Field("units", description="N is counted in these")
    d_kind: Literal["consumed", "horizon"] = Field(
        description="D was the run's consumed tokens, or the whole budget of runs tuned to it"
    )
    d_unit: Scale = Field("units", description="D is counted in these")
    range: Range = Range()
    diagnostics: dict[str, Any] = Field(
        default_factory=dict, description="fit quality: rms, held-out error, flags, AICc of rivals"
    )
    inputs: list[Input] = Field(default_factory=list)
    source: str = Field("", description="publication or study the numbers come from")
    _sha256: str = PrivateAttr("")

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes; of the canonical text for a law that was never a file."""
        return self._sha256 or hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def uses_n(self) -> bool:
        """Whether the output depends on N."""
        return self.form == "power" and self.parameters["a"].value != 0

    def evaluate(self, n_params: float, d_tokens: float) -> float:
        """f(N, D) in the output's own unit (tokens, or a learning rate).

        Args:
            n_params: parameters, counted as `n_kind` says.
            d_tokens: tokens.

        Raises:
            DataError: N or D is not positive, or the output is no batch and no learning rate.
        """
        for name, value in (("N", n_params), ("D", d_tokens)):
            if not value > 0:
                raise DataError.of(name, value, f"law {self.name} is defined for positive {name}")
        n = n_params / SCALES[self.n_unit]
        d = d_tokens / SCALES[self.d_unit]
        if self.table is not None:
            return self._usable(interpolate(self.table.d, self.table.value, d), n_params, d_tokens)
        coef, a, b = (self.parameters[key].value for key in ("coef", "a", "b"))
        try:
            found = math.exp(log_power(math.log(coef), a, b, math.log(n), math.log(d)))
        except OverflowError:
            found = math.inf
        return self._usable(found, n_params, d_tokens)

    def _usable(self, found: float, n_params: float, d_tokens: float) -> float:
        if not LEAST_OUTPUT <= found <= MOST_OUTPUT:
            rule = f"law {self.name} gives {self.output} {found:.4g} at N = {n_params:.4g}: none"
            raise DataError.of("D", d_tokens, rule)
        return found

    def outside_range(self, n_params: float | None, d_tokens: float) -> list[str]:
        """In words, where (N, D) lies outside the fitted points; empty inside or where unknown.

        An N of None is not looked at. Where an exponent was left out because the points' N or D
        hardly varies, another one is outside.
        """
        said = []
        checks = (("N", n_params, self.range.n), ("D", d_tokens, self.range.d))
        for name, value, limits in checks:
            if value is None or limits is None:
                continue
            if not limits[0] <= value <= limits[1]:
                said.append(f"{name} = {value:.4g} is outside {limits[0]:.4g} to {limits[1]:.4g}")
                exponent = {"N": "a", "D": "b"}[name]
                if exponent in self.left_out:
                    said[-1] += f", and the law has no exponent of {name}"
        return said

    @property
    def looks_at_n(self) -> bool:
        """Whether an N outside the fitted range is to be warned of."""
        return self.uses_n or "a" in self.left_out

    def to_json(self) -> str:
        """The file's text."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    @model_validator(mode="after")
    def _form_has_its_numbers(self) -> Self:
        if self.form == "power":
            if self.table is not None or set(self.parameters) != {"coef", "a", "b"}:
                raise ValueError("form power has the parameters coef, a and b, and no table")
            coef = self.parameters["coef"]
            ends = (coef.low, coef.value, coef.high)
            if any(end is not None and end <= 0 for end in ends):
                raise ValueError("coef and its interval must be positive")
            for name in ("a", "b"):
                one = self.parameters[name]
                if any(
                    end is not None and abs(end) > STEEPEST
                    for end in (one.low, one.value, one.high)
                ):
                    raise ValueError(
                        f"{name} and its interval lie between -{STEEPEST} and {STEEPEST}"
                    )
            return self
        if self.covariance is not None:
            raise ValueError("a covariance is of form power")
        if self.table is None:
            raise ValueError("form loglog_table has a table")
        if len(self.table.d) != len(self.table.value):
            raise ValueError("table.d and table.value must have the same length")
        if min(self.table.d) <= 0 or min(self.table.value) <= 0:
            raise ValueError("table.d and table.value must be positive")
        if any(later <= earlier for earlier, later in pairwise(self.table.d)):
            raise ValueError("table.d must increase")
        for side, sign in ((self.table.low, 1), (self.table.high, -1)):
            if side is None:
                continue
            if len(side) != len(self.table.value) or min(side) <= 0:
                raise ValueError("table.low and table.high are positive and as long as table.value")
            if any(sign * (v - s) < 0 for v, s in zip(self.table.value, side, strict=True)):
                raise ValueError("table.value lies between table.low and table.high")
        return self


def input_of(path: str | Path) -> Input:
    """A file that a law is fitted to, with the hash of its bytes.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError.of("input", str(path), f"cannot be read: {error.strerror}") from None
    return Input(path=str(path), sha256=digest)


def read_law_file(path: str | Path) -> LawFile:
    """Read and check a law file; one that is not there is looked for among the shipped ones.

    Raises:
        DataError: missing, not JSON, of another schema version, or breaking a rule of the format;
            every problem is named.
    """
    path = locate(path, "laws")
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_LAW_BYTES + 1)
    except OSError as error:
        raise DataError.of("law file", str(path), f"cannot be read: {error.strerror}") from None
    if b'"megascale.schedule-law/' in raw[:4096]:
        rule = (
            "is a law of whole schedules: it plans every batch of a run beforehand, against its "
            "learning rate, and is not looked at while the run goes on; plan, and take the plan's "
            "table"
        )
        command = "megascale schedule --optimize tokens --law-file ... --export yaml -o plan.yaml"
        raise DataError.of("law file", str(path), rule, command)
    if len(raw) > MOST_LAW_BYTES:
        raise DataError.of("law file", str(path), f"larger than {MOST_LAW_BYTES:,} bytes: not read")
    try:
        content = parse_json(raw)
    except JsonTextError as error:
        raise DataError.of("law file", str(path), str(error)) from None
    found = content.get("schema") if isinstance(content, dict) else None
    if found == FIRST_SCHEMA:
        content = upgraded(content)
    elif found != SCHEMA:
        raise DataError.of(f"{path}: schema", found, "not a law file this version reads", SCHEMA)
    try:
        law = LawFile.model_validate(content)
    except ValidationError as error:
        lines = [f"  {line}" for line in violations(error)]
        raise DataError("\n".join([f"{path}: not a valid law file", *lines])) from None
    law._sha256 = hashlib.sha256(raw).hexdigest()
    return law


def violations(error: ValidationError) -> list[str]:
    """What a law breaks, one line a rule."""
    return [
        f"{'.'.join(str(part) for part in item['loc']) or 'file'}: {item['msg']}"
        for item in error.errors(include_url=False)
    ]


class WritableLaw(Protocol):
    """What is written as a law file: this format's, or that of a law of whole schedules."""

    @property
    def name(self) -> str: ...

    def to_json(self) -> str: ...


def write_law_file(law: WritableLaw, path: str | Path) -> str:
    """Write a law file and return its SHA-256.

    Raises:
        DataError: the file cannot be written.
    """
    text = law.to_json()
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError.of("law file", str(path), f"cannot be written: {error.strerror}") from None
    return hashlib.sha256(text.encode()).hexdigest()


def interpolate(knots: list[float], values: list[float], d: float) -> float:
    """Straight lines in (log D, log value) through the knots, the end values held outside."""
    if d <= knots[0]:
        return values[0]
    if d >= knots[-1]:
        return values[-1]
    right = bisect_right(knots, d)
    x0, x1 = math.log(knots[right - 1]), math.log(knots[right])
    y0, y1 = math.log(values[right - 1]), math.log(values[right])
    return math.exp(y0 + (y1 - y0) * (math.log(d) - x0) / (x1 - x0))

"""Status codes and flags of a fit, as the engine numbers them."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Status(IntEnum):
    """Outcome of one problem."""

    CONVERGED = 0
    MAX_ITERATIONS = 1
    STALLED = 2
    TOO_FEW_POINTS = 3
    NON_FINITE = 4
    NON_POSITIVE = 5
    CONSTANT = 6
    INFEASIBLE = 7
    BAD_WEIGHT = 8
    BAD_BOUNDS = 9
    CANCELLED = 10
    NO_FIT = 11
    UNSUPPORTED = 12
    """The solver converged on a law that the problem's own points speak against."""


#: Statuses of problems the solver never ran on: the input breaks a rule.
BAD_INPUT = {
    Status.TOO_FEW_POINTS: "has fewer points of positive weight than free parameters",
    Status.NON_FINITE: "holds NaN or an infinity",
    Status.NON_POSITIVE: "holds a value that is not positive where the law needs one",
    Status.CONSTANT: "has an input or a target that does not vary",
    Status.BAD_WEIGHT: "has a negative weight",
    Status.BAD_BOUNDS: "has a lower bound above its upper bound",
}


class Flag(IntFlag):
    """What to distrust about a fit. The sixteen lowest bits mark weak parameters."""

    AT_BOUND = 1 << 16
    FEW_BRANCH_POINTS = 1 << 17
    EMPTY_BRANCH = 1 << 18
    STARTS_DISAGREE = 1 << 19
    ILL_CONDITIONED = 1 << 20
    NO_FREEDOM = 1 << 21
    UNREACHABLE = 1 << 22
    NOT_CONVEX = 1 << 23
    NEVER_REACHED = 1 << 24
    ABOVE_NOISE = 1 << 25
    OUTSIDE = 1 << 26


AGAINST = Flag.NEVER_REACHED | Flag.ABOVE_NOISE | Flag.OUTSIDE
"""Flags of points that speak against their fit: its status is `UNSUPPORTED`."""


FLAG_TEXT = {
    Flag.AT_BOUND: "a parameter sits on a bound",
    Flag.FEW_BRANCH_POINTS: "a branch of the law holds fewer than three points",
    Flag.EMPTY_BRANCH: "a branch of the law holds no point",
    Flag.STARTS_DISAGREE: "only one search found this optimum: it may not be the global one",
    Flag.ILL_CONDITIONED: "the parameters are nearly degenerate",
    Flag.NO_FREEDOM: "as many parameters as points: no error estimate",
    Flag.UNREACHABLE: "the right branch starts below the origin",
    Flag.NOT_CONVEX: "the quadratic has no interior minimum",
    Flag.NEVER_REACHED: "the law never reaches the loss at a batch that did (B_min is above it)",
    Flag.ABOVE_NOISE: "the residuals are far above the noise that the points state",
    Flag.OUTSIDE: "the optimum lies outside the points",
}


def status_words(status: int) -> str:
    """The status as lower-case words, for tables and JSON."""
    return Status(int(status)).name.lower()


def weak_parameters(flags: int, names: tuple[str, ...]) -> list[str]:
    """Names of the parameters that the flags mark as weakly determined."""
    return [name for i, name in enumerate(names) if int(flags) >> i & 1]


def flag_words(flags: int) -> list[str]:
    """Names of the set flags other than weak parameters, in lower case."""
    return [flag.name.lower() for flag in Flag if int(flags) & flag and flag.name]

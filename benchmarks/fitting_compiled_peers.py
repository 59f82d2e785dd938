"""The piecewise law beside compiled peers on one core: numba and vmapped JAX.

    OMP_NUM_THREADS=1 python -m benchmarks.fitting_compiled_peers [--problems 60]

Needs numba and jax (`pip install numba jax`), which nothing else here does; an absent peer is
left out. Both peers are a Levenberg-Marquardt of the same six logarithmic parameters with exact
derivatives, from random starts around a sensible one, and get as many starts as it takes to reach
our success, the share of problems within 1e-6 of the best known objective, or 512. Rates are in
problems a second of CPU time, the whole search of each.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np

from benchmarks.fitting_peers import free_cores, on_cores, tokens_steps_points, wsd_start

Array = np.ndarray
STEPS = 200
COUNTS = (8, 32, 128, 512)


def starts_of(u: Array, v: Array, count: int) -> Array:
    """(problems, count, 6) starts in logarithms; the first is the sensible one."""
    rng = np.random.default_rng(0)
    base = np.array([wsd_start(a, b) for a, b in zip(u, v, strict=True)])
    out = base[:, None] + 0.7 * rng.standard_normal((len(u), count, 6))
    out[:, 0] = base
    # S_min lies below the first point.
    out[..., 0] = np.minimum(out[..., 0], np.log(0.999 * u.min(axis=1))[:, None])
    return out


def numba_search() -> Callable[[Array, Array, Array], Array]:
    """(u, v, starts) -> best objective of each problem, compiled."""
    import numba

    @numba.njit(fastmath=False)
    def residuals(s, y, t, r, jac):
        s_min, b, a, c = np.exp(t[0]), np.exp(t[1]), np.exp(t[2]), np.exp(t[3])
        curve, floor = np.exp(t[4]), np.exp(t[5])
        total = 0.0
        for i in range(len(s)):
            d = s[i] - s_min
            if d <= 0:
                return np.inf
            e = d - a - b
            if d < b:
                phi = a * a - 2 * a * b + 2 * a * b * b / d
                by_d, by_a = -2 * a * b * b / (d * d), 2 * a - 2 * b + 2 * b * b / d
                by_b, by_c = -2 * a + 4 * a * b / d, 0.0
            elif e <= c:
                phi = e * e
                by_d, by_a, by_b, by_c = 2 * e, -2 * e, -2 * e, 0.0
            else:
                phi = 2 * c * e - c * c
                by_d, by_a, by_b, by_c = 2 * c, -2 * c, -2 * c, 2 * e - 2 * c
            r[i] = (curve * phi + floor) / y[i] - 1
            total += r[i] * r[i]
            jac[i, 0] = -curve * by_d * s_min / y[i]
            jac[i, 1] = curve * by_b * b / y[i]
            jac[i, 2] = curve * by_a * a / y[i]
            jac[i, 3] = curve * by_c * c / y[i]
            jac[i, 4] = curve * phi / y[i]
            jac[i, 5] = floor / y[i]
        return total

    @numba.njit
    def descend(s, y, t):
        n = len(s)
        r, jac = np.empty(n), np.empty((n, 6))
        r2, jac2 = np.empty(n), np.empty((n, 6))
        cost = residuals(s, y, t, r, jac)
        if not np.isfinite(cost):
            return np.inf
        damping = 1e-2
        for _ in range(STEPS):
            h = jac.T @ jac
            g = jac.T @ r
            for k in range(6):
                h[k, k] += damping * h[k, k] + 1e-14
            step = -np.linalg.solve(h, g)
            largest = np.max(np.abs(step))
            if largest > 3:
                step *= 3 / largest
            trial = t + step
            found = residuals(s, y, trial, r2, jac2)
            if found < cost:
                done = cost - found <= 1e-11 * cost
                t, cost = trial, found
                r, r2 = r2, r
                jac, jac2 = jac2, jac
                damping = max(damping * 0.2, 1e-12)
                if done:
                    break
            else:
                damping *= 5
                if damping > 1e10:
                    break
        return cost

    @numba.njit
    def search(u, v, starts):
        best = np.full(len(u), np.inf)
        for p in range(len(u)):
            for k in range(starts.shape[1]):
                best[p] = min(best[p], descend(u[p], v[p], starts[p, k].copy()))
        return best

    return search


def jax_search() -> Callable[[Array, Array, Array], Array]:
    """The same by JAX: all starts of all problems at once, with forward derivatives."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def residual(t, s, y):
        s_min, b, a, c, curve, floor = jnp.exp(t)
        d = s - s_min
        e = d - a - b
        left = a * a - 2 * a * b + 2 * a * b * b / jnp.maximum(d, 1e-9 * b)
        phi = jnp.where(d < b, left, jnp.where(e <= c, e * e, 2 * c * e - c * c))
        return jnp.where(d > 0, (curve * phi + floor) / y - 1, 1e6)

    slopes = jax.jacfwd(residual)

    def descend(t, s, y):
        def step(_, state):
            t, cost, damping = state
            r, jac = residual(t, s, y), slopes(t, s, y)
            h = jac.T @ jac
            h = h + jnp.diag(damping * jnp.diag(h) + 1e-14)
            move = -jnp.linalg.solve(h, jac.T @ r)
            move = move / jnp.maximum(jnp.max(jnp.abs(move)) / 3, 1.0)
            found = jnp.sum(residual(t + move, s, y) ** 2)
            better = found < cost
            return (
                jnp.where(better, t + move, t),
                jnp.where(better, found, cost),
                jnp.clip(jnp.where(better, damping * 0.2, damping * 5), 1e-12, 1e12),
            )

        cost = jnp.sum(residual(t, s, y) ** 2)
        return jax.lax.fori_loop(0, STEPS, step, (t, cost, 1e-2))[1]

    many = jax.jit(jax.vmap(lambda s, y, ts: jnp.min(jax.vmap(lambda t: descend(t, s, y))(ts))))
    return lambda u, v, starts: np.asarray(many(u, v, starts))


def timed(search: Callable[..., Array], *given: Array) -> tuple[Array, float]:
    """What a search finds once compiled, and its CPU seconds."""
    search(*given)
    begin = time.process_time()
    found = search(*given)
    return found, time.process_time() - begin


def main() -> None:
    """Command line."""
    from megascale import fitting

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=60)
    some = parser.parse_args().problems
    s, e, best = tokens_steps_points()
    if best is None:
        raise SystemExit("needs the frozen problems of es_fits (MEGASCALE_DATA)")
    s, e, best = s[:some], e[:some], best[:some]
    u = s / np.exp(np.log(s).mean(1, keepdims=True))
    v = e / np.exp(np.log(e).mean(1, keepdims=True))

    def success(found: Array) -> float:
        return float(np.mean(found <= best * (1 + 1e-6)))

    with on_cores({min(free_cores())}):
        ours, spent = timed(
            lambda: fitting.fit("wsd", s, e, residual="relative", threads=1).objective
        )
        goal = success(ours)
        print(f"megascale: {some / spent:,.0f} problems/s, success {goal:.4f}", flush=True)
        for name, make in (("numba", numba_search), ("JAX, vmapped", jax_search)):
            try:
                search = make()
            except ImportError:
                print(f"{name}: not installed")
                continue
            for count in COUNTS:
                found, took = timed(search, u, v, starts_of(u, v, count))
                share = success(found)
                print(
                    f"{name}, {count} starts: {some / took:,.1f} problems/s, success {share:.4f}, "
                    f"{took / spent:,.0f} times our time",
                    flush=True,
                )
                if share >= goal:
                    break


if __name__ == "__main__":
    main()

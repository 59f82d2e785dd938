"""The law of whole schedules on the page: its script predicts what `predict` predicts."""

from __future__ import annotations

from dataclasses import asdict
from importlib import resources

import numpy as np
import pytest

from megascale.fitting.history_law import FORMS, NAMES
from megascale.fitting.history_result import predict_history
from megascale.formats.run_log import RunLog
from megascale.formats.schedule_law_file import (
    FittedForm,
    OutlineOfSchedule,
    ScheduleLawFile,
    SeenByRuns,
)
from megascale.laws.schedule.outline import ScheduleOutline
from megascale.propose.plan_bounds import outside_seen
from megascale.propose.predicted_runs import best_fixed_batch
from megascale.propose.prediction import WIDENED, predict_schedules
from megascale.propose.schedule_law import ScheduleLaw
from megascale.propose.schedule_plan import SchedulePlan
from megascale.propose.scripted_law import law_data, plan_data
from megascale.report.page import write_page
from megascale.schedule.lr import LRSchedule
from megascale.verbs.predict_tables import _loss
from tests.report.browser import chromium, open_page
from tests.report.samples import documented

VALUES = {
    "L_inf": 2.0, "a": 1.2, "p": 0.4, "T0": 50.0, "u": 1.1, "r": 0.5, "B_n": 700.0, "omega": 1.0,
    "c": 0.3, "x": 0.9, "q": 0.4, "tau": 30.0, "kappa": 0.6, "c2": 0.1, "tau2": 400.0,
    "gamma": 0.5, "g": 0.7, "n_L": 0.0, "n_a": 0.0, "n_c": 0.0,
}  # fmt: skip
TOTAL = 1_000_000


def fitted_form(name: str, rng: np.random.Generator) -> FittedForm:
    law = FORMS[name]

    def parameters(spread: float) -> list[float]:
        found = {n: v * np.exp(spread * rng.standard_normal()) for n, v in VALUES.items()}
        found |= dict(law.fixed)
        found |= {n: factor * found[other] for n, (other, factor) in law.ties.items()}
        return [float(found[n]) for n in NAMES]

    return FittedForm(
        name=name, parameters=list(NAMES), values=parameters(0.0),
        draws=[parameters(0.05) for _ in range(20)], lr_scale=5e-3, batch_scale=512.0,
        progress_scale=1500.0, rms=0.01,
        left_out={run: float(rng.normal(0.0, 0.02)) for run in ("a", "b", "c", "d", "e")},
    )  # fmt: skip


def law_file(*names: str) -> ScheduleLawFile:
    rng = np.random.default_rng(7)
    return ScheduleLawFile(
        name="of a test", loss="validation", from_tokens=120e3, confidence=0.9,
        forms=[fitted_form(name, rng) for name in names],
        seen=SeenByRuns(
            tokens=TOTAL, batch=(128, 4096), batch_decayed=(256, 1024), peak=(5e-3, 5e-3),
            decay_share=(0.2, 0.4), final_ratio=(0.02, 0.1), warmup_tokens=54_144,
        ),
        weight_decay=0.1, schedules=5, runs=5, outlines=outlines(),
    )  # fmt: skip


def outlines() -> dict[str, OutlineOfSchedule]:
    """Those of five fitted schedules."""
    fitted = [
        plan([(0, 256)], decay=0, ratio=1.0), plan([(0, 1024)]), plan([(0, 512)], decay=400_000),
        plan([(0, 256), (500_000, 4096)], decay=0, ratio=1.0), plan([(0, 128)], ratio=0.02),
    ]  # fmt: skip
    found = {}
    for name, one in zip("abcde", fitted, strict=True):
        shown = ScheduleOutline.of_history(one.history())
        residual = 0.01 * (len(found) - 2)
        found[name] = OutlineOfSchedule(**asdict(shown), residual=residual)
    return found


def plan(batches, decay=200_000, shape="linear", ratio=0.1, peak=5e-3, warmup=54_144, total=TOTAL):
    rate = LRSchedule(
        kind="wsd", peak=peak, total_tokens=total, warmup_tokens=warmup, decay_tokens=decay,
        decay_shape=shape, final=peak * ratio,
    )  # fmt: skip
    return SchedulePlan(tuple(batches), rate, weight_decay=0.1)


PLANS = [
    plan([(0, 256)]),
    plan([(0, 256), (600_000, 1024)]),
    plan([(0, 512), (100_000, 256), (850_000, 1024)], decay=333_333, shape="1-sqrt", ratio=0.02),
    plan([(0, 1024)], decay=0, ratio=1.0),
    plan([(0, 64), (700_001, 8192)], decay=600_000, shape="cosine", ratio=0.0, peak=8e-3),
    plan([(0, 256), (10_000, 300)], decay=250_000, shape="exponential", ratio=0.05, warmup=0),
    plan([(0, 256), (900_000, 512)], total=1_200_000),
]


def predicted(law: ScheduleLaw, plans):
    outside = [outside_seen(one, law.seen) for one in plans]
    return predict_schedules(law, [one.history() for one in plans], outside, widen=WIDENED)


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def scripts():
    static = resources.files("megascale.report").joinpath("static")
    names = ("format.js", "laws.js", "history.js", "predict.js")
    return "\n".join(static.joinpath(name).read_text() for name in names)


@pytest.fixture
def run_script(browser, scripts):
    """Run JavaScript with the page's functions in the browser."""
    page = browser.new_context().new_page()
    yield lambda code, given: page.evaluate(f"(given) => {{ {scripts}\n{code} }}", given)
    page.context.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, law in FORMS.items() if law.rate == "given"])
def test_every_form_has_the_engines_losses(run_script, name):
    file = law_file(name)
    law = ScheduleLaw.of_file(file)
    data = law_data(file, law)
    points = np.linspace(60_000, TOTAL, 17)
    shown = run_script(
        """return given.plans.map((plan) => {
            const [form] = given.law.forms;
            const history = planHistory(plan, given.law);
            return drawnLosses(given.law, [history], [given.points])[0];
        });""",
        {"law": data, "plans": [plan_data(one) for one in PLANS[:6]], "points": points.tolist()},
    )
    fit = law.fits[0]
    for one, found in zip(PLANS[:6], shown, strict=True):
        table = np.array(data["forms"][0]["table"])
        loss, _ = predict_history(fit.law, table, one.history(), points, fit.scales)
        np.testing.assert_allclose(found, loss, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [("snr",), ("theta", "w0"), ("power", "two_exponentials", "exponential_r"), ("fsl",)]
)
def test_the_script_predicts_what_predict_does(run_script, names):
    file = law_file(*names)
    law = ScheduleLaw.of_file(file)
    plans = PLANS[:6] if "fsl" in names else PLANS
    shown = run_script(
        "return predictSchedules(given.law, given.plans);",
        {"law": law_data(file, law), "plans": [plan_data(one) for one in plans]},
    )
    for one, found in zip(predicted(law, plans), shown, strict=True):
        assert found["outside"] == list(one.outside)
        assert found["steps"] == pytest.approx(one.steps, rel=1e-12)
        for key in ("tokens", "loss", "low", "high"):
            np.testing.assert_allclose(found[key], getattr(one, key), rtol=1e-9)
        pairs = [(found["end"], one.end)]
        if one.against_first is None:
            assert found["against"] is None
        else:
            pairs.append((found["against"], one.against_first))
        for said, expected in pairs:
            for key in ("value", "low", "high"):
                assert said[key] == pytest.approx(getattr(expected, key), rel=1e-8, abs=1e-10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A law file beside runs whose batch grows or stays."""
    folder = tmp_path_factory.mktemp("schedules")
    (folder / "law.json").write_text(law_file("snr", "theta").to_json())
    for name, batches in (("fixed", [(0, 500)]), ("grown", [(0, 500), (600_000, 1000)])):
        (folder / "runs" / name).mkdir(parents=True)
        log = RunLog(folder / "runs" / name, header={"name": name})
        tokens = step = 0
        while tokens < TOTAL:
            batch = next(size for start, size in reversed(batches) if start <= tokens)
            steps = 10_000 // batch
            tokens, step = tokens + 10_000, step + steps
            log.metrics({
                "step": step, "tokens": tokens, "samples": tokens // 100, "batch_tokens": batch,
                "micro_batches": 1, "sequence_length": 100, "interval_tokens": 10_000,
                "steps": steps, "skipped": 0, "loss_sum": 3e4, "loss_tokens": 10_000, "loss": 3.0,
                "lr": 5e-3 * min(tokens / 50_000, 1.0, 0.05 + (TOTAL - tokens) / 300_000),
                "weight_decay": 0.1, "grad_norm": 1.0, "seconds": 0.5,
            })  # fmt: skip
            if tokens % 100_000 == 0:
                log.event("evaluation", step=step, tokens=tokens, source="held-out",
                          loss=3.0 + 40_000 / tokens, loss_tokens=10_000)  # fmt: skip
        log.close()
    return folder


def test_the_document_sets_runs_beside_their_predictions(folder):
    document = documented([folder])
    (law,) = document["schedule_laws"]
    assert [run["run"] for run in law["runs"]] == ["fixed", "grown"]
    assert [size for _, size in law["runs"][1]["batches"]] == [500.0, 1000.0]
    assert law["verdict"] in document["verdicts"]
    assert "2 runs" in law["verdict"]
    assert law["best_fixed"] == plan_data(
        best_fixed_batch(ScheduleLaw.of_file(law_file("snr", "theta")))
    )


@pytest.mark.slow
def test_the_sliders_move_the_prediction(browser, folder, tmp_path):
    page = write_page(documented([folder]), tmp_path / "report.html")
    law = ScheduleLaw.of_file(law_file("snr", "theta"))
    fixed = best_fixed_batch(law)
    said: list[str] = []
    opened = open_page(browser, page, said)
    assert opened.locator("#schedules figure.plot .frame svg").count() == 3
    lines = "(svg) => [...svg.querySelectorAll('.marks path')].map((p) => p.outerHTML).join()"
    figure = opened.locator("#schedules figure.plot .frame svg").first
    before = figure.evaluate(lines)
    for at, decay in ((60, 20), (30, 40), (80, 55)):
        opened.locator("#move-at").fill(str(at))
        opened.locator("#move-decay").fill(str(decay))
        shown = opened.locator("#schedules .moved").inner_text()
        sizes = [
            int(opened.locator(f"#move-{key}").evaluate("(e) => e.value"))
            for key in ("first", "second")
        ]
        ladder = [128, 256, 384, 512, 768, 1024, 2048]
        batches = [(0, ladder[sizes[0]]), (at * TOTAL // 100, ladder[sizes[1]])]
        moved = plan(
            batches, decay=decay * TOTAL // 100, peak=fixed.peak, ratio=fixed.final_ratio,
            warmup=fixed.lr.warmup_tokens,
        )  # fmt: skip
        first, one = predicted(law, [fixed, moved])
        assert f"ends at {_loss(one.end)} nats (90 % interval)" in shown
        assert _loss(first.end) in shown
        assert f"in {one.steps / first.steps:.2f} of the steps" in shown
        for words in one.outside:
            assert words in shown
        dashed = opened.locator("#schedules .marks path[stroke-dasharray='7 5']").count()
        assert (dashed == 3) == bool(one.outside)
        after = figure.evaluate(lines)
        assert after != before
        before = after
    opened.context.close()
    assert said == []


@pytest.mark.slow
def test_a_growing_run_stands_beside_its_opponent(browser, folder, tmp_path):
    document = documented([folder])
    (pair,) = document["curves"]["compared"]
    assert (pair["run"], pair["opponent"]) == ("grown", "fixed")
    assert pair["sentence"] in document["verdicts"]
    opened = open_page(browser, write_page(document, tmp_path / "report.html"), [])
    assert opened.locator("#compared .verdict").inner_text() == pair["sentence"]
    assert opened.locator("#compared figure.plot .frame svg").count() == 3
    opened.context.close()


@pytest.mark.slow
def test_the_calculator_takes_schedules_a_line_each(browser, folder, tmp_path):
    page = write_page(documented([folder]), tmp_path / "report.html")
    opened = open_page(browser, page, [])
    form = opened.locator("#predict-form")
    form.locator("[name=p_batches]").fill("0:256\n0:256, 600K:1Ki")
    form.locator("[name=p_decay]").fill("200K")
    form.locator("[name=p_final]").fill("0.1")
    form.locator("[name=p_warmup]").fill("54144")
    found = predicted(ScheduleLaw.of_file(law_file("snr", "theta")), PLANS[:2])
    rows = opened.locator("#calculator table").first.locator("tbody tr").all()
    shown = [row.locator("td").all_inner_texts() for row in rows]
    assert [row[0] for row in shown] == ["0:256", "0:256,600K:1Ki"]
    for row, one in zip(shown, found, strict=True):
        assert row[1:4] == [f"{v:.4f}" for v in (one.end.value, one.end.low, one.end.high)]
    form.locator("[name=p_batches]").fill("256")
    assert "START:BATCH" in opened.locator("#predict-form + .wrong").inner_text()
    opened.context.close()

"""The page in a browser: it computes what the command line computes, and can be used."""

from __future__ import annotations

import random
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from megascale.formats.law_file import LawFile
from megascale.laws.published.law import Target
from megascale.laws.published.recommend import recommend
from megascale.laws.published.registry import published_law
from megascale.model.config import read_model_config
from megascale.report.document import Settings
from megascale.report.page import write_page
from megascale.schedule.batch import build_batch_schedule
from megascale.schedule.law_driven import law_driven_points
from megascale.units import parse_count
from megascale.verbs.recommend_tables import _band, _shown
from tests.report.browser import chromium, open_page
from tests.report.samples import documented, write_grid, write_runs, write_study

pytestmark = pytest.mark.slow

FIGURES = {
    "curves": 1, "along": 2, "tokens-steps": 1, "best-batch": 2, "grid": 1, "calculator": 1,
    "studies": 1,
}  # fmt: skip
POWER = {
    "schema": "megascale.law/2", "name": "power-batch", "version": "1", "form": "power",
    "output": "batch_tokens", "n_kind": "active", "n_unit": "millions", "d_kind": "consumed",
    "parameters": {
        "coef": {"value": 0.9, "low": 0.5, "high": 1.6}, "a": {"value": 0.1, "low": 0.05,
        "high": 0.15}, "b": {"value": 0.55, "low": 0.5, "high": 0.6},
    },
    "range": {"n": [1e8, 1e9], "d": [1e9, 1e11]}, "source": "made up for a test",
}  # fmt: skip
COVARIANCE = POWER | {
    "name": "power-lr", "output": "peak_lr", "n_kind": "non_embedding",
    "confidence": 0.8, "degrees_of_freedom": 4.5,
    "covariance": {
        "matrix": [[0.04, -0.001, -0.001], [-0.001, 4e-4, 1e-5], [-0.001, 1e-5, 1e-4]],
    },
    "conditions": {"batch_tokens": [1e6, 2e6]},
}  # fmt: skip
TABLE = {
    "schema": "megascale.law/2", "name": "table-lr", "version": "1", "form": "loglog_table",
    "output": "peak_lr", "n_kind": "total", "d_kind": "horizon", "d_unit": "billions",
    "table": {"d": [1, 10, 300], "value": [2e-3, 1e-3, 4e-4], "low": [1e-3, 8e-4, 2e-4],
              "high": [3e-3, 2e-3, 5e-4]}, "confidence": 0.9, "degrees_of_freedom": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def laws():
    return [LawFile.model_validate(law) for law in (POWER, TABLE, COVARIANCE)]


@pytest.fixture(scope="module")
def report(tmp_path_factory, laws, repository):
    folder = tmp_path_factory.mktemp("page")
    study = write_study(folder / "lr-smoke")
    models = [repository / "configs" / "models" / "qwen3-30b-a3b.yaml"]
    settings = Settings(laws=laws, models=models)
    document = documented([write_runs(folder), write_grid(folder), study], settings, replicates=60)
    return write_page(document, folder / "report.html")


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser, report):
    said: list[str] = []
    opened = open_page(browser, report, said)
    yield opened
    opened.context.close()
    assert said == []


def set_fields(page, fields):
    """Fill the form at once and let the page compute."""
    page.evaluate(
        """(fields) => {
            const form = document.getElementById("form");
            for (const [key, value] of Object.entries(fields)) form.elements[key].value = value;
            form.dispatchEvent(new Event("input"));
        }""",
        fields,
    )


def shown_tables(page):
    """{quantity: [(law key, value, sequences, band)]} and the sentences on medians."""
    return page.evaluate(
        """() => {
            const tables = [...document.querySelectorAll("#recommend table")];
            const rowsOf = (t) => [...t.tBodies[0].rows].map((row) => {
                const cells = [...row.cells].map((cell) => cell.textContent);
                const key = row.querySelector(".value").dataset.law;
                const own = [...row.querySelectorAll("small")].map((s) => s.textContent);
                return [key, ...cells.slice(3), own.filter((s) => s.startsWith("warning: "))];
            });
            const found = {};
            for (const t of tables) {
                const one = found[t.dataset.quantity] ||= {rows: [], pools: []};
                // published laws stand below those of one's own, folded
                one.rows = [...rowsOf(t), ...one.rows];
                one.pools = [...t.closest(".table").querySelectorAll(".pool")]
                    .map((p) => p.textContent);
            }
            return found;
        }"""
    )


def expected_tables(target, sequence_length, laws):
    """The same from `recommend`, printed as its tables print it."""
    found = recommend(target, sequence_length=sequence_length, law_files=laws)
    words = {"batch_tokens": "a batch", "lr": "a peak LR", "loss": "a target loss"}
    out = {}
    for answer in (found.lr, found.batch, found.weight_decay, found.loss):
        shown = lambda value, quantity=answer.quantity: _shown(quantity, value)  # noqa: E731
        rows = []
        for row in answer.rows:
            if row.value is not None:
                value = shown(row.value)
            else:
                needs = " and ".join(words[key] for key in row.missing)
                value = f"needs {needs}" if needs else "none"
            band = _band(answer.quantity, row)
            batch = answer.quantity == "batch"
            sequences = [f"{row.sequences:,.0f}" if row.sequences else ""] if batch else []
            inside = {True: "yes", False: "no", None: "not known"}[row.in_range]
            rows.append(
                [row.law, value, *sequences, band, inside, row.certainty,
                 [f"warning: {text}" for text in row.warnings]]
            )  # fmt: skip
        pools = [
            f"{pool.regime}: {pool.laws} laws, geometric median {shown(pool.median)}, from "
            f"{shown(pool.low)} to {shown(pool.high)} (a factor of {pool.spread:.3g}); "
            f"{pool.in_range} of them inside their fitted range. Orientation, not truth."
            for pool in answer.pools
        ]
        out[answer.quantity] = {"rows": rows, "pools": pools}
    return out


def random_fields(draw):
    """Texts a user could type, some of the optional ones left empty."""

    def count(low, high):
        value = 10 ** draw.uniform(low, high)
        unit, scale = draw.choice([("", 1), ("K", 1e3), ("M", 1e6), ("B", 1e9)])
        whole = max(round(value / scale * 100), 1) if scale > 1 else round(value) * 100
        return f"{whole // 100}.{whole % 100:02d}{unit}" if scale > 1 else str(whole // 100)

    params = count(7, 12)
    active = max(1, int(parse_count(params, "N") * draw.choice([1, 0.5, 0.07])))
    fields = {
        "params": params, "active_params": str(active), "tokens": count(8, 13.5),
        "seq_length": str(draw.choice([512, 2048, 4096, 8192, 1000])),
        "loss": "", "lr": "", "batch": "", "reference_lr": "", "reference_params": "",
        "reference_tokens": "", "model": "",
        "n_unit": draw.choice(["units", "thousands", "millions", "billions"]),
        "d_unit": draw.choice(["units", "thousands", "millions", "billions"]),
        "n_count": draw.choice(["total", "active"]),
    }  # fmt: skip
    if draw.random() < 0.5:
        fields |= {"loss": f"{draw.uniform(1.5, 4):.3f}", "lr": f"{10 ** draw.uniform(-5, -2):.2e}",
                   "batch": count(5, 8)}  # fmt: skip
    if draw.random() < 0.3:
        fields |= {"reference_lr": "1.3e-3", "reference_params": "350M", "reference_tokens": "26B"}
    return fields


def target_of(fields):
    reference = None
    if fields["reference_lr"]:
        reference = (
            float(fields["reference_lr"]),
            parse_count(fields["reference_params"], "N"),
            parse_count(fields["reference_tokens"], "D"),
        )
    return Target(
        parse_count(fields["params"], "N"),
        parse_count(fields["active_params"], "N"),
        parse_count(fields["tokens"], "D"),
        loss=float(fields["loss"]) if fields["loss"] else None,
        lr=float(fields["lr"]) if fields["lr"] else None,
        batch_tokens=parse_count(fields["batch"], "B") if fields["batch"] else None,
        n_unit=fields["n_unit"],
        d_unit=fields["d_unit"],
        n_count=fields["n_count"],
        reference=reference,
    )


def test_the_calculator_prints_what_recommend_prints(page, report, laws):
    draw = random.Random(11)
    for _ in range(60):
        fields = random_fields(draw)
        set_fields(page, fields)
        target = target_of(fields)
        sequence = int(fields["seq_length"])
        shown = shown_tables(page)
        expected = expected_tables(target, sequence, laws)
        for quantity, found in expected.items():
            rows = [row for row in shown[quantity]["rows"] if not row[0].startswith("this report")]
            assert rows == found["rows"], fields
            assert shown[quantity]["pools"] == found["pools"], fields
    assert page.locator(".wrong:not(:empty)").count() == 0


def test_a_model_gives_every_count_of_n(page, laws, repository):
    config = read_model_config(repository / "configs" / "models" / "qwen3-30b-a3b.yaml")
    for sequence in (2048, 32768):
        set_fields(page, {"model": "qwen3-30b-a3b", "tokens": "2T", "seq_length": str(sequence)})
        target = Target.of_model(config, 2 * 10**12, sequence)
        expected = expected_tables(target, sequence, laws)
        shown = shown_tables(page)
        for quantity in expected:
            rows = [row for row in shown[quantity]["rows"] if not row[0].startswith("this report")]
            assert rows == expected[quantity]["rows"]


@pytest.mark.parametrize("key", ["power-batch", "step-batch", "power-lines-batch", "ling-batch"])
def test_segments_are_those_of_the_schedule(page, laws, key):
    draw = random.Random(key)
    for _ in range(12):
        fields = {
            "params": "2B", "active_params": "600M", "tokens": f"{draw.randint(60, 900)}B",
            "seq_length": "2048", "interval": f"{draw.randint(5, 200)}B",
            "momentum": f"{draw.uniform(0.2, 1):.2f}", "initial": f"{draw.randint(8, 40) * 65536}",
            "micro_batch": str(draw.choice([1, 2])), "dp": str(draw.choice([8, 16, 32])),
            "plan_law": key,
        }  # fmt: skip
        set_fields(page, fields)
        total = parse_count(fields["tokens"], "tokens")
        target = Target(2 * 10**9, 6 * 10**8, total)

        def batch(tokens, target=target):
            if key == "power-batch":
                return laws[0].evaluate(target.n("active"), tokens)
            return published_law(key).evaluate(replace(target, tokens=tokens)).value

        points = law_driven_points(
            batch,
            interval_tokens=parse_count(fields["interval"], "interval"),
            momentum=float(fields["momentum"]),
            initial_tokens=int(fields["initial"]),
            total_tokens=total,
        )
        schedule = build_batch_schedule(
            points,
            total_tokens=total,
            sequence_length=2048,
            micro_batch_size=int(fields["micro_batch"]),
            data_parallel=int(fields["dp"]),
        )
        expected = [
            [f"{value:,}" for value in (
                s.start_tokens, s.end_tokens, s.requested_batch_tokens, s.batch_tokens,
                s.micro_batches, s.first_step, s.steps)]
            for s in schedule.segments
        ]  # fmt: skip
        shown = page.evaluate(
            """() => [...document.querySelectorAll("#plan tbody tr")].map((row) =>
                [...row.cells].map((cell) => cell.textContent))"""
        )
        assert shown == expected[:100]


def test_an_illegal_layout_is_refused_with_the_nearest_batches(page):
    set_fields(page, {"dp": "4096", "seq_length": "8192", "initial": "2M"})
    said = page.locator("#plan .wrong").inner_text()
    assert "nearest legal" in said
    assert page.locator("#plan table").count() == 0


@pytest.mark.parametrize(
    ("field", "text", "word"),
    [
        ("params", "4.5", "whole number"),
        ("tokens", "many", "whole number"),
        ("tokens", "0", "positive"),
        ("active_params", "9T", "exceed"),
        ("loss", "-1", "positive"),
    ],
)
def test_wrong_input_is_explained_and_computes_nothing(page, field, text, word):
    set_fields(page, {field: text})
    assert word in page.locator("#form > .wrong").first.inner_text()
    assert page.locator("#recommend table").count() == 0


def test_every_figure_has_data(page):
    for section, count in FIGURES.items():
        plots = page.locator(f"#{section} figure.plot .frame svg")
        assert plots.count() == count, section
        for i in range(count):
            paths = plots.nth(i).locator(".marks > *")
            assert paths.count() > 2, section
            drawn = plots.nth(i).locator(".marks path").evaluate_all(
                "(all) => all.filter((p) => (p.getAttribute('d') || '').length > 10).length"
            )  # fmt: skip
            assert drawn > 0, section
            assert "NaN" not in plots.nth(i).evaluate("(svg) => svg.outerHTML")


def test_every_run_has_a_colour_of_its_own(page):
    colours = page.evaluate(
        """() => [...document.querySelectorAll("#along > .legend button line")]
            .map((line) => getComputedStyle(line).stroke)"""
    )
    assert len(colours) == 9
    assert len(set(colours)) == 9


def test_a_study_shows_its_question_its_tables_and_what_is_missing(page):
    text = page.locator("#studies").inner_text()
    assert "Where is the best rate?" in text
    assert "in the middle" in text
    assert "lr-0.4: failed, exit 6" in text
    with page.expect_download() as download:
        page.locator("#studies .download").first.click()
    assert download.value.suggested_filename == "lr-smoke-1.csv"
    assert Path(download.value.path()).read_text() == (
        "run,final loss\nlr-0.1,3.1000\nlr-0.2,3.0000\n"
    )


def test_the_slider_and_the_figures_obey_the_keyboard(page):
    slider = page.locator("#smoothing")
    lines = "(svg) => [...svg.querySelectorAll('.marks path')].map((p) => p.getAttribute('d'))"
    figure = page.locator("#curves figure.plot .frame svg")
    before = figure.evaluate(lines)
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert page.locator("#curves output").inner_text() == "30 %"
    assert figure.evaluate(lines) != before
    for section in FIGURES:
        svg = page.locator(f"#{section} figure.plot .frame svg").first
        svg.focus()
        page.keyboard.press("ArrowRight")
        first = page.locator(f"#{section} .spoken").first.inner_text()
        page.keyboard.press("ArrowDown")
        assert first, section
        page.keyboard.press("Escape")


def test_tab_reaches_every_control(page):
    """Every control that can be seen gets the focus, in the order of the page."""
    wanted = page.evaluate(
        """() => {
            window.reached = [];
            document.addEventListener("focusin", (event) => window.reached.push(event.target));
            const closed = (e) => e.closest("details:not([open])");
            window.wanted = [...document.querySelectorAll(
                "a[href], button, input, select, summary, svg[tabindex], .scroll")].filter((e) =>
                e.checkVisibility() && !e.disabled && (!closed(e) || e.matches("summary")));
            return window.wanted.length;
        }"""
    )
    assert wanted > 100
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
    missed = page.evaluate(
        "() => window.wanted.filter((e) => !window.reached.includes(e)).map((e) => e.outerHTML)"
    )
    assert missed == []
    in_order = page.evaluate(
        """() => window.reached.slice(0, window.wanted.length).every((e, i) => !i ||
            window.reached[i - 1].compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING)"""
    )
    assert in_order


def test_axis_colour_and_law_can_be_changed(page):
    page.locator("#curves select").first.select_option("step")
    assert "steps" in page.locator("#curves .axes .label").first.text_content()
    selects = page.locator("#tokens-steps select")
    law = selects.nth(selects.count() - 2)
    before = page.locator("#tokens-steps caption").last.inner_text()
    law.select_option("two_power")
    assert page.locator("#tokens-steps caption").last.inner_text() != before
    selects.last.select_option("batch")
    assert "batch" in page.locator("#tokens-steps .axes .label").first.text_content()


def test_tables_download_as_csv(page):
    with page.expect_download() as waiting:
        page.locator('[data-file="crossings.csv"]').click()
    lines = Path(waiting.value.path()).read_text().splitlines()
    assert lines[0].startswith("batch_small,batch_large,tokens")
    assert len(lines) > 1
    with page.expect_download() as waiting:
        page.locator('[data-file="recommend-lr.csv"]').click()
    assert "step-lr" in Path(waiting.value.path()).read_text()


def test_a_heading_sorts_its_table(page):
    table = page.locator("#curves table").first
    button = table.locator("th button", has_text="last loss")
    values = lambda: [float(x) for x in table.locator("tbody td:nth-child(8)").all_inner_texts()]  # noqa: E731
    button.click()
    assert values() == sorted(values())
    button.click()
    assert values() == sorted(values(), reverse=True)


def test_light_and_dark_differ_and_both_are_quiet(browser, report, tmp_path):
    shots = {}
    for scheme in ("light", "dark"):
        said: list[str] = []
        opened = open_page(browser, report, said, color_scheme=scheme)
        shots[scheme] = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        picture = opened.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
        assert len(picture) > 50_000
        assert said == []
        opened.context.close()
    assert shots["light"] != shots["dark"]


def test_narrow_screens_do_not_scroll_sideways(browser, report):
    opened = open_page(browser, report, [])
    opened.set_viewport_size({"width": 375, "height": 800})
    opened.reload()
    opened.wait_for_selector("#provenance table")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 375
    hidden = opened.evaluate(
        """() => [...document.querySelectorAll("tbody td")].filter((cell) => {
            const box = cell.getBoundingClientRect();
            return cell.textContent && cell.checkVisibility() && (box.right > 375 || box.left < 0);
        }).map((cell) => cell.textContent)"""
    )
    assert hidden == []
    opened.context.close()


def test_numbers_print_as_python_prints_them(page):
    draw = random.Random(3)
    values = [0.0, 1.0, 0.5, 2.5, 12345.0, 9.995, 99950.0, 1e22, 123456789012.0, 1e-5, 0.0001]
    values += [draw.choice([1, 10, 1000]) * 10 ** draw.uniform(-8, 15) for _ in range(300)]
    values += [float(draw.randrange(1, 4000)) / 2**k for k in range(8) for _ in range(20)]
    specs = [".2e", ".3g", ".4g", ",.0f"]
    script = resources.files("megascale.report").joinpath("static", "format.js").read_text()
    shown = page.evaluate(
        f"([values, specs]) => {{ {script}\n"
        "return values.map((v) => specs.map((s) => formatNumber(v, s))); }",
        [values, specs],
    )
    assert shown == [[format(value, spec) for spec in specs] for value in values]

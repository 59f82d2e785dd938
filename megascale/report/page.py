"""The document as one self-contained HTML page: styles, scripts and data inlined."""

from __future__ import annotations

import html
import json
from importlib import resources
from pathlib import Path
from typing import Any

from megascale.errors import DataError
from megascale.report.calculator import formulas_script

SCRIPTS = (
    *("format.js", "laws.js", "history.js", "predict.js", "drawing.js", "plot.js", "table.js"),
    *("studies.js", "seeds.js", "curves.js", "along.js", "compared.js", "schedules.js"),
    *("predict_form.js", "batch.js", "grid.js", "calculator.js", "page.js"),
)
LARGEST_BYTES = 8_000_000


def render_page(document: dict[str, Any]) -> str:
    """The page's text.

    Raises:
        DataError: it would be larger than `LARGEST_BYTES`.
    """
    data = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    code = "\n".join(_static(name) for name in SCRIPTS)
    title = html.escape(document["title"])
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{_static("page.css")}
</style>
</head>
<body>
<a class="skip" href="#main">Skip to the figures</a>
<header><h1>{title}</h1><p id="lead"></p><div id="verdicts"></div>
<nav id="nav" aria-label="Sections"></nav></header>
<main id="main"></main>
<noscript>This page draws its figures with JavaScript, all of which it carries itself.</noscript>
<script type="application/json" id="data">{data}</script>
<script>
"use strict";
(() => {{
const DOCUMENT = JSON.parse(document.getElementById("data").textContent);
const CALCULATOR = DOCUMENT.calculator;
{formulas_script()}
{code}
buildPage();
}})();
</script>
</body>
</html>
"""
    size = len(page.encode())
    if size > LARGEST_BYTES:
        raise DataError.of(
            "report", f"{size / 1e6:.1f} MB", "a page may have 8 MB: report on fewer runs at once"
        )
    return page


def write_page(document: dict[str, Any], path: str | Path) -> Path:
    """Write the page.

    Raises:
        DataError: the file cannot be written, or the page is too large.
    """
    path = Path(path)
    text = render_page(document)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as failure:
        raise DataError.of(
            "--output", str(path), f"cannot be written: {failure.strerror}"
        ) from None
    return path


def _static(name: str) -> str:
    return resources.files("megascale.report").joinpath("static", name).read_text(encoding="utf-8")

"""The section of studies: what a sweep asked, and its finish tables as it printed them."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megascale.formats.run_log import METRICS_FILE
from megascale.runs.files import STUDY_FOLDER, STUDY_RESULTS

SCHEMA = "megascale.sweep/1"
CURVE = ("of", "values", "losses", "parabola", "axis")
"""What an answer on a best point says of each curve of final losses over a numeric axis."""


def find_studies(paths: Sequence[str | Path]) -> list[Path]:
    """Result files of the studies among directories, trees and globs, each once."""
    found: dict[Path, None] = {}
    for text in paths:
        path = Path(text)
        places = [path] if path.exists() else [Path(name) for name in glob.glob(str(text))]
        for place in sorted(places):
            if (
                place.is_file()
                and place.name == STUDY_RESULTS
                and place.parent.name == STUDY_FOLDER
            ):
                found[place] = None
            elif place.is_dir():
                found.update(dict.fromkeys(_below(place)))
    return list(found)


def _below(root: Path) -> Iterator[Path]:
    """Studies in a tree; run directories are not entered."""
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        if STUDY_FOLDER in folders and (here / STUDY_FOLDER / STUDY_RESULTS).is_file():
            yield here / STUDY_FOLDER / STUDY_RESULTS
        entered = [] if METRICS_FILE in names else sorted(folders)
        folders[:] = [name for name in entered if name != STUDY_FOLDER and not name.startswith(".")]


def read_studies(paths: Sequence[str | Path], notes: list[str]) -> list[dict[str, Any]]:
    """What the studies' result files say; one that cannot be read is a note.

    Returns:
        Per study its name, scale, question, expected reading, runs and answers. An answer has
        columns and rows as texts, notes, and `curves`: final loss over a numeric axis, where it is
        about the best point of one.
    """
    studies = []
    for path in find_studies(paths):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("schema") != SCHEMA:
                raise ValueError(f"schema {content.get('schema')}, not {SCHEMA}")
            studies.append(_study(path, content))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as failure:
            notes.append(f"passed over {path}: no results of a study ({failure})")
    return studies


def _study(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "path": str(path),
        "study": str(content["study"]),
        "scale": str(content["scale"]),
        "question": " ".join(str(content["question"]).split()),
        "expected": " ".join(str(content.get("expected", "")).split()),
        "runs": [
            {key: run[key] for key in ("run", "group", "seed", "state", "tokens", "note")}
            for run in content["runs"]
        ],
        "answers": [_answer(answer) for answer in content["answers"]],
    }


def _answer(answer: dict[str, Any]) -> dict[str, Any]:
    curves = [row for row in answer["data"] or [] if all(key in row for key in CURVE)]
    return {
        "title": str(answer["title"]),
        "columns": [str(name) for name in answer["columns"]],
        "rows": [[str(cell) for cell in row] for row in answer["rows"]],
        "notes": [str(note) for note in answer["notes"]],
        "curves": [{key: row[key] for key in CURVE} for row in curves],
    }

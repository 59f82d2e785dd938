"""Options mean one thing in all verbs, and words are read alike."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from megascale.cli import VERBS, app
from megascale.errors import ConfigError
from megascale.verbs.old_spellings import OLD, refuse_old
from tests.report.samples import write_runs
from tests.verbs.scene import call


def commands() -> dict[str, Any]:
    """Every command with options, by its words."""
    root: Any = typer.main.get_command(app)
    found: dict[str, Any] = {}
    for verb in VERBS:
        context = root.make_context("megascale", [verb], resilient_parsing=True)
        command = root.resolve_command(context, [verb])[1]
        members = getattr(command, "commands", None)
        if members:
            found |= {f"{verb} {name}": member for name, member in members.items()}
        else:
            found[verb] = command
    return found


COMMANDS = commands()


def options_of(command: Any) -> dict[str, Any]:
    return {name: one for one in command.params for name in one.opts if name.startswith("--")}


ONE_MEANING = (
    *("--loss", "--smooth", "--phase", "--workers", "--threads", "--cache", "--format", "--join"),
    *("--columns", "--loss-kind", "--confidence", "--law-file", "--active-params"),
)


@pytest.mark.parametrize("option", ONE_MEANING)
def test_an_option_has_one_help_in_all_verbs(option: str) -> None:
    helps = {
        words: options_of(command)[option].help
        for words, command in COMMANDS.items()
        if option in options_of(command)
    }
    assert helps
    # `schedule` follows one law file and `predict` asks one, others take several.
    if option == "--law-file":
        helps.pop("schedule", None)
        assert helps.pop("predict") == helps.pop("design")  # a law of whole schedules
    assert len(set(helps.values())) == 1, helps


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("--seq-length", "Tokens of a sequence"),
        ("--batch-tokens", "Global batch in tokens"),
        ("--target-loss", "nats per token"),
        ("--bootstrap", "Bootstrap replicates"),
        ("--params", "N, parameters of the model"),
        ("--tokens", "D, tokens of the run"),
    ],
)
def test_an_option_begins_alike_in_all_verbs(option: str, word: str) -> None:
    verbs = {"schedule", "sweep"} if option == "--seq-length" else {"sweep"}
    having = [c for w, c in COMMANDS.items() if option in options_of(c) and w not in verbs]
    assert len(having) > 1
    assert all(word in options_of(command)[option].help for command in having)


def test_no_verb_has_an_old_spelling_left() -> None:
    for verb, known in OLD.items():
        there = options_of(COMMANDS[verb])
        for old, renamed in known.items():
            assert renamed.new in there, (verb, renamed.new)
            assert (old in there) == (renamed.where is not None), (verb, old)


@pytest.mark.parametrize(("verb", "old"), [(v, o) for v, known in OLD.items() for o in known])
@pytest.mark.parametrize("joined", [False, True])
def test_old_spellings_answer_with_the_new(verb, old, joined, capsys) -> None:
    new = OLD[verb][old].new
    words = [f"{old}=a/law.json"] if joined else [old, "a/law.json"]
    assert call([verb, *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"megascale: {old} = a/law.json: is called {new} now: ")
    assert said.rstrip().endswith(f"Nearest legal: {new} a/law.json.")
    assert said.count("\n") == 1


def test_words_that_are_no_options_are_left_alone() -> None:
    refuse_old("fit", ["runs", "--", "--losses"])
    refuse_old("report", ["runs", "--law", "wsd"])
    refuse_old("runs", ["--losses"])
    with pytest.raises(ConfigError):
        refuse_old("report", ["runs", "--law", "mine/law.json"])


def test_the_old_meaning_of_loss_is_told(capsys) -> None:
    assert call(["fit", "points.csv", "--loss", "huber"]) == 2
    assert "--objective huber" in capsys.readouterr().err


def test_the_documents_list_every_option_and_old_spelling(repository) -> None:
    text = (repository / "docs" / "options.md").read_text(encoding="utf-8")
    for option in (*ONE_MEANING, "--target-loss", "--bootstrap", "--params", "--tokens"):
        assert f"`{option}`" in text, option
    for verb, known in OLD.items():
        for old, renamed in known.items():
            assert f"| `{verb}` | `{old}" in text
            assert f"| `{renamed.new}` |" in text


@pytest.mark.parametrize("verb", ["fit", "report"])
def test_a_bootstrap_too_small_for_best_batches_is_refused(verb, tmp_path, capsys) -> None:
    write_runs(tmp_path)
    assert call([verb, str(tmp_path / "runs.csv"), "--bootstrap", "0"]) == 2
    assert "--bootstrap = 0: " in (said_there := capsys.readouterr().err)
    assert said_there.rstrip().endswith("Nearest legal: 40.")

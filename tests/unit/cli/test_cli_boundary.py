"""The command table and the error boundary: help, suggestions, exit codes, the log of a bug."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from optimizer import __version__, cli
from optimizer.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, OptimizerError
from optimizer.listing import first_sentence

GOLDEN = Path(__file__).parents[2] / "golden" / "cli"


def golden(name: str, made: str) -> None:
    """Compare with tests/golden/cli; UPDATE_GOLDEN=1 rewrites it."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(made, encoding="utf-8")
    assert made == path.read_text(encoding="utf-8")


def test_help_is_as_agreed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.main(["--help"]) == EXIT_OK
    golden("help.txt", capsys.readouterr().out)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_table_says_what_the_docstring_says(name: str) -> None:
    module = importlib.import_module(f"optimizer.commands.{name}")
    function = getattr(module, name, None) or getattr(module, f"{name}_")
    assert cli.COMMANDS[name] == first_sentence(function.__doc__).removesuffix(".")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_a_text_for_each_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == EXIT_OK
    assert f"Usage: optc {name}" in capsys.readouterr().out
    silent = [p.name for p in parameters(cli.command(name)) if not p.help and p.name != "help"]
    assert silent == []


def parameters(command: Any) -> list[Any]:
    below = [p for inner in getattr(command, "commands", {}).values() for p in parameters(inner)]
    return [*command.params, *below]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == EXIT_OK
    assert capsys.readouterr().out == f"optc {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["biuld"], "no command 'biuld'; available: build, plan", "did you mean 'optc build'?"),
        (["qqq"], "no command 'qqq'", "optc --help says what each does"),
        (["list", "--jsn"], "optc list: no such option: --jsn", "did you mean --json?"),
        (["inspect"], "optc inspect: missing argument 'thing'", "optc inspect --help"),
        (["cache", "trim"], "optc cache trim: missing option '--max-size'", "optc cache trim --help"),
        (["cache", "lst"], "optc cache: no such command 'lst'. Did you mean 'list'?", "optc cache --help"),
        (["list", "a", "b"], "optc list: got unexpected extra argument", "optc list --help"),
        (["list", "recipe"], "unknown section 'recipe'", "did you mean 'recipes'?"),
        (["schema", "card.yaml"], "unknown document 'card.yaml'", "did you mean 'card'?"),
        (["build", "vision/digits-int8", "--task", "x"], "--task describes a model", "change the recipe"),
        (["--nope"], "optc: no such option: --nope", "optc --help"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == EXIT_USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert f"error: {message}" in said.err
    assert f"  next: {hint}" in said.err


def test_no_command_shows_the_help_and_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == EXIT_USAGE
    said = capsys.readouterr()
    assert "Commands:" in said.err
    assert said.out == ""


def replace_command(monkeypatch: pytest.MonkeyPatch, raised: BaseException) -> None:
    """Let `optc schema` raise."""
    module = importlib.import_module("optimizer.commands.schema")

    def schema() -> None:
        raise raised

    monkeypatch.setattr(module, "schema", schema)


def test_a_bug_is_logged_with_traceback_arguments_and_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPTC_STORE", str(tmp_path / "store"))
    replace_command(monkeypatch, RuntimeError("wheel came off\nsecond line"))
    assert cli.main(["-q", "schema"]) == EXIT_BUG
    said = capsys.readouterr().err
    assert "error: this is a bug in optc: RuntimeError: wheel came off" in said
    assert "Traceback" not in said
    (log,) = (tmp_path / "store" / "logs").iterdir()
    assert str(log) in said
    text = log.read_text()
    assert "arguments: ['-q', 'schema']" in text
    assert "Traceback" in text and "second line" in text
    assert "pydantic " in text and f"optc {__version__}" in text


def test_a_log_that_cannot_be_written_there_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").write_text("a file where the store should be")
    monkeypatch.setenv("OPTC_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    replace_command(monkeypatch, RuntimeError("x"))
    assert cli.main(["schema"]) == EXIT_BUG
    assert str(next(tmp_path.glob("bug-*.txt"))) in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_is_no_bug(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_command(monkeypatch, OSError(number, os.strerror(number), "/somewhere/file"))
    assert cli.main(["schema"]) == EXIT_USAGE
    assert "/somewhere/file" in capsys.readouterr().err


def test_the_user_s_mistake_shows_message_and_next_move(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_command(monkeypatch, OptimizerError("what, where", "do this"))
    assert cli.main(["schema"]) == EXIT_USAGE
    assert capsys.readouterr().err == "error: what, where\n  next: do this\n"


def test_interruption(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    replace_command(monkeypatch, KeyboardInterrupt())
    assert cli.main(["schema"]) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "error: interrupted\n"


def test_what_the_encoding_of_stdout_lacks_is_escaped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "optimizer.cli", "cache", "clear", "--store", str(tmp_path / "größe")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert done.returncode == EXIT_OK, done.stderr
    assert "gr\\xf6\\xdfe" in done.stdout


@pytest.mark.parametrize("store", ["file", "file/below"])
def test_a_store_that_cannot_be_a_folder_is_no_bug(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["cache", "list", "--store", str(tmp_path / store)]) == EXIT_USAGE
    assert f"there can be no folder {tmp_path / store}" in capsys.readouterr().err


def test_a_reader_that_went_away_ends_it_quietly() -> None:
    command = [sys.executable, "-m", "optimizer.cli", "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(60) == cli.EXIT_BROKEN_PIPE
    assert said == b""


@pytest.mark.parametrize(
    ("arguments", "level"),
    [(["schema"], 1), (["-q", "schema"], 0), (["schema", "-q"], 0), (["-v", "schema"], 2), (["schema", "-v"], 2)],
)
def test_quiet_and_verbose_work_before_and_after_the_command(
    arguments: list[str], level: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import typer

    from optimizer.commands import console

    module = importlib.import_module("optimizer.commands.schema")
    seen = []
    monkeypatch.setattr(module, "schema", lambda ctx: seen.append(console(ctx).level))
    monkeypatch.setattr(module.schema, "__annotations__", {"ctx": typer.Context}, raising=False)
    assert cli.main(arguments) == EXIT_OK
    assert seen == [level]


def test_quiet_reaches_commands_of_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", "list", "-q", "--store", str(tmp_path)]) == EXIT_OK
    assert cli.main(["-q", "cache", "list", "--store", str(tmp_path)]) == EXIT_OK


def completions(words: str) -> list[str]:
    position = str(len(words.split(" ")) - 1)
    environment = {**os.environ, "_OPTC_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": position}
    command = [sys.executable, "-c", "import sys; from optimizer.cli import main; sys.argv[0] = 'optc'; main()"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.split()


def test_shell_completion_knows_commands_and_options() -> None:
    assert completions("optc in") == ["inspect", "init"]
    assert completions("optc list --j") == ["--json"]
    assert completions("optc cache cl") == ["clear"]


def test_completion_of_names_imports_no_command() -> None:
    group = get_command(cli.app)
    before = {name for name in sys.modules if name.startswith("optimizer.commands.")}
    with group.make_context("optc", [], resilient_parsing=True) as context:
        assert [item.value for item in group.shell_complete(context, "")][: len(cli.COMMANDS)] == list(cli.COMMANDS)
    assert {name for name in sys.modules if name.startswith("optimizer.commands.")} == before

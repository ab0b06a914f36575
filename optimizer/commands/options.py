"""Reading what several commands are told in the same way: sizes, durations, inputs, outcomes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import overload

from optimizer import specs
from optimizer.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK, OptimizerError


def pairs(texts: list[str], option: str, example: str) -> dict[str, str]:
    """name=value, repeatable."""
    found = [text.partition("=") for text in texts]
    for text, (name, _, value) in zip(texts, found, strict=True):
        if not name or not value:
            raise OptimizerError(f"{option} {text}: cannot be read", f"write for example {option} '{example}'")
    return {name.strip(): value.strip() for name, _, value in found}


def dims(texts: list[str], example: str = "sequence=128") -> dict[str, int]:
    """--dim name=size, repeatable."""
    found = pairs(texts, "--dim", example)
    for name, size in found.items():
        if not size.isdigit() or int(size) < 1:
            raise OptimizerError(
                f"--dim {name}={size}: a size is a positive integer", f"write for example --dim {example}"
            )
    return {name: int(size) for name, size in found.items()}


@overload
def seconds(option: str, text: str) -> float: ...
@overload
def seconds(option: str, text: None) -> None: ...
def seconds(option: str, text: str | None) -> float | None:
    """`30s`, `2min`, `1h`, `500ms`, `30`; more than none."""
    if text is None:
        return None
    try:
        found = specs.seconds(text)
    except ValueError as error:
        raise OptimizerError(f"{option} {text}: is no duration", str(error)) from None
    if found == 0:
        raise OptimizerError(f"{option} {text}: no time", "write for example 90s, 5m or 1h")
    return found


def written_inputs(texts: list[str]) -> dict[str, str]:
    """--input name=dtype[dims], repeatable: what a model takes that does not say it."""
    return pairs(texts, "--input", "image=float32[batch,3,224,224]")


def inputs(texts: list[str]) -> tuple[Path | None, dict[str, str]]:
    """--input: a file of inputs (.npz), or name=dtype[dims] of a model that does not say what it takes."""
    files = [text for text in texts if text.endswith(".npz")]
    if len(files) > 1:
        raise OptimizerError(f"--input names two files: {', '.join(files)}", "put all arrays into one .npz")
    written = [text for text in texts if not text.endswith(".npz")]
    bad = [text for text in written if "=" not in text]
    if bad:
        raise OptimizerError(
            f"--input {bad[0]}: cannot be read", "give inputs.npz, or name=dtype[dims] for a model that does not say it"
        )
    path = Path(files[0]).expanduser() if files else None
    if path is not None and not path.is_file():
        raise OptimizerError(f"--input {path}: no such file", "save arrays with numpy.savez(path, name=array)")
    return path, written_inputs(written)


def inconclusive(text: str | None) -> str | None:
    """--inconclusive pass|fail."""
    if text not in (None, "pass", "fail"):
        raise OptimizerError(f"--inconclusive {text}: unknown", "use pass or fail")
    return text


def exit_code(outcomes: Collection[str], counted_as: str | None) -> int:
    """0 all passed, 1 something failed, 4 something cannot be decided, unless that is counted as one of the others."""
    found = {counted_as if counted_as and o == "inconclusive" else o for o in outcomes}
    if "fail" in found:
        return EXIT_GATE_FAILED
    return EXIT_INCONCLUSIVE if "inconclusive" in found else EXIT_OK

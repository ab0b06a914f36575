"""The next step in recipe syntax: a variant's steps with the advised layers left in float."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optimizer.report.pipeline import written_steps
from optimizer.values import Candidate, Run


def snippet(run: Run, candidate: Candidate, keep: Sequence[str]) -> str:
    """YAML to paste into the recipe, empty without advice; steps stay as they were written."""
    if not keep:
        return ""
    steps = [_step(step) for step in written_steps(run.recipe, candidate.variant, candidate.target)]
    if not any(name.startswith("quantize.") for name, _ in steps):
        return _yaml({"keep": list(keep)})
    return _yaml({"variants": {candidate.variant: [_kept(name, options, keep) for name, options in steps]}})


def _kept(name: str, options: dict[str, Any], keep: Sequence[str]) -> Any:
    if name.startswith("quantize."):
        before = options.get("keep")
        options = {**options, "keep": list(dict.fromkeys([*(before if isinstance(before, list) else []), *keep]))}
    return {name: options} if options else name


def _step(step: Any) -> tuple[str, dict[str, Any]]:
    """A step of a recipe in any of its spellings: `name`, `{name: options}`, `{name: ..., options: ...}`."""
    if isinstance(step, str):
        return step, {}
    if not isinstance(step, dict) or not step:
        return "", {}
    name, options = (step["name"], step.get("options")) if "name" in step else next(iter(step.items()))
    return str(name), options if isinstance(options, dict) else {}


def _yaml(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100).strip()

"""Layers left in float as selectors, and the step of a recipe that leaves them so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import yaml

from optimizer.explain.variants import Layer, types

STEP = "quantize.static"
IN_PYTORCH = "quantize.inc"  # which selects modules
WIDE = 10_000  # no folding of lines


def selector(name: str) -> str:
    """A node's name as a selector that matches it alone."""
    escaped = "".join(f"[{c}]" if c in "*?[" else c for c in name)
    # Between slashes it would be a regular expression.
    return f"[/]{escaped[1:]}" if name.startswith("/") and name.endswith("/") else escaped


def selectors(kept: Set[str], layers: Sequence[Layer]) -> tuple[str, ...]:
    """The shortest selectors for these layers: `op:Type` where all layers of a type are kept, else names."""
    found: dict[str, None] = {}
    whole = {name: op for op, names in types(layers).items() if len(names) > 1 and set(names) <= kept for name in names}
    for layer in layers:
        if layer.name in kept:
            found[f"op:{whole[layer.name]}" if layer.name in whole else selector(layer.name)] = None
    return tuple(found)


def step(steps: Sequence[Mapping[str, Any]], keep: Sequence[str]) -> str:
    """The quantize.static step of a variant with these selectors added to its `keep`, as a recipe writes it.

    For quantize.inc, whose selectors are of modules, a sentence with the layers to look for.
    """
    if any(IN_PYTORCH in s for s in steps):
        return f"name the modules behind {', '.join(keep)} in the keep of {IN_PYTORCH}"
    options: dict[str, Any] = next((dict(s[STEP]) for s in steps if STEP in s), {})
    options["keep"] = list(dict.fromkeys([*options.get("keep", []), *keep]))
    return "- " + yaml.safe_dump({STEP: options}, default_flow_style=True, sort_keys=False, width=WIDE).strip()

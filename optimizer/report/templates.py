"""The two Jinja environments: HTML escaped by default, Markdown escaped by default."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from optimizer import content
from optimizer.report import numerals
from optimizer.report.text import clean, flat
from optimizer.values import Measurement

UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")


def html() -> Environment:
    """Renders HTML; every value is escaped, `typeset` gives numbers a real minus and multiplication sign."""
    found = _environment(autoescape=True, finalize=_cleaned)
    found.filters |= {"typeset": numerals.typeset, "quantity": _quantity, "interval": _interval}
    return found


def _quantity(m: Measurement | None) -> str:
    return numerals.quantity(m) if m else ""


def _interval(m: Measurement | None) -> str:
    return numerals.interval(m) if m else ""


def _cleaned(value: Any) -> Any:
    return clean(value) if type(value) is str else value  # Markup is our own


def markdown() -> Environment:
    """Renders GitHub's Markdown; every value is escaped so that it stays in its table cell and is no markup."""
    return _environment(autoescape=False, finalize=escape_markdown)


def escape_markdown(value: Any) -> Any:
    """A value as plain Markdown text on one line. `Markup` is taken as it is."""
    if isinstance(value, Markup):
        return value
    text = flat(str(value))
    for sign in ("\\", "`", "*", "|", "~"):
        text = text.replace(sign, "\\" + sign)
    text = UNDERSCORE.sub(r"\\_", text.replace("](", "]\\("))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("://", ":\u200b//")


def _environment(**options: Any) -> Environment:
    return Environment(  # noqa: S701  # each caller says how values are escaped
        loader=FileSystemLoader(content.root("reports") / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )

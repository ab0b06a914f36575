"""Text from outside, made fit for a document, a terminal or a table cell."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 (section 2.2) has no place for or discourages, and what would steer a terminal."""


def clean(text: str) -> str:
    """The text with a replacement character for each control character."""
    return CONTROL.sub("\ufffd", text)


def flat(text: str) -> str:
    """The text on one line, runs of white space as one space."""
    return re.sub(r"\s+", " ", clean(text))

"""What a search has found, one line of JSON per change, so that a search that was killed goes on where it stood.

A line is appended and flushed before anything else is done. A last line that was torn by a kill is ignored with a
warning; so is every other line that cannot be read. The latest line of a key counts. Keys hold everything that a
trial's numbers depend on, the machine too, so that a journal never answers for other circumstances.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimizer import schema
from optimizer.disk import disk_errors
from optimizer.values import Trial

LAYOUT = 2


class Journal:
    """The journal in one file; created with its folder when the first line is written."""

    def __init__(self, path: Path, scope: str, warn: Callable[[str], None] = lambda text: None) -> None:
        """`scope`: digest of what all trials of this search have in common; lines of other scopes are passed over."""
        self.path, self._scope = path, scope
        self._known: dict[str, Trial] = {}
        self._notes: dict[str, Any] = {}
        self.spent = 0.0  # seconds that the search had taken before
        self._read(warn)

    def known(self, key: str) -> Trial | None:
        """What was last written about a trial."""
        return self._known.get(key)

    def __len__(self) -> int:
        return len(self._known)

    def write(self, key: str, trial: Trial, spent: float) -> None:
        """Append a trial's state; `spent`: seconds of the search so far, all its sittings together."""
        self._append({"key": key, "spent": round(spent, 3), "trial": trial})
        self._known[key] = trial
        self.spent = max(self.spent, spent)

    def note(self, key: str, value: Any, spent: float) -> None:
        """Append something else that took time to find out: any JSON value."""
        self._append({"key": key, "spent": round(spent, 3), "note": value})
        self._notes[key] = value
        self.spent = max(self.spent, spent)

    def noted(self, key: str) -> Any:
        """What was last noted under a key, or None."""
        return self._notes.get(key)

    def _append(self, found: dict[str, Any]) -> None:
        line = {"layout": LAYOUT, "scope": self._scope, **found}
        with disk_errors(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as stream:
                if stream.tell():  # a last line that was torn must not swallow this one
                    stream.seek(-1, os.SEEK_END)
                    stream.write(b"" if stream.read(1) == b"\n" else b"\n")
                stream.write(schema.dump(line) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())

    def _read(self, warn: Callable[[str], None]) -> None:
        if not self.path.is_file():
            return
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                where = (
                    "its last line was torn by an interruption" if number == len(lines) else f"line {number} is damaged"
                )
                warn(f"{self.path}: {where} and is ignored; that trial is made again")

    def _take(self, found: dict[str, Any]) -> None:
        if found["layout"] == LAYOUT and found["scope"] == self._scope:
            if "note" in found:
                self._notes[str(found["key"])] = found["note"]
            else:
                self._known[str(found["key"])] = schema.decode(Trial, found["trial"])
            self.spent = max(self.spent, float(found["spent"]))

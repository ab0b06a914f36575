"""Variants that a target opens from files: each is written and compiled anew, and the last one stays open."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

from optimizer.protocols import Session, Target
from optimizer.values import Artifact


class Opened:
    """Sessions of variants; `written` puts the variant that keeps some layers in float into a folder."""

    def __init__(self, target: Target, options: Any, written: Callable[[Set[str], Path], Artifact]) -> None:
        self._target, self._options, self._written = target, options, written
        self._last: tuple[object, contextlib.ExitStack, Session] | None = None

    def session(self, key: object, kept: Set[str]) -> Session:
        """The session of a variant, which is open until one with another key is asked for."""
        if self._last is None or self._last[0] != key:
            if self._last:
                self._last[1].close()
            stack = contextlib.ExitStack()
            self._last = key, stack, stack.enter_context(self.real(kept))
        return self._last[2]

    @contextlib.contextmanager
    def real(self, kept: Set[str]) -> Iterator[Session]:
        """A session of its own."""
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="optc-")))
            yield stack.enter_context(self._target.open(self._written(kept, folder), self._options))

"""Loads and calls functions that a recipe names in user code, and says where such code failed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from optimizer import fingerprint, schema
from optimizer.errors import OptimizerError, suggestion

T = TypeVar("T")


def load(entry: str) -> Callable[..., Any]:
    """The callable behind `file.py:name` or `pkg.module:name`; it runs with its own folder importable.

    Raises OptimizerError when the module cannot be imported or has no such callable, and later, when the
    returned function is called, for whatever the user's code raises: with the file and line.
    """
    point = schema.parse_entry(entry, Path.cwd())
    module = run(entry, lambda: _import(point))
    found = getattr(module, point.name, None)
    if not callable(found):
        names = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        meant = suggestion(point.name, names)
        raise OptimizerError(
            f"{entry}: no callable '{point.name}' there; available: {', '.join(names) or 'none'}",
            f"did you mean '{meant}'?" if meant else "name a function or class of that file",
        )
    return lambda *args, **kwargs: run(entry, lambda: found(*args, **kwargs))


def run(entry: str, call: Callable[[], T]) -> T:
    """What `call` returns; it runs code that belongs to `entry`, whose folder is importable meanwhile.

    Raises OptimizerError with file and line for whatever that code raises.
    """
    point = schema.parse_entry(entry, Path.cwd())
    try:
        with _importable(point.path.parent if point.path else None):
            return call()
    except OptimizerError:
        raise
    except Exception as error:  # user code raises what it likes; it is the user's to mend, so exit 2
        raise OptimizerError(f"{entry} raised {type(error).__name__}: {error}", f"see {place(error)}") from error


def attempt(what: str, call: Callable[[], T]) -> T:
    """What `call` returns, where one thing of several may fail without the others; OptimizerError for all it raises.

    Plugins and the libraries behind them raise what they like. Not for what a user asked for by name: there, such an
    error is a bug and has to be seen as one.
    """
    try:
        return call()
    except OptimizerError:
        raise
    except Exception as error:  # as above
        told = " ".join(str(error).split())[:300]
        raise OptimizerError(f"{what}: {type(error).__name__}: {told}", f"see {place(error)}") from error


def _import(point: schema.EntryPoint) -> ModuleType:
    if point.path is None:
        return importlib.import_module(str(point.module))
    # The name carries the content, so that an edited file is not mistaken for the one loaded before.
    name = (
        f"optc_user_{point.path.stem}_{fingerprint.of_value([str(point.path), fingerprint.of_file(point.path)])[:12]}"
    )
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, point.path)
    if spec is None or spec.loader is None:
        raise AssertionError(f"BUG: no import spec for {point.path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def place(error: BaseException) -> str:
    """File, line and text of the innermost frame of the user's own code, or of any code where there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not _foreign(f.filename)]
    installed = [f for f in frames if "/torch/" not in f.filename and not _foreign(f.filename, installed=True)]
    found = (own or installed)[-1:]
    return f"{found[0].filename}, line {found[0].lineno}: {found[0].line}" if found else "its definition"


def _foreign(filename: str, installed: bool = False) -> bool:
    """Whether a file belongs to Python, to this package, or (unless `installed`) to an installed one."""
    path = Path(filename)
    if filename.startswith("<") or path.is_relative_to(Path(__file__).parent):
        return True
    if {"site-packages", "dist-packages"} & set(path.parts):
        return not installed
    return path.is_relative_to(sysconfig.get_path("stdlib"))


@contextmanager
def _importable(folder: Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))

"""Where a human or another machine holds the pen: strict parsing with errors that name the place.

`File` and `Entry` are field types for options. Both are resolved against the folder of the document
they stand in, and `ingredients` replaces them by the digest of what they point to, so that a key
depends on content and never on where a checkout lies.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError, ValidationInfo

from optimizer import __version__, fingerprint
from optimizer.errors import OptimizerError, suggestion
from optimizer.values import RUN_SCHEMA, Run

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Strict(BaseModel):
    """Base of every document model: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), arbitrary_types_allowed=True)


def _base(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("base") or Path.cwd())


def resolve(text: str, base: Path) -> Path:
    """An absolute path from `relative/path`, `~/path`, `${VAR}/path` or `python:package/path`.

    Existence is not decided here. Raises OptimizerError for an unset variable or an absent package.
    """
    for name in re.findall(r"\$\{(\w+)\}", text):
        if name not in os.environ:
            raise OptimizerError(
                f"the path '{text}' needs the environment variable {name}, which is not set",
                f"set it: export {name}=/path/to/it",
            )
    text = re.sub(r"\$\{(\w+)\}", lambda m: os.environ[m[1]], text)
    if text.startswith("python:"):
        package, _, rest = text.removeprefix("python:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise OptimizerError(
                f"the path '{text}' needs the Python package '{package}', which is not installed",
                f"pip install {package.replace('_', '-')}",
            )
        return Path(next(iter(spec.submodule_search_locations))) / rest
    return (base / Path(text).expanduser()).resolve()


def _file(path: Path, info: ValidationInfo) -> Path:
    found = resolve(str(path), _base(info))
    if not found.exists():
        raise OptimizerError(f"no such file or directory: {found}", _nearby(found))
    return found


def _nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    names = [p.name for p in path.parent.iterdir()]
    meant = suggestion(path.name, names)
    return f"did you mean {path.parent / meant}?" if meant else "check the path; relative paths start at the document"


File = Annotated[Path, AfterValidator(_file)]
"""A path to an existing file or directory; absolute once parsed."""


@dataclass(frozen=True)
class EntryPoint:
    """A callable in user code: `file.py:name` or `pkg.module:name`."""

    name: str
    path: Path | None = None
    module: str | None = None

    def __str__(self) -> str:
        return f"{self.path or self.module}:{self.name}"

    def digest(self) -> str:
        """Digest of the code behind it: the file and its local imports, or the module's file."""
        if self.path is not None:
            return fingerprint.of_value([self.name, fingerprint.of_code(self.path)])
        found = _module_file(str(self.module))
        return fingerprint.of_value([self.name, self.module, fingerprint.of_code(found)])


def _module_file(module: str) -> Path:
    # Looks the module up without importing its parents, which may pull in torch.
    finder = importlib.util.find_spec(module.partition(".")[0])
    if finder is None:
        raise OptimizerError(f"no Python module '{module}' can be found", "install its package, or give file.py:name")
    folders = list(finder.submodule_search_locations or [])
    rest = module.split(".")[1:]
    stems = [Path(f, *rest) for f in folders] if rest else [Path(f) for f in folders]
    choices = [p for s in stems for p in (s.with_suffix(".py"), s / "__init__.py")]
    if finder.origin and not rest:
        choices.append(Path(finder.origin))
    for choice in choices:
        if choice.is_file():
            return choice
    raise OptimizerError(
        f"no Python module '{module}' can be found", f"package '{module.partition('.')[0]}' has no such part"
    )


def parse_entry(text: str, base: Path) -> EntryPoint:
    """Read `file.py:name` or `pkg.module:name`; decided by spelling, never by existence."""
    place, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier() or not place:
        raise OptimizerError(f"'{text}' names no callable", "write file.py:callable or package.module:callable")
    if place.endswith(".py"):
        path = resolve(place, base)
        if not path.is_file():
            raise OptimizerError(f"no such file: {path}", _nearby(path))
        return EntryPoint(name=name, path=path)
    if not all(part.isidentifier() for part in place.split(".")):
        raise OptimizerError(f"'{text}' names no callable", "write file.py:callable or package.module:callable")
    return EntryPoint(name=name, module=place)


def _entry(text: str, info: ValidationInfo) -> str:
    found = parse_entry(text, _base(info))
    return str(found)


Entry = Annotated[str, AfterValidator(_entry)]
"""`file.py:callable` (absolute once parsed) or `pkg.module:callable`; `parse_entry` takes it apart."""


def parse(model: type[M], value: Any, where: str, base: Path | None = None) -> M:
    """Validate `value` as `model`; `where` names the document and place for the error.

    Raises OptimizerError listing every fault: where it is, what was found, what was expected, and for an
    unknown key the nearest known one.
    """
    try:
        return model.model_validate(value, context={"base": base} if base else None)
    except ValidationError as error:
        raise OptimizerError(*_explain(error, model, where)) from None


# pydantic puts the chosen member of a tagged union into the place of a fault; the model behind each tag.
UNION_TAGS = {"spec": "DataSpec", "ref": "DataRef", "everywhere": "Use", "each": "Own"}


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> tuple[str, str]:
    lines = []
    for fault in error.errors(include_url=False):
        place = ".".join(str(p) for p in fault["loc"] if p not in UNION_TAGS)
        if fault["type"] == "extra_forbidden":
            known = _fields_at(model, fault["loc"][:-1])
            key = str(fault["loc"][-1])
            meant = suggestion(key, known)
            nearest = f"; did you mean '{meant}'?" if meant else ";"
            lines.append(f"{where}: unknown key '{place}'{nearest} available: {', '.join(known) or 'none'}")
        elif fault["type"] == "missing":
            lines.append(f"{where}: '{place}' is missing")
        else:
            shown = repr(fault["input"])
            shown = shown if len(shown) < 80 else shown[:77] + "..."
            message = fault["msg"].removeprefix("Value error, ") + _meant(fault)
            lines.append(f"{where}: '{place}' = {shown}: {message}" if place else f"{where}: {message}")
    return "\n".join(lines), "optc schema prints every key, docs/recipe.md explains them"


def _meant(fault: Any) -> str:
    """For a word that is none of a choice: the nearest one of it."""
    if fault["type"] != "literal_error" or not isinstance(fault["input"], str):
        return ""
    meant = suggestion(fault["input"], re.findall(r"'([^']*)'", fault["ctx"]["expected"]))
    return f"; did you mean '{meant}'?" if meant else ""


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that were allowed at a place of a document."""
    reached: list[type[BaseModel]] = [model]
    for part in loc:
        if part in UNION_TAGS and len(reached) > 1:
            reached = [model for model in reached if model.__name__ == UNION_TAGS[str(part)]] or reached
        elif isinstance(part, str) and part in reached[0].model_fields:
            reached = _inner_models(reached[0].model_fields[part].annotation) or reached
    return sorted(info.alias or name for name, info in reached[0].model_fields.items())


def _inner_models(annotation: Any) -> list[type[BaseModel]]:
    """The document models inside a type such as dict[str, list[A | B]], in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _inner_models(inner)]


def ingredients(options: BaseModel) -> dict[str, Any]:
    """The options as JSON for a key: every field, with files and code replaced by their digests."""
    return {
        name: _ingredient(getattr(options, name), _is_entry(info)) for name, info in type(options).model_fields.items()
    }


def _is_entry(info: Any) -> bool:
    return any(getattr(m, "func", None) is _entry for m in info.metadata) or "_entry" in repr(info.annotation)


def _ingredient(value: Any, is_entry: bool = False) -> Any:
    if isinstance(value, Path):
        return "sha256:" + fingerprint.of_input(value)
    if is_entry and isinstance(value, str):
        return "code:" + parse_entry(value, Path.cwd()).digest()
    if isinstance(value, BaseModel):
        return ingredients(value)
    if isinstance(value, Mapping):
        return {str(k): _ingredient(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_ingredient(v) for v in value]
    return value


def decode(kind: type[T], value: Any) -> T:
    """A value of `kind` (a frozen dataclass of values.py) from its JSON form. Raises ValueError when it is none."""
    return TypeAdapter(kind).validate_python(value)


def dump(value: Any) -> bytes:
    """A value with dataclasses of values.py in it as JSON on one line, UTF-8."""
    return TypeAdapter(Any).dump_json(value)


_RUN = TypeAdapter(Run)


def dump_run(run: Run) -> bytes:
    """run.json: the Run as indented JSON, UTF-8."""
    return _RUN.dump_json(run, indent=1) + b"\n"


def load_run(data: bytes, where: str) -> Run:
    """Read run.json; raises OptimizerError when it is not a Run of this schema, naming who wrote a newer one."""
    try:
        found = _RUN.validate_json(data)
        _refuse_newer(vars(found), where)
        return found
    except ValidationError as error:
        with contextlib.suppress(ValueError):
            _refuse_newer(json.loads(data), where)
        first = error.errors(include_url=False)[0]
        place = ".".join(str(p) for p in first["loc"])
        raise OptimizerError(
            f"{where} is not a run record that this version reads: {place}: {first['msg']}",
            "make it again with optc build, or use the version of optc that wrote it",
        ) from None


def _refuse_newer(document: Any, where: str) -> None:
    """Raise OptimizerError for a run record of a schema that this version does not know."""
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, int) and schema > RUN_SCHEMA:
        writer = str(document.get("version") or "of a version that it does not state")
        raise OptimizerError(
            f"{where} has schema {schema}, written by optc {writer}; this optc {__version__} reads schema {RUN_SCHEMA}",
            f"update optc to {writer} or later, or make the record again with this one",
        )

"""References to data sets: cards with splits, bare files and folders, told apart by spelling alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimizer import content, fingerprint, machine, recipe, registry, schema, transforms
from optimizer.errors import OptimizerError, unknown
from optimizer.recipe import DataRef, DataSpec, Use
from optimizer.schema import Strict

DATA_VERSION = 1  # raise it when the same specification would give other numbers
CARD_SUFFIXES = (".yaml", ".yml")
FILE_SOURCES = {".npz": "npz", ".parquet": "parquet", ".csv": "text", ".tsv": "text"}
PATH_STARTS = ("./", "../", "/", "~", "$", "python:")
LABEL_COLUMNS = ("label", "labels", "target", "y")


def resolve(ref: DataSpec | DataRef, base: Path) -> DataSpec:
    """The specification behind a reference, options validated, paths absolute.

    `digits/test` is the split `test` of the shipped card `digits`; `mine.yaml#test` a split of your own card;
    a name that ends in .npz, .parquet, .csv or .tsv is a data file; a path that starts with ./, ../, /, ~, $
    or ends with / is a folder of pictures. Raises OptimizerError for an unknown card, split or option.
    """
    if isinstance(ref, DataSpec):
        return _settled(ref, "data", base)
    found = _referenced(ref.ref, base)
    slices = [*found.slices, *(name for name in ref.slices if name not in found.slices)]
    return found.model_copy(update={"label": ref.label or found.label, "slices": slices})


def _referenced(reference: str, base: Path) -> DataSpec:
    text, _, split = reference.partition("#")
    if text.endswith(CARD_SUFFIXES):
        return _from_card(schema.resolve(text, base), split, reference)
    if split:
        raise OptimizerError(f"data '{reference}': only a card (.yaml) has splits", "write card.yaml#split")
    if Path(text).suffix in FILE_SOURCES or text.startswith(PATH_STARTS) or text.endswith("/"):
        return _ad_hoc(text, base)
    card, _, split = text.rpartition("/")
    return _from_card(_shipped(card or text, text, base), split if card else "", text)


def digest(spec: DataSpec) -> str:
    """sha256 (hex) of all that decides a resolved data set's numbers: content of files and code, options, tools.

    Raises OptimizerError when the source's file does not have the sha256 that the specification states.
    """
    source = schema.ingredients(source_options(spec))
    _authentic(spec, source)
    steps = transforms.parse(spec.transforms, "data")
    return fingerprint.of_value(
        {
            "version": DATA_VERSION,
            "source": [spec.source.name, source],
            "transforms": [[t.name, schema.ingredients(t.options)] for t in steps],
            "tools": {tool: machine.version_of(tool) for tool in transforms.tools(steps)},
            **spec.model_dump(
                mode="json", include={"inputs", "label", "labels", "views", "pad", "skip", "take", "shuffle"}
            ),
            **({"label_as": spec.label_as} if spec.label_as != "number" else {}),
        }
    )


def count(spec: DataSpec) -> int | None:
    """How many examples a resolved specification has; None where only user code knows."""
    if spec.source.name not in registry.BUILT_IN["sources"] or spec.source.name == "python":
        return None
    total = len(registry.load("sources", spec.source.name).open(source_options(spec)))
    left = max(total - spec.skip, 0)
    return left if spec.take is None else min(left, spec.take)


def columns(spec: DataSpec) -> list[str] | None:
    """The columns of a resolved specification's source; None where only an example tells."""
    plugin = registry.load("sources", spec.source.name)
    found: list[str] | None = plugin.columns(source_options(spec)) if hasattr(plugin, "columns") else None
    return found


def source_options(spec: DataSpec) -> Any:
    """The validated options of a resolved specification's source."""
    return _options(spec.source, "data", None)


def shipped() -> list[str]:
    """The names of all shipped cards."""
    root = content.root("calibration")
    found = (p for suffix in CARD_SUFFIXES for p in root.rglob(f"*{suffix}"))
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in found)


def splits(card: Path) -> list[str]:
    """The names of a card's splits; empty for a card that is one data set."""
    return list(_splits(recipe.read_yaml(card), card))


def _shipped(card: str, reference: str, base: Path) -> Path:
    if card not in shipped():
        fault = unknown("card", card, shipped(), where="the shipped cards").message
        here = (base / reference).is_dir()
        spellings = (
            "card/split is shipped, mine.yaml#split your own card, data.npz a file, ./folder/ a folder of pictures"
        )
        raise OptimizerError(
            f"data '{reference}': {fault}", f"a folder is written ./{reference}/" if here else spellings
        )
    return content.root("calibration") / f"{card}.yaml"


def _splits(document: Mapping[str, Any], card: Path) -> Mapping[str, Any]:
    found = document.get("splits") or {}
    if not isinstance(found, Mapping) or not all(isinstance(v, Mapping | None) for v in found.values()):
        raise OptimizerError(
            f"{card}: 'splits' maps names to what differs from the rest of the card", "see calibration/"
        )
    return found


def _from_card(card: Path, split: str, reference: str) -> DataSpec:
    if not card.is_file():
        raise OptimizerError(
            f"data '{reference}': no such card: {card}", "check the path; shipped: " + ", ".join(shipped())
        )
    document = recipe.read_yaml(card)
    known = _splits(document, card)
    shared = {k: v for k, v in document.items() if k != "splits"}
    if known and not split:
        mark = "#" if reference.endswith(CARD_SUFFIXES) else "/"
        raise OptimizerError(
            f"data '{reference}': say which split of {card.name}; available: {', '.join(known)}",
            f"for example {reference}{mark}{next(iter(known))}",
        )
    if split and split not in known:
        raise unknown("split", split, known, where=str(card))
    where = f"{card}, split {split}" if split else str(card)
    return _settled(schema.parse(DataSpec, _merged(shared, known.get(split) or {}, split), where), where, card.parent)


def _merged(shared: dict[str, Any], split: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A card's shared keys with a split's laid over them: options of the same source merge, `sha256` may map splits."""
    merged = {**shared, **split}
    if isinstance(merged.get("sha256"), Mapping):
        merged["sha256"] = merged["sha256"].get(name)
    if isinstance(shared.get("source"), Mapping | str) and isinstance(split.get("source"), Mapping):
        above, below = split["source"], shared["source"]
        below = {below: {}} if isinstance(below, str) else below
        same = above.keys() == below.keys()
        if same and all(isinstance(v, Mapping | None) for v in (*above.values(), *below.values())):
            merged["source"] = {k: {**(below[k] or {}), **(above[k] or {})} for k in above}
    return merged


def _ad_hoc(text: str, base: Path) -> DataSpec:
    """A data file or folder of pictures without a card: columns by name, the label where one is so named."""
    suffix = Path(text).suffix
    use = Use(name=FILE_SOURCES.get(suffix, "images"), options={"path": text})
    if use.name == "text":
        use = Use(name="text", options={**use.options, "numeric": "auto"})
    options = _options(use, f"data '{text}'", base)
    columns = registry.load("sources", use.name).columns(options)
    if use.name == "images":
        steps, names = [Use(name="image.decode")], registry.load("sources", "images").class_names(options)
    else:
        steps, names = [], []
    label = next((name for name in LABEL_COLUMNS if name in columns), None)
    return _settled(DataSpec(source=use, transforms=steps, label=label, labels=names), f"data '{text}'", base)


def _settled(spec: DataSpec, where: str, base: Path) -> DataSpec:
    """The same specification with every option validated and every path absolute."""
    source = _json(_options(spec.source, where, base))
    steps = transforms.parse(spec.transforms, where, base)
    return spec.model_copy(
        update={
            "source": Use(name=spec.source.name, options=source),
            "transforms": [Use(name=t.name, options=_json(t.options)) for t in steps],
        }
    )


def _options(use: Use, where: str, base: Path | None) -> Any:
    plugin = registry.load("sources", use.name)
    return schema.parse(plugin.Options, use.options, f"{where}: source {use.name}", base)


def _json(options: Strict) -> dict[str, Any]:
    return options.model_dump(mode="json", exclude_unset=True)


def _authentic(spec: DataSpec, source: Mapping[str, Any]) -> None:
    found = str(source.get("path", "")).removeprefix("sha256:")
    if spec.sha256 is not None and spec.sha256.lower() != found:
        raise OptimizerError(
            f"the data {spec.source.options.get('path', spec.source.name)} is not what its card describes: "
            f"sha256 {found or 'unknown, the source names no file'}, the card states {spec.sha256}",
            "get the file that the card names, or correct sha256 in the card if this file is the right one",
        )

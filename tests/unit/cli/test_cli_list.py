"""optc list and optc schema: everything that a recipe can name, with the options that it takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from optimizer import documents, listing, recipe, registry, transforms
from optimizer.cli import main
from optimizer.errors import EXIT_OK
from optimizer.schema import File, Strict


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[dict[str, Any]]]:
    assert main(["list", "--json", *arguments]) == EXIT_OK
    found: dict[str, list[dict[str, Any]]] = json.loads(capsys.readouterr().out)
    return found


def test_everything_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys)
    assert list(found) == list(listing.SECTIONS)
    for kind in registry.KINDS:
        assert {item["name"] for item in found[kind]} >= set(registry.BUILT_IN[kind])
    assert {item["name"] for item in found["recipes"]} == set(recipe.shipped())
    assert {item["name"] for item in found["transforms"]} == set(transforms.TABLE)
    assert "digits/test" in {item["name"] for item in found["cards"]}
    assert all(item["summary"] for group in found.values() for item in group)


def test_one_section_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(listed(capsys, "metrics")) == ["metrics"]


def test_what_needs_data_that_is_not_here_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPTC_DATA", raising=False)
    found = {item["name"]: item["trouble"] for item in listed(capsys, "cards")["cards"]}
    assert found["digits/test"] is None
    assert "OPTC_DATA, which is not set" in found["cifar10/test"]


def test_text_shows_options_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "passes"]) == EXIT_OK
    short = capsys.readouterr().out
    assert main(["list", "passes", "--options"]) == EXIT_OK
    long = capsys.readouterr().out
    assert "quantize.static" in short and "percentile" not in short
    assert "percentile" in long and "minmax | moving-average | percentile" in long


class Sample(Strict):
    size: int | list[int] = Field(3, description="one, or one per side")
    path: File = Field(description="a file")
    mode: Literal["a", "b"] = "a"
    scale: float | None = Field(None, gt=0, le=2)
    names: dict[str, tuple[int, int]] = {}
    on: bool = True


def test_options_are_put_into_words() -> None:
    found = {option.name: option for option in listing.options(Sample)}
    assert (found["size"].type, found["size"].default) == ("int | list of int", "3")
    assert (found["path"].type, found["path"].default) == ("path", None)
    assert (found["mode"].type, found["mode"].default) == ("a | b", "a")
    assert (found["scale"].type, found["scale"].default) == ("float > 0 <= 2 | null", "null")
    assert (found["names"].type, found["names"].default) == ("mapping of name to [int, int]", "{}")
    assert (found["on"].type, found["on"].default) == ("bool", "true")


def test_defaults_are_spelled_as_yaml() -> None:
    import yaml

    for value in (None, True, 3, 2.5, "word", ["a", 1], {"a": [1, None]}, ""):
        assert yaml.safe_load(listing.spelled(value)) == value


def conforms(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Enough of JSON Schema to check what our schemas use."""
    if "$ref" in schema:
        return conforms(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    for key in ("anyOf", "oneOf"):
        if key in schema and not any(conforms(value, part, root) for part in schema[key]):
            return False
    if value != schema.get("const", value) or value not in schema.get("enum", [value]):
        return False
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    kind = schema.get("type", [])
    wanted = [kind] if isinstance(kind, str) else kind
    if wanted and not any(value is None if k == "null" else isinstance(value, kinds[k]) for k in wanted):
        return False
    if isinstance(value, dict):
        if not set(schema.get("required", ())) <= set(value):
            return False
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        for key, inner in value.items():
            if key in known:
                if not conforms(inner, known[key], root):
                    return False
            elif rest is False or (isinstance(rest, dict) and not conforms(inner, rest, root)):
                return False
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        return False
    if isinstance(value, list) and "items" in schema:
        return all(conforms(inner, schema["items"], root) for inner in value)
    return True


@pytest.mark.parametrize("name", recipe.shipped())
def test_shipped_recipes_conform_to_the_recipe_schema(name: str) -> None:
    schema = documents.json_schema("recipe")
    assert conforms(recipe.read_yaml(recipe.locate(name)), schema, schema)


def test_shipped_cards_conform_to_the_card_schema() -> None:
    from optimizer import content

    schema = documents.json_schema("card")
    for path in content.root("calibration").glob("*.yaml"):
        assert conforms(recipe.read_yaml(path), schema, schema), path


BASE: dict[str, Any] = {"model": {"file": "x.onnx"}}


@pytest.mark.parametrize(
    ("document", "good"),
    [
        (BASE, True),
        ({"extends": "vision/digits-int8", "seed": 3}, True),
        ({"seed": 3}, False),
        ({**BASE, "sed": 3}, False),
        ({**BASE, "variants": {"a": ["quantize.static", {"half": {"dtype": "bf16"}}]}}, True),
        ({**BASE, "variants": {"a": ["quantise.static"]}}, False),
        ({**BASE, "variants": {"a": [{"half": {"dtyp": "bf16"}}]}}, False),
        ({**BASE, "variants": {"a": [{"name": "half", "options": {}}]}}, False),
        ({**BASE, "variants": {"a": ["auto"]}}, True),
        ({**BASE, "variants": {"a": [{"auto": {"objective": "size", "at": {"batch": 1}}}]}}, True),
        ({**BASE, "variants": {"a": [{"auto": {"objective": "speed"}}]}}, False),
        ({**BASE, "variants": {"a": {"openvino": ["half"], "onnxruntime": {"steps": ["half"], "options": {}}}}}, True),
        ({**BASE, "variants": {"a": {"openvino": ["halve"]}}}, False),
        ({**BASE, "variants": {"a": {"openvino": {"step": ["half"]}}}}, False),
        ({**BASE, "measure": {"latency": False, "metrics": ["top1", "mine.py:score"]}}, True),
        ({**BASE, "measure": {"metrics": ["top2"]}}, False),
        ({**BASE, "data": {"evaluate": "digits/test"}}, True),
        ({**BASE, "data": {"evaluate": {"ref": "x.npz", "label": "y"}}}, True),
        ({**BASE, "data": {"evaluate": {"source": {"npz": {"path": "x.npz"}}, "transforms": ["cast"]}}}, True),
        ({**BASE, "data": {"evaluate": {"source": "npy"}}}, False),
    ],
)
def test_the_recipe_schema_checks_what_is_written(document: dict[str, Any], good: bool) -> None:
    schema = documents.json_schema("recipe")
    assert conforms(document, schema, schema) is good


def test_schemas_have_no_dangling_reference(capsys: pytest.CaptureFixture[str]) -> None:
    for name in documents.DOCUMENTS:
        assert main(["schema", name]) == EXIT_OK
        found = json.loads(capsys.readouterr().out)
        for text in references(found):
            assert text.removeprefix("#/$defs/") in found["$defs"]


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [text for inner in value.values() for text in references(inner)]
    return [text for inner in value for text in references(inner)] if isinstance(value, list) else []


def test_generated_documents_are_fresh_or_say_so(tmp_path: Path) -> None:
    """README blocks: written anew from published figures, refused when they cannot be made."""
    import importlib.util

    place = Path(__file__).resolve().parents[3] / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate_docs", place)
    assert spec and spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.readme("no block", tmp_path) == "no block"
    page = "a\n<!-- generated:headline -->\nold\n<!-- /generated -->\nb"
    with pytest.raises(ValueError, match="which does not exist"):
        generate.readme(page, tmp_path)
    figure = {"name": "cli.help.seconds", "value": 0.0712, "low": 0.07, "high": 0.08, "n": 20, "unit": "s"}
    (tmp_path / "headline.json").write_text(json.dumps([{**figure, "machine": "m", "command": "make bench-help"}]))
    made = generate.readme(page, tmp_path)
    assert "| `cli.help.seconds` | 0.0712 s [0.07, 0.08] | 20 | m | `make bench-help` |" in made
    assert made.startswith("a\n<!-- generated:headline -->\n") and made.endswith("<!-- /generated -->\nb")
    assert generate.readme(made, tmp_path) == made
    with pytest.raises(ValueError, match="no block is named 'nope'"):
        generate.readme("<!-- generated:nope -->\n<!-- /generated -->", tmp_path)
    with pytest.raises(ValueError, match="there is none"):
        generate.readme("<!-- generated:results:x -->\n<!-- /generated -->", tmp_path)

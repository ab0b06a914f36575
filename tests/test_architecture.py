"""The house stands: imports point down, plugins never import each other, nothing heavy is loaded early, style holds."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "optimizer"

# From the ground up; a module imports only from rows before its own (DESIGN.md, Floors).
FLOORS: list[tuple[str, str]] = [
    ("0a", "__init__ errors fingerprint console content rows cuda"),
    ("0b", "values scheme disk interrupts"),
    ("0c", "machine"),
    ("1a", "schema disk"),
    ("1b", "specs relocation"),
    ("2a", "protocols recipe registry store selectors scores usercode transforms"),
    ("2b", "formats"),
    ("2c", "training"),
    ("3", "passes targets sources metrics layouts shorthand steps"),
    ("4", "equivalence gates samples dataset chain measure runtimes"),
    ("5a", "attempts plan ranks worker report bundle listing anatomy sketch testing"),
    ("5b", "choice resolution produce doctor documents inspection starter"),
    ("5c", "assess scenarios comparison subjects explain"),
    ("5d", "trial"),
    ("5e", "search"),
    ("6", "execute"),
    ("7", "commands"),
    ("8", "cli"),
]
HEIGHT = {name: height for height, (_, names) in enumerate(FLOORS) for name in names.split()}
LABEL = {name: label for label, names in FLOORS for name in names.split()}
PLUGINS = ("passes", "targets", "sources", "metrics", "layouts")

HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "transformers", "tokenizers", "pyarrow", "PIL", "pydantic",
         "yaml", "numpy", "jinja2", "psutil")  # fmt: skip
HEAVY_INSIDE = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "transformers", "tokenizers", "pyarrow", "PIL",
                "onnxslim", "onnxscript", "onnxconverter_common", "safetensors", "pycocotools", "jiwer",
                "torch_pruning", "neural_compressor", "torchao", "tensorrt", "tensorrt_rtx", "cuda")  # fmt: skip
# Broad handlers: the error boundary, the plugin loader, and the two calls into user code, which may raise anything.
BROAD = {"cli.py", "registry.py", "usercode.py", "formats/torch.py"}
MAX_FILE, MAX_FUNCTION = 350, 60


@functools.cache
def sources() -> dict[str, ast.Module]:
    """Module name below the package ("formats.onnx") -> its syntax tree."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "_content":
            name = ".".join(parts).removesuffix(".__init__") if len(parts) > 1 else parts[0]
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def own_imports(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """The modules of this package that a tree imports anywhere, function bodies and type checking included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module else []
        else:
            continue
        for name in names:
            inner = name.removeprefix("optimizer.")
            if inner == name:
                continue
            # `from optimizer.values import Run`: the longest prefix that is a module.
            while inner and inner not in known:
                inner = inner.rpartition(".")[0]
            yield inner or "__init__"


@functools.cache
def graph() -> dict[str, set[str]]:
    """Module -> the modules of this package that it imports."""
    trees = sources()
    return {name: set(own_imports(tree, set(trees))) - {name} for name, tree in trees.items()}


def unit(module: str) -> str:
    return module.partition(".")[0]


def upward(imports: dict[str, set[str]]) -> list[str]:
    """Sentences about imports that do not point to a strictly lower floor."""
    faults = []
    for module, targets in imports.items():
        for target in targets:
            here, there = unit(module), unit(target)
            if here != there and HEIGHT[there] >= HEIGHT[here]:
                faults.append(f"{module} (floor {LABEL[here]}) imports {target} (floor {LABEL[there]})")
    return sorted(faults)


def siblings(imports: dict[str, set[str]]) -> list[str]:
    """Sentences about plugins that import each other; `export_x` would be a part of `export`, not a plugin."""
    faults = []
    for module, targets in imports.items():
        folder, name, *_ = *module.split("."), ""
        for target in targets:
            other, part, *_ = *target.split("."), ""
            own = part in ("", name) or part.startswith(f"{name}_")
            if folder in PLUGINS and other == folder and not own:
                faults.append(f"{module} imports {target}")
    return sorted(faults)


def cycle(imports: dict[str, set[str]]) -> list[str]:
    """The first circle of imports, or nothing."""
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for target in sorted(imports[module]):
            found = walk(target, [*trail, module])
            if found:
                return found
        done.add(module)
        return []

    return next((found for module in sorted(imports) if (found := walk(module, []))), [])


def test_every_module_has_a_floor() -> None:
    homeless = {unit(name) for name in sources()} - set(HEIGHT)
    assert not homeless, f"give these a floor in FLOORS and in DESIGN.md: {sorted(homeless)}"


def test_imports_point_to_lower_floors() -> None:
    assert upward(graph()) == []


def test_plugins_do_not_import_each_other() -> None:
    assert siblings(graph()) == []


def test_there_is_no_circle_of_imports() -> None:
    assert cycle(graph()) == []


def test_the_tests_above_can_fail() -> None:
    known = {"values", "plan", "errors", "passes.export", "passes.half", "passes.export_faults"}
    tree = ast.parse("def f():\n    from optimizer.plan import plan\n    import optimizer.values\n")
    assert set(own_imports(tree, known)) == {"plan", "values"}
    assert upward({"values": {"plan"}}) == ["values (floor 0b) imports plan (floor 5a)"]
    assert upward({"errors": {"fingerprint"}}), "one floor, too, is not lower"
    assert siblings({"passes.half": {"passes.export"}, "passes.export": {"passes.export_faults"}}) == [
        "passes.half imports passes.export"
    ]
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


def loaded_by(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.splitlines()[-1].split())


def test_the_command_line_loads_nothing_heavy() -> None:
    help_text = "from optimizer.cli import main\nmain(['--help'])"
    assert not loaded_by(help_text) & set(HEAVY)


LIGHT = ["list", "doctor", "cache", "inspect", "init", "schema", "plan", "verify", "report", "bench", "eval", "compare"]
LIGHT += ["explain"]


@pytest.mark.parametrize("name", LIGHT)
def test_commands_import_without_the_libraries_of_the_extras(name: str) -> None:
    assert not loaded_by(f"import optimizer.commands.{name}") & set(HEAVY_INSIDE)


def test_heavy_libraries_are_imported_inside_functions() -> None:
    faults = []
    for module, tree in sources().items():
        for node in top_level(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            faults += [f"{module}, line {node.lineno}: {n}" for n in names if n.partition(".")[0] in HEAVY_INSIDE]
    assert faults == []


def top_level(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when the module is imported."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.Try | ast.With) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test)
        ):
            yield from (n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom))


def test_files_and_functions_fit_in_a_head() -> None:
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(PACKAGE).as_posix()
        if text.count("\n") > MAX_FILE:
            faults.append(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                faults += [f"{name}: {node.name} has {lines} lines"] if lines > MAX_FUNCTION else []
    assert faults == []


def test_broad_handlers_stand_where_the_house_allows_them() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler) and _swallows(node):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found <= BROAD


def _swallows(handler: ast.ExceptHandler) -> bool:
    """Whether it catches everything and does not simply clean up and raise again."""
    named = isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException")
    broad = handler.type is None or named
    last = handler.body[-1]
    return broad and not (isinstance(last, ast.Raise) and last.exc is None)


def test_only_the_console_prints() -> None:
    faults = [
        f"{module}, line {node.lineno}"
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert faults == []


def test_every_module_opens_with_a_promise() -> None:
    silent = [name for name, tree in sources().items() if tree.body and not ast.get_docstring(tree)]
    assert silent == []

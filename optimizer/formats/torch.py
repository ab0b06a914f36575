"""The format `torch`: `module.json`, which says how to rebuild a PyTorch module from the user's own files.

Nothing is pickled and none of the user's weights is copied: the record refers to code and weights by absolute path and
digest, and a file that has changed since is refused. A module is rebuilt in this order: the user's code, the user's
weights, the edits of pruning steps (`edits`), and last the weights that training left beside the record (`state`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer import disk, fingerprint, schema, usercode
from optimizer.errors import OptimizerError
from optimizer.formats.outputs import flatten
from optimizer.formats.record import Built, Record
from optimizer.protocols import Feeds
from optimizer.values import Signature, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "Built", "Record", "TorchModel", "as_array", "as_tensor", "digests", "files", "flat_outputs", "load_record",
    "moved", "open_model", "read", "referred", "repoint", "size", "write", "write_trained",
]  # fmt: skip
FILE = "module.json"
TRAINED = "trained.safetensors"


class TorchModel:
    """A PyTorch module with named, flat inputs and outputs."""

    def __init__(self, built: Built, record: Record, device: str = "cpu") -> None:
        self.built, self.record, self.device = built, record, device
        self.signature = record.signature
        self.module = built.module

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Run once in inference mode: input name -> array, output name -> array.

        Raises OptimizerError when an input does not fit the signature, and for whatever forward raises.
        """
        import torch

        tensors = {spec.name: as_tensor(spec, feeds).to(self.device) for spec in self.signature.inputs}
        with torch.inference_mode():
            outputs = self.run(tensors)
        names = [spec.name for spec in self.signature.outputs]
        if len(outputs) != len(names):
            raise OptimizerError(
                f"{self.record.origin}: forward returned {len(outputs)} tensors, before it returned {len(names)}",
                "the number of outputs must not depend on the input",
            )
        return {name: as_array(tensor) for name, (_, tensor) in zip(names, outputs, strict=True)}

    def run(self, tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
        """The flat outputs with the names that their structure gives them."""
        try:
            return flat_outputs(self.built, tensors)
        except OptimizerError:
            raise
        except Exception as error:  # forward is user code and raises what it likes; it is the user's to mend
            shapes = ", ".join(f"{n} {list(t.shape)}" for n, t in tensors.items())
            raise OptimizerError(
                f"{self.record.origin}: forward raised {type(error).__name__} on {shapes}: {error}",
                _next(error, self.module),
            ) from error

    def on(self, device: str) -> TorchModel:
        """The same module, moved to another device."""
        return TorchModel(replace(self.built, module=self.module.to(device)), self.record, device)

    def compiled(self, mode: str) -> TorchModel:
        """The same module behind `torch.compile`, which compiles at the first call, and again for sizes that vary."""
        import torch

        return TorchModel(replace(self.built, module=torch.compile(self.module, mode=mode)), self.record, self.device)

    def exportable(self) -> nn.Module:
        """The module with flat tensor inputs and outputs, in the order of the signature, for an exporter."""
        if self.record.scripted:
            return self.module  # compiled: it cannot be called from within another trace
        return _flat_module(self.built, [spec.name for spec in self.signature.inputs])


def _next(error: Exception, module: nn.Module) -> str:
    """What to do about an error of forward: an input that it lacks or has of the wrong kind is named."""
    own = re.escape(type(module).__name__)
    missing = re.search(rf"^{own}\.forward\(\) missing \d+ required positional arguments?: '(\w+)'", str(error))
    if missing:
        return f"name it among the inputs: --input '{missing[1]}=dtype[dims]', or model.inputs in a recipe"
    if "'indices'" in str(error) and "Long" in str(error):  # of an embedding, as torch words it
        return f"indices are integers: give that input as int64[...]; see {usercode.place(error)}"
    return f"see {usercode.place(error)}"


def write(record: Record, out: Path) -> None:
    """Write `module.json` into the directory `out`."""
    (out / FILE).write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")


def write_trained(record: Record, module: nn.Module, out: Path) -> Record:
    """Write the module's weights and a record that rebuilds it into the directory `out`; returns that record.

    `record` is that of the artifact that the module was opened from, or one with the edits that were made since.
    Raises OptimizerError for weights that are NaN or infinite.
    """
    from optimizer.formats import weights

    state = module.state_dict()
    weights.write(state, out / TRAINED, record.origin)
    trained = replace(
        record,
        state=TRAINED,
        digests={**record.digests, "state": fingerprint.of_path(out / TRAINED)},
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in state.values()),
    )
    write(trained, out)
    return trained


def load_record(path: Path) -> Record:
    """The record in the directory `path`; raises OptimizerError when there is none that this version reads."""
    try:
        return schema.decode(Record, json.loads((path / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise OptimizerError(f"{path} is no torch artifact: {reason}", "build it again") from None


def read(path: Path) -> Signature:
    """The signature of the module, once its files are seen to be there."""
    record = load_record(path)
    for file in (*referred(record).values(), *_own(record, path)):
        if not file.exists():
            raise _moved(record, file, "is gone")
    return record.signature


def files(path: Path) -> list[Path]:
    """The files that the module is rebuilt from: the artifact's own first, then the user's."""
    record = load_record(path)
    return [path / FILE, *_own(record, path), *referred(record).values()]


def _own(record: Record, path: Path) -> list[Path]:
    """Files beside the record in its directory."""
    return [path / record.state] if record.state else []


def moved(path: Path) -> bool:
    """Whether a file that the module in the directory `path` is rebuilt from is gone, or is another one by now."""
    try:
        read(path)
        record = load_record(path)
        now = digests(record)
    except OptimizerError:
        return True
    return any(now[name] != digest for name, digest in record.digests.items() if name in now)


def repoint(path: Path, source: Path, out: Path) -> bool:
    """Write the module in `path` into `out` with the user's files where the artifact in `source` has them.

    False, and nothing is written, where `source` was made of other files.
    """
    record, found = load_record(path), load_record(source)
    if any(record.digests.get(name) != digest for name, digest in found.digests.items() if name in referred(found)):
        return False
    write(replace(record, entry=found.entry, weights=found.weights, file=found.file, hf=found.hf), out)
    for file in _own(record, path):
        disk.link_or_copy(file, out / file.name)
    return True


def size(path: Path) -> int:
    """Bytes of parameters and buffers, whatever the file that they come in."""
    return load_record(path).bytes


def referred(record: Record) -> dict[str, Path]:
    """The user's files by what they are; an entry in an installed module is none of them."""
    entry = schema.parse_entry(record.entry, Path.cwd()).path if record.entry else None
    found = {"entry": entry, "weights": record.weights, "file": record.file, "hf": record.hf}
    return {name: Path(file) for name, file in found.items() if file}


def digests(record: Record) -> dict[str, str]:
    """The digests that the user's files and code have now."""
    found = {name: fingerprint.of_path(file) for name, file in referred(record).items() if name != "entry"}
    if record.entry:
        found["entry"] = schema.parse_entry(record.entry, Path.cwd()).digest()
    return found


def open_model(path: Path) -> TorchModel:
    """The module of the artifact in the directory `path`, in eval mode on the CPU.

    Raises OptimizerError when a file is gone or has changed since the artifact was made.
    """
    from optimizer.formats import modules, sparsity, weights

    read(path)
    record = load_record(path)
    now, places = digests(record), referred(record)
    if record.state:
        places["state"] = path / record.state
        now["state"] = fingerprint.of_path(places["state"])
    for name, digest in record.digests.items():
        if now.get(name) != digest:
            raise _moved(record, places.get(name, Path(record.origin)), "has changed since it was loaded")
    built = modules.build(record)
    if record.state:
        weights.load_into(built.module, path / record.state)
    sparsity.hold(built.module, record.masked)
    return TorchModel(built, record)


def _moved(record: Record, file: Path, what: str) -> OptimizerError:
    return OptimizerError(f"{record.origin}: {file} {what}", "run the build again: it loads the model anew")


def flat_outputs(built: Built, tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    """One forward of the module on named inputs."""
    import torch

    found = built.module(**tensors) if built.keywords else built.module(*tensors.values())
    if built.select:
        found = built.select(found, tensors)
    return flatten(found, lambda value: isinstance(value, torch.Tensor))


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's values; bfloat16, which numpy lacks, as float32."""
    import torch

    tensor = tensor.detach().cpu()
    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return np.asarray(wide.resolve_conj().numpy())


def as_tensor(spec: TensorSpec, feeds: Feeds) -> torch.Tensor:
    """The array of an input as a tensor; raises OptimizerError when it is missing or does not fit the input."""
    import torch

    array = feeds.get(spec.name)
    if array is None:
        raise OptimizerError(
            f"the model's input '{spec.name}' was not given; given: {', '.join(feeds) or 'none'}",
            "name the data's column as the input, or map it: data.inputs",
        )
    wanted = "float32" if spec.dtype == "bfloat16" else spec.dtype
    fits = len(array.shape) == len(spec.shape) and all(
        isinstance(dim, str) or dim == size for dim, size in zip(spec.shape, array.shape, strict=True)
    )
    if array.dtype.name != wanted or not fits:
        raise OptimizerError(
            f"the input '{spec.name}' is {array.dtype.name}{list(array.shape)}, the model takes {spec}",
            "change the data's transforms, or the model's inputs in the recipe",
        )
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.to(torch.bfloat16) if spec.dtype == "bfloat16" else tensor


def _flat_module(built: Built, names: list[str]) -> nn.Module:
    """A module around `built` whose forward takes and returns plain tensors.

    It shares the inner module's tables of parameters, buffers and children instead of holding it as a child,
    so that every weight keeps its name in the exported graph.
    """
    from torch import nn

    class Flat(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            named = dict(zip(names, tensors, strict=True))
            return tuple(tensor for _, tensor in flat_outputs(built, named))

    flat = Flat()
    for table in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        flat.__dict__[table] = built.module.__dict__[table]
    flat.training = False  # not eval(): the modules of exported programs refuse it
    return flat

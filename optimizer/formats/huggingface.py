"""Hugging Face model directories: the right model class per task, its inputs, and the outputs that count."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.errors import OptimizerError, missing_extra, unknown
from optimizer.formats.quiet import quiet
from optimizer.formats.record import Built

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Task:
    """The transformers class of a task, the outputs that count, and how architectures of its kind are named."""

    auto: str
    outputs: tuple[str, ...]
    suffix: str = ""


TASKS = {
    "feature-extraction": Task("AutoModel", ("last_hidden_state",), "Model"),
    "sentence-similarity": Task("AutoModel", ("embedding",)),
    "image-feature-extraction": Task("AutoModel", ("last_hidden_state",)),
    "text-classification": Task("AutoModelForSequenceClassification", ("logits",), "ForSequenceClassification"),
    "token-classification": Task("AutoModelForTokenClassification", ("logits",), "ForTokenClassification"),
    "question-answering": Task("AutoModelForQuestionAnswering", ("start_logits", "end_logits"), "ForQuestionAnswering"),
    "fill-mask": Task("AutoModelForMaskedLM", ("logits",), "ForMaskedLM"),
    "image-classification": Task("AutoModelForImageClassification", ("logits",), "ForImageClassification"),
    "image-segmentation": Task("AutoModelForSemanticSegmentation", ("logits",), "ForSemanticSegmentation"),
    "object-detection": Task("AutoModelForObjectDetection", ("logits", "pred_boxes"), "ForObjectDetection"),
    "depth-estimation": Task("AutoModelForDepthEstimation", ("predicted_depth",), "ForDepthEstimation"),
}
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def build(folder: Path, task: str | None) -> Built:
    """The model of a directory for a task, in eval mode; only local files are read, no remote code runs."""
    task = task or _task_of(folder)
    if task not in TASKS:
        raise unknown("task", task, TASKS, f"the model directory {folder}")
    return Built(_pretrained(folder, task), keywords=True, select=_selection(folder, task))


def _pretrained(folder: Path, task: str) -> nn.Module:
    try:
        import transformers
        from safetensors import SafetensorError
    except ImportError:
        raise missing_extra("transformers", "hf", "a Hugging Face model directory") from None
    lacking: list[str] = []
    for kind in _classes(folder, task, transformers):
        try:
            with quiet():
                model, loaded = kind.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
                )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise OptimizerError(
                f"{folder}: transformers cannot load it for {task}: {reason}",
                "the directory needs config.json and weights (model.safetensors) of a model that fits the task",
            ) from None
        # A pooler that the chosen outputs do not use may be absent.
        missing = sorted(k for k in loaded["missing_keys"] if "pooler" not in k or TASKS[task].auto != "AutoModel")
        if not missing and not loaded["mismatched_keys"]:
            return model.eval()
        lacking = lacking or [*missing, *map(str, loaded["mismatched_keys"])]
        del model
    raise OptimizerError(
        f"{folder} holds no weights for {', '.join(lacking[:8])}: it was not made for {task}",
        "choose the task that the model was trained for",
    )


def _classes(folder: Path, task: str, transformers: Any) -> Iterator[Any]:
    """The task's own class; then those of its kind that config.json names: a model may be a part of its family's."""
    yield getattr(transformers, TASKS[task].auto)
    suffix = TASKS[task].suffix or TASKS["feature-extraction"].suffix
    for name in _architectures(folder):
        with quiet():  # they are imported when asked for
            found = getattr(transformers, name, None) if name.endswith(suffix) else None
            known = inspect.isclass(found) and issubclass(found, transformers.PreTrainedModel)
        if known:
            yield found


def _architectures(folder: Path) -> list[str]:
    return [str(name) for name in _json(folder / "config.json").get("architectures") or []]


def _task_of(folder: Path) -> str:
    """The task that the directory's architecture is named for."""
    names = _architectures(folder)
    if (folder / "modules.json").is_file():
        return "sentence-similarity"
    for name, task in TASKS.items():
        if task.suffix and any(n.endswith(task.suffix) for n in names):
            return name
    raise OptimizerError(
        f"{folder}: no task is known for the architecture {', '.join(names) or '(config.json names none)'}",
        f"give model.task; available: {', '.join(sorted(TASKS))}",
    )


def _selection(folder: Path, task: str) -> Callable[[Any, Mapping[str, torch.Tensor]], Any]:
    if task == "sentence-similarity":
        pool = _pooling(folder)
        return lambda found, inputs: {"embedding": pool(found["last_hidden_state"], inputs)}
    wanted = TASKS[task].outputs
    return lambda found, inputs: {name: found[name] for name in wanted}


def _pooling(folder: Path) -> Callable[[torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor]:
    """Token vectors (n, length, d) -> unit sentence vectors (n, d), as the directory's pooling layer says."""
    config = _json(folder / "1_Pooling" / "config.json")
    modes = [k.removeprefix("pooling_mode_") for k, v in config.items() if k.startswith("pooling_mode_") and v is True]
    if modes not in ([], ["mean_tokens"], ["cls_token"]):
        raise OptimizerError(f"{folder}: pooling by {', '.join(modes)} is not supported", "available: mean, cls")

    def pool(tokens: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        import torch

        if modes == ["cls_token"]:
            return torch.nn.functional.normalize(tokens[:, 0], dim=1)
        mask = inputs["attention_mask"].unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=1)

    return pool


def inputs(folder: Path, model: nn.Module) -> tuple[dict[str, str], dict[str, tuple[int, int]]]:
    """The inputs of a text or image model as the recipe would write them, and the sizes that it supports."""
    accepted = inspect.signature(model.forward).parameters
    config: Any = model.config
    if "pixel_values" in accepted:
        return {"pixel_values": f"float32[batch,{_image_shape(folder, config)}]"}, {}
    if "input_ids" not in accepted:
        raise OptimizerError(
            f"{folder}: the inputs of {type(model).__name__} cannot be derived from its config",
            "write them in the recipe: model.inputs",
        )
    names = _json(folder / "tokenizer_config.json").get("model_input_names")
    if not names:
        typed = getattr(config, "type_vocab_size", 0) > 1
        names = [n for n in TEXT_INPUTS if n in accepted and (n != "token_type_ids" or typed)]
    length = _longest(model)
    return dict.fromkeys(names, "int64[batch,sequence]"), {"sequence": (1, length)} if length else {}


def _longest(model: nn.Module) -> int | None:
    """The longest sequence that the table of absolute positions holds, when there is one."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and hasattr(module, "num_embeddings"):
            offset = 0 if module.padding_idx is None else int(module.padding_idx) + 1
            return int(module.num_embeddings) - offset
    return None


def _image_shape(folder: Path, config: Any) -> str:
    size: Any = getattr(config, "image_size", None) or _json(folder / "preprocessor_config.json").get("size")
    if isinstance(size, Mapping):
        size = [size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge"))]
    height, width = (size, size) if isinstance(size, int) else size or (None, None)
    if not height or not width:
        raise OptimizerError(f"{folder}: neither config names an image size", "write model.inputs in the recipe")
    return f"{getattr(config, 'num_channels', 3)},{height},{width}"


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise OptimizerError(f"{path} is not JSON: {error}", "restore the file") from None
    return found if isinstance(found, dict) else {}

"""Train the decoder on text that ships with Python, and write what the recipe text/gpt2-small-int4 needs.

    python examples/decoder/train.py build/decoder
    export OPTC_DECODER=$PWD/build/decoder

Needs torch, transformers and safetensors; no network. The text is the reference behind `help()` and the docstrings of
the standard library, so it differs between versions of Python. On one machine the result is the same at every run.
"""

from __future__ import annotations

import ast
import pydoc_data.topics
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch
from model import BYTES, LENGTH, Decoder, decoder
from safetensors.torch import save_file
from torch import nn

HELD_OUT = 10  # every tenth document is for evaluation alone
CALIBRATION = 256  # windows of the training text
STEPS, BATCH, PEAK_RATE, SEED = 500, 8, 2e-3, 0


def main() -> None:
    """Write weights.safetensors, calibrate.npz and evaluate.npz into the folder that is named."""
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/decoder/train.py FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # sums in the same order at every run
    torch.use_deterministic_algorithms(True)
    texts = documents()
    train = windows([text for i, text in enumerate(texts) if i % HELD_OUT])
    held_out = windows(texts[::HELD_OUT])
    order = np.random.default_rng(SEED).permutation(len(train))
    np.savez(folder / "calibrate.npz", input_ids=train[order[:CALIBRATION]])
    np.savez(folder / "evaluate.npz", input_ids=held_out)
    started = time.monotonic()
    net = fit(torch.from_numpy(train))
    save_file(net.state_dict(), folder / "weights.safetensors")
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters, trained in {time.monotonic() - started:.0f} s")
    print(f"held out: {len(held_out)} windows of {LENGTH} bytes, perplexity {perplexity(net, held_out):.3f} per byte")
    print(f"next: export OPTC_DECODER={folder.resolve()}")


def documents() -> list[str]:
    """The topics of `help()`, then the docstrings of each top-level module of the standard library, in name order."""
    found = [text for _, text in sorted(pydoc_data.topics.topics.items())]
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        strings = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
        text = "\n\n".join(string for string in strings if string)
        if text:
            found.append(text)
    return list(dict.fromkeys(found))  # topics share texts, which must not stand on both sides


def windows(texts: list[str]) -> np.ndarray:
    """The bytes of the texts, one after the other, as int64 (n, LENGTH); what is left at the end is dropped."""
    stream = np.frombuffer("\n\n".join(texts).encode("utf-8"), np.uint8)
    count = len(stream) // LENGTH
    return stream[: count * LENGTH].reshape(count, LENGTH).astype(np.int64)


def fit(rows: torch.Tensor) -> Decoder:
    """Train with AdamW and one cycle on windows at random places of the text."""
    stream = rows.reshape(-1)
    net = decoder().train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=0.1, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=STEPS, pct_start=0.1)
    for step in range(STEPS):
        starts = torch.randint(len(stream) - LENGTH, (BATCH,)).tolist()
        batch = torch.stack([stream[start : start + LENGTH] for start in starts])
        loss = loss_of(net, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1} of {STEPS}: {loss.item():.3f} nats per byte", flush=True)
    return net.eval()


def loss_of(net: Decoder, batch: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood, in nats, of every byte but the first."""
    logits = net(batch)[:, :-1]
    return nn.functional.cross_entropy(logits.reshape(-1, BYTES), batch[:, 1:].reshape(-1))


@torch.inference_mode()
def perplexity(net: Decoder, rows: np.ndarray) -> float:
    """e to the mean loss."""
    parts = torch.from_numpy(rows).split(64)
    return float(np.exp(sum(loss_of(net, part).item() * len(part) for part in parts) / len(rows)))


if __name__ == "__main__":
    main()

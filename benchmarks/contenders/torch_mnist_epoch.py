"""An epoch of MNIST as a plain PyTorch script that does the same as ``npadv train NETWORK --epochs 1``.

    python -m benchmarks.contenders.torch_mnist_epoch maxout_mlp FOLDER_WITH_MNIST OUT THREADS

The script reads the files, trains for one epoch by the network's recipe, evaluates the test set (and the validation set, if
the recipe has one), and writes the weights and the results.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import problems
from benchmarks.contenders.torch_tasks import build, start

BATCH = 100


def read(folder: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one of MNIST's two splits: images (N, 1, 28, 28) in [0, 1] and classes (N,)."""
    pixels, labels = (
        np.frombuffer(gzip.decompress((folder / f"{name}-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for kind, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    images = torch.from_numpy(pixels.reshape(-1, 1, 28, 28).astype(np.float32)) / 255
    return images, torch.from_numpy(labels.astype(np.int64))


@torch.no_grad()
def score(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return the mean loss and the error rate, computed in batches of 500."""
    model.eval()
    logits = torch.cat([model(chunk) for chunk in images.split(500)])
    wrong = (logits.argmax(dim=1) != labels).float().mean()
    return {"loss": F.cross_entropy(logits, labels).item(), "error": wrong.item()}


def main(network: str, folder: str, out: str, threads: str) -> None:
    """Train, evaluate and save."""
    start(threads=int(threads))
    torch.manual_seed(0)
    images, labels = read(Path(folder), "train")
    if network == "maxout_mlp":
        images, held_out = images.flatten(1).split([50_000, 10_000])
        labels, held_out_labels = labels.split([50_000, 10_000])
        model = build("maxout")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1 / 1.000004)
        constrained = [p.detach() for p in model.parameters() if p.ndim == 2]
    else:
        model = build("syn_convnet")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, dampening=0.9, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1 / (1 + 5e-6 * update))
        constrained = []
    model.train()
    total = torch.zeros(())
    for rows in torch.randperm(len(images)).split(BATCH):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        schedule.step()
        for weight in constrained:
            weight.renorm_(p=2, dim=0, maxnorm=problems.MAX_NORM)
        total += loss.detach() * len(rows)
    result = {"train_loss": (total / len(images)).item()}
    if network == "maxout_mlp":
        result["validation"] = score(model, held_out, held_out_labels)
    test, test_labels = read(Path(folder), "t10k")
    result["test"] = score(model, test.flatten(1) if network == "maxout_mlp" else test, test_labels)
    Path(out).mkdir()
    torch.save(model.state_dict(), Path(out, "weights.pt"))
    Path(out, "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])

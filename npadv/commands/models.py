"""Networks and data sets as the commands open them, checked before anything is computed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npadv.autodiff import no_record, value_of
from npadv.backend import Array, like
from npadv.data import DATASETS, Dataset, load
from npadv.functional import softmax
from npadv.nn import Sequential, load_network
from npadv.train import predict


@dataclass(frozen=True)
class Classifier:
    """A network on its device, with images and results on the host; calling it gives logits.

    Attributes
    ----------
    network : Sequential
        On the device.
    """

    network: Sequential

    def __call__(self, x: Any) -> Any:
        """Return the logits of a batch."""
        return self.network(x)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits of images on the host, (N, K), on the host."""
        return predict(self, self.on_device(images))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the class probabilities of images on the host, (N, K), on the host."""
        return np.asarray(softmax(self.logits(images).astype(np.float64)))

    def on_device(self, x: np.ndarray) -> Array:
        """Return an array on the device of the weights."""
        return like(x, self.network.parameters()[0].data)


@dataclass(frozen=True)
class Model(Classifier):
    """A classifier from a file of weights.

    Attributes
    ----------
    path : Path
        The file, as the user named it.
    digest : str
        SHA-256 of the file.
    """

    path: Path
    digest: str

    @property
    def name(self) -> str:
        """The network's name, a key of ``nn.NETWORKS``."""
        return str(self.network.about["network"])

    @property
    def data(self) -> str | None:
        """The data set that the network was trained on, if the file names it."""
        return self.network.about.get("data")

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that identify this model, wherever its file lies."""
        return {"network": self.name, "options": self.network.about["options"], "weights_sha256": self.digest}


def open_model(path: Path, *, network: str | None, device: str) -> Model:
    """Read a network from its file, or raise an error that says in one line what is wrong with the file."""
    if path.is_dir():
        inside = path / "weights.npz"
        hint = f"; did you mean {inside}?" if inside.exists() else ""
        raise IsADirectoryError(f"--model: expected a file of weights, got the folder {path}{hint}")
    if not path.exists():
        raise FileNotFoundError(f"--model: {path}: no such file")
    try:
        model = load_network(path, network)
    except ValueError as error:
        raise ValueError(f"--model: {error}") from error
    if not isinstance(data := model.about.get("data"), str | None):
        raise ValueError(f"--model: {path}: about: expected the name of a data set, got {data!r:.40}")
    return Model(model.to(device), path, hashlib.sha256(path.read_bytes()).hexdigest())


def open_data(name: str | None, *models: Model) -> Dataset:
    """Load a data set, by default the models' own, and check that its images and classes fit each model."""
    if name is None:
        trained = {model.data for model in models}
        if len(trained) != 1 or None in trained:
            named = ", ".join(sorted(map(str, trained - {None}))) or "none"
            raise ValueError(f"--data: expected a data set, since the weights do not agree on one; they name {named}")
        name = str(trained.pop())
        if name not in DATASETS:
            raise ValueError(f"--data: expected one of {', '.join(DATASETS)}; the weights name {name!r:.40}")
    dataset = load(str(name))
    for model in models:
        _check_fit(model, dataset)
    return dataset


def _check_fit(model: Model, dataset: Dataset) -> None:
    image, classes = dataset.test.images[:1], len(dataset.classes)
    where = f"--data: {dataset.name} does not fit {model.name} of {model.path}"
    try:
        with no_record():
            logits = value_of(model(model.on_device(image)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: images {image.shape[1:]}: {error}") from error
    if logits.shape != (1, classes):
        raise ValueError(f"{where}: expected {classes} classes, got outputs {logits.shape[1:]}")

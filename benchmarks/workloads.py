"""The table of all comparisons: each workload's contenders, and the bar and the aim of its ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.process import Worker

# Both thresholds exceed the largest activation, so glibc keeps freed memory and the next step finds its pages mapped.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}


@dataclass(frozen=True)
class Contender:
    """A library with its settings: the module of its tasks, and the options and environment of its worker."""

    name: str
    module: str
    options: Mapping[str, Any]
    environment: Mapping[str, str]

    def start(self, threads: int, *, keep_tuning: bool = False) -> Worker:
        """Return a new worker."""
        return Worker.of(
            self.name,
            self.module,
            threads=threads,
            options=self.options,
            environment=self.environment,
            keep_tuning=keep_tuning,
        )


def _contender(
    name: str, module: str, options: Mapping[str, Any] = {}, environment: Mapping[str, str] = {}
) -> dict[str, Contender]:
    return {name: Contender(name, f"benchmarks.contenders.{module}", options, environment)}


CONTENDERS: dict[str, Contender] = {
    **_contender("npadv", "npadv_tasks"),
    **_contender("torch", "torch_tasks"),
    **_contender("torch tuned", "torch_tasks", {"channels_last": True}, KEEP_MEMORY),
    **_contender("jax", "jax_tasks", environment={"JAX_PLATFORMS": "cpu"}),
    **_contender("autograd", "autograd_tasks"),
    **_contender("textbook", "textbook_tasks"),
}


@dataclass(frozen=True)
class Bar:
    """The ratio that no change may exceed, and the ratio that npadv aims at."""

    at_most: float
    aim: float


@dataclass(frozen=True)
class Entry:
    """A contender and the task that it runs."""

    contender: str
    task: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Workload:
    """One row of the comparison.

    Attributes
    ----------
    key : str
        Its name on the command line. The first letter is its group, which shares workers. Group p compares further libraries.
    title : str
        A description for tables and pictures.
    entries : mapping of str to Entry
        The entries to compare; ``ours`` is compared with each of the others.
    bars : mapping of str to Bar
        Bars of the ratios, by the name of the other entry.
    ours : str
        The entry whose time is divided by the others'.
    """

    key: str
    title: str
    entries: Mapping[str, Entry]
    bars: Mapping[str, Bar]
    ours: str = "npadv"

    @property
    def group(self) -> str:
        """The first letter of the key.

        >>> Workload("c2", "", {}, {}).group
        'c'
        """
        return self.key[0]


def _same(
    key: str, title: str, bars: Mapping[str, Bar], task: str, also: tuple[str, ...] = (), **settings: Any
) -> Workload:
    """Return a workload in which npadv and the other contenders run the same task."""
    contenders = dict.fromkeys(("npadv", *bars, *also))
    return Workload(key, title, {name: Entry(name, task, settings) for name in contenders}, bars)


def _torch(at_most: float, aim: float) -> dict[str, Bar]:
    return {"torch": Bar(at_most, aim)}


MLP = "784-1200-1200-10"
PEERS = ("torch", "jax", "autograd", "textbook")
CONVNET_BARS = {"torch": Bar(0.75, 0.55), "torch tuned": Bar(1.2, 0.9)}


def _training() -> list[Workload]:
    return [
        _same(
            "a",
            "train maxout MLP with dropout, batch 100",
            _torch(0.8, 0.6),
            "train_step",
            network="maxout",
            batch=100,
        ),
        _same(
            "b",
            "train ReLU MLP 784-1200-1200-10, batch 128",
            _torch(1.0, 0.85),
            "train_step",
            network=MLP,
            batch=128,
        ),
        _same("c1", "train convnet, same padding, batch 128", CONVNET_BARS, "train_step", network="convnet", batch=128),
        _same("c2", "train [SYN]'s convnet, batch 128", CONVNET_BARS, "train_step", network="syn_convnet", batch=128),
    ]


def _attacks() -> list[Workload]:
    return [
        _same("d1", "FGSM, ReLU MLP, batch 256", _torch(1.05, 0.9), "fgsm", network=MLP, batch=256),
        _same("d2", "FGSM, convnet, batch 256", _torch(0.65, 0.45), "fgsm", network="convnet", batch=256),
        _same(
            "e",
            "100 PGD steps, ReLU MLP, batch 256",
            _torch(1.0, 0.85),
            "pgd",
            network=MLP,
            batch=256,
            steps=100,
        ),
    ]


def _single_inputs() -> list[Workload]:
    """Return the gradients of a single input: from a replayed tape, and from a tape recorded anew, as PyTorch's is."""
    networks = list(enumerate(("20-32-10", "784-100-100-10", MLP), start=1))
    return [
        Workload(
            f"f{i}",
            f"replayed gradient at batch 1, {name}",
            {
                "npadv": Entry("npadv", "replayed_gradient", {"network": name, "batch": 1}),
                "torch": Entry("torch", "input_gradient", {"network": name, "batch": 1}),
            },
            _torch(0.5, 0.25),
        )
        for i, name in networks
    ] + [
        _same(
            f"f{i + len(networks)}",
            f"recorded gradient at batch 1, {name}",
            _torch(1.0, 0.5),
            "input_gradient",
            network=name,
            batch=1,
        )
        for i, name in networks
    ]


# The convolutions of the papers' networks: name, images (C, H, W), filters (K, C, KH, KW), padding.
LAYERS: list[tuple[str, tuple[int, int, int], tuple[int, int, int, int], int]] = [
    ("[SYN] conv1", (1, 32, 32), (32, 1, 5, 5), 0),
    ("[SYN] conv2", (32, 9, 9), (64, 32, 5, 5), 0),
    ("convnet conv2", (32, 9, 9), (64, 32, 5, 5), 2),
    ("maxout MNIST conv1", (1, 28, 28), (96, 1, 8, 8), 0),
    ("maxout MNIST conv2", (48, 10, 10), (96, 48, 8, 8), 3),
    ("maxout MNIST conv3", (48, 4, 4), (96, 48, 5, 5), 3),
    ("maxout CIFAR conv1", (3, 32, 32), (192, 3, 8, 8), 4),
    ("maxout CIFAR conv3", (192, 7, 7), (384, 192, 5, 5), 3),
    ("[SYN] VGG conv2", (64, 32, 32), (64, 64, 3, 3), 1),
    ("[SYN] VGG conv10", (512, 4, 4), (512, 512, 3, 3), 1),
]
PARTS = ("forward", "input gradient", "weight gradient")


def _convolutions() -> list[Workload]:
    return [
        _same(
            f"g{i}{part[0]}",
            f"{name}, {part}",
            _torch(1.4, 1.1),
            "convolution",
            also=("torch tuned",),
            part=part,
            batch=128,
            images=images,
            filters=filters,
            padding=padding,
        )
        for i, (name, images, filters, padding) in enumerate(LAYERS, start=1)
        for part in PARTS
    ]


def _peers() -> list[Workload]:
    """Return comparisons with further libraries: JAX compiles the work, autograd records it, textbook NumPy does neither."""
    rows = [
        _same(f"p{w.key}", w.title, {}, "train_step", PEERS, **w.entries["npadv"].settings)
        for w in _training()
        if w.key != "c2"
    ]
    for w in _single_inputs():
        if w.entries["npadv"].task == "replayed_gradient":
            recorded = Entry("npadv", "input_gradient", w.entries["npadv"].settings)
            others = {name: replace(recorded, contender=name) for name in PEERS}
            rows.append(Workload(f"p{w.key}", w.title, {**w.entries, "recorded": recorded, **others}, {}))
    return rows


def _robust_step() -> Workload:
    settings = {"network": "syn_convnet", "batch": 128}
    return Workload(
        "h",
        "[SYN]'s robust step over a plain one",
        {"robust step": Entry("npadv", "robust_step", settings), "plain step": Entry("npadv", "train_step", settings)},
        {"plain step": Bar(2.1, 1.7)},
        ours="robust step",
    )


WORKLOADS: dict[str, Workload] = {
    workload.key: workload
    for workload in (*_training(), *_attacks(), *_single_inputs(), *_convolutions(), _robust_step(), *_peers())
}


def select(keys: Sequence[str], *, peers: bool = False) -> list[Workload]:
    """Return the workloads whose keys are given, or begin like one of the given keys.

    Without keys, return all; those of group p only with ``peers``.

    >>> [workload.key for workload in select(["f", "b", "g1"])]
    ['b', 'f1', 'f2', 'f3', 'f4', 'f5', 'f6', 'g1f', 'g1i', 'g1w']
    """
    for key in keys:
        if not any(_begins(known, key) for known in WORKLOADS):
            raise ValueError(f"--only: expected some of {', '.join(WORKLOADS)}, or their beginnings, got {key!r}")
    if keys:
        return [w for w in WORKLOADS.values() if any(_begins(w.key, key) for key in keys)]
    return [w for w in WORKLOADS.values() if peers or w.group != "p"]


def _begins(known: str, key: str) -> bool:
    """Tell whether a key begins with another and does not go on with the digits of a larger number."""
    return bool(key) and known.startswith(key) and not (key[-1].isdigit() and known[len(key) :][:1].isdigit())

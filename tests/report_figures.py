"""Small figures that the tests of the report share, and how to read what was drawn."""

import numpy as np

from npadv.report import Attacked, accuracy_curves, compare_attacks, examples, image_grid, learning_curves

RNG = np.random.default_rng(0)
ROWS = [{"epoch": e, "train_loss": 2.0 * 0.5**e, "validation_error": 0.1 / (e + 1)} for e in range(10)]


def three_examples(channels=1, **changes):
    clean = RNG.uniform(0.2, 0.8, (3, channels, 6, 5))
    perturbation = RNG.choice([-0.1, 0.1], clean.shape)
    arguments = {
        "clean": clean,
        "perturbation": perturbation,
        "adversarial": clean + perturbation,
        "true": [3, 5, 7],
        "before": [3, 5, 7],
        "after": [8, 5, 7],
        "confidence_before": [0.99, 0.98, 1.0],
        "confidence_after": [0.971, 0.6, 0.5],
    } | changes
    return examples(**arguments)


def comparison(**changes):
    clean = np.full((8, 8), 0.5)
    made = {"L-BFGS": Attacked(clean + 0.01, 8, 0.512), "FGSM": Attacked(clean - 0.25, 3, 0.97)}
    return compare_attacks(
        **({"clean": clean, "attacks": made, "true": 3, "before": 3, "confidence_before": 0.99} | changes)
    )


def curves(**changes):
    eps = np.linspace(0, 0.3, 4)
    pairs = {"plain": (eps, [0.99, 0.2, 0.0, 0.0]), "robust": (eps, [0.97, 0.95, 0.9, 0.8])}
    return accuracy_curves(**({"curves": pairs, "xlabel": "ε"} | changes))


FIGURES = {
    "examples": (three_examples, 10),
    "colour examples": (lambda: three_examples(channels=3), 10),
    "comparison": (comparison, 6),
    "grid": (lambda: image_grid(RNG.random((7, 3, 6, 6)), columns=4, captions=list("abcdefg")), 7),
    "accuracy": (curves, 1),
    "learning": (lambda: learning_curves({"plain": ROWS, "robust": ROWS}), 2),
}


def texts(figure):
    return [text.get_text() for text in figure.texts]


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def pixels_of(figure, colour):
    return int((pixels(figure) == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=-1).sum())

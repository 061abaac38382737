"""The report's figures: what is drawn is what came in, inside the sheet, and legible without colour."""

import itertools

import numpy as np
import pytest
from report_figures import FIGURES, RNG, comparison, curves, pixels, pixels_of, texts, three_examples

from npadv.report import Attacked, Table, examples, image_grid, learning_curves, png, render_page
from npadv.report import palette as colours
from npadv.report.curves import spread
from npadv.report.figures import WRONG


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_inside_their_sheet_and_described(name):
    make, axes = FIGURES[name]
    figure = make()
    image = pixels(figure)
    assert len(figure.axes) == axes
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert (edge == 255).all(), "something runs off the sheet"
    assert figure.get_label().endswith(".")
    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_the_same_every_time(name):
    figure = FIGURES[name][0]()
    assert png(figure) == png(figure)


def test_wrong_predictions_are_marked_by_symbol_frame_and_colour():
    fooled, spared = three_examples(), three_examples(after=[3, 5, 7])
    assert f"{WRONG} 8  97.1%" in texts(fooled)
    assert "5  60.0%" in texts(fooled)
    assert not any(WRONG in text for text in texts(spared))
    frames = [axes.spines["top"].get_linewidth() for axes in fooled.axes]
    assert sorted(frames)[-1] > 2 * sorted(frames)[-2], "one thick frame"
    # Colours of one fixed perturbation cancel in the difference of the two figures' counts.
    x = np.full((1, 4, 4), 0.5)
    one = {"clean": x, "perturbation": 0 * x, "adversarial": x, "true": [1], "before": [1]}
    one |= {"confidence_before": [1], "confidence_after": [1]}
    scale_only = pixels_of(examples(**one, after=[1]), colours.VERMILION)
    assert pixels_of(examples(**one, after=[2]), colours.VERMILION) > scale_only + 400


def test_a_clean_image_that_was_wrong_already_is_marked_too():
    assert f"{WRONG} 4  99.0%" in texts(three_examples(before=[4, 5, 7]))


def test_perturbations_share_one_scale_centred_at_zero_and_it_is_stated():
    x = np.full((2, 4, 4), 0.5)
    d = np.stack([np.full((4, 4), 0.02), np.full((4, 4), -0.2)])
    same = {"true": [0, 1], "before": [0, 1], "after": [0, 1], "confidence_before": [1, 1], "confidence_after": [1, 1]}
    figure = examples(x, d, x + d, **same)
    shown = [axes.images[0] for axes in figure.axes if axes.images[0].get_cmap().name == "signed"]
    np.testing.assert_allclose([image.get_clim() for image in shown], [(-0.2, 0.2)] * 3)  # two examples and the bar
    assert [label.get_text() for label in figure.axes[-1].get_yticklabels()] == ["−0.2", "0", "+0.2"]
    darker, nothing, brighter = (np.array(shown[0].to_rgba(np.array([value]))[0]) for value in (-0.2, 0.0, 0.2))
    np.testing.assert_allclose(nothing[:3], 1, atol=0.02)
    assert darker[2] > darker[0], "blue takes away"
    assert brighter[0] > brighter[2], "vermilion adds"


def test_no_perturbation_at_all_is_drawn():
    x = np.full((1, 4, 4), 0.5)
    same = {"true": [0], "before": [0], "after": [0], "confidence_before": [1], "confidence_after": [1]}
    assert len(examples(x, 0 * x, x, **same).axes) == 4


def test_many_examples_are_wrapped_into_bands():
    x = np.full((7, 4, 4), 0.5)
    same = {name: range(7) for name in ("true", "before", "after")} | {
        name: np.ones(7) for name in ("confidence_before", "confidence_after")
    }
    figure = examples(x, 0 * x, x, **same, columns=3)
    assert len(figure.axes) == 3 * 7 + 1
    assert texts(figure).count("perturbation") == 3


def test_names_are_written_as_they_are_and_fit():
    names = ["$5 bill", "$x^2$", r"\frac{"]
    figure = three_examples(true=names, before=names, after=names, titles=["a" * 60, "b", "c"])
    pixels(figure)
    assert any(text.startswith("$x^2$") for text in texts(figure))
    assert not any(text.get_parse_math() for text in figure.texts)
    long = next(text for text in figure.texts if text.get_text().startswith("aaa"))
    assert long.get_window_extent().width < 1.3 * figure.dpi


def test_compared_attacks_state_the_distances_that_are_drawn():
    written = " ".join(texts(comparison()))
    assert r"$\ell_2$  0.08" in written  # 0.01 on each of 64 pixels
    assert r"$\ell_\infty$  0.25" in written
    assert f"{WRONG} 8  51.2%" in written
    assert "3  97.0%" in written


def test_accuracy_runs_from_0_to_100_percent_with_names_at_the_ends():
    figure = curves(chance=0.1)
    axes = figure.axes[0]
    assert axes.get_ylim() == (0, 100)
    assert {"plain", "robust", "chance, 10%"} <= {text.get_text() for text in axes.texts}
    assert figure.get_label() == "Accuracy against ε: plain from 99.0% to 0.0%; robust from 97.0% to 80.0%."


def test_names_of_curves_that_end_together_do_not_overlap():
    eps = [0.0, 0.1]
    figure = curves(curves={f"model {i}": (eps, [0.9, 0.0]) for i in range(8)}, xlabel="ε")
    pixels(figure)
    boxes = sorted(text.get_window_extent().bounds[1::2] for text in figure.axes[0].texts)
    assert all(low + height <= above + 1 for (low, height), (above, _) in itertools.pairwise(boxes))


def test_a_single_budget_makes_a_curve():
    assert len(curves(curves={"plain": ([0.25], [0.1])}).axes) == 1


def test_spread_keeps_order_and_distance():
    heights = list(RNG.uniform(0, 100, 12))
    moved = spread(heights, 6, 0, 100)
    assert np.argsort(moved).tolist() == np.argsort(heights).tolist()
    assert np.diff(sorted(moved)).min() > 6 - 1e-9
    assert min(moved) >= 0
    assert max(moved) <= 100 + 1e-9
    assert len(spread([0.0] * 30, 6, 0, 100)) == 30  # too many to fit: they run over, none is lost


def test_learning_curves_skip_what_was_not_recorded():
    rows = [{"epoch": 1, "train_loss": 1.0}, {"epoch": 2, "train_loss": None, "validation_error": 0.5}]
    rows.append({"epoch": 3, "train_loss": 0.9, "validation_error": 0.25})
    figure = learning_curves({"run": rows})
    loss, error = (axes.lines[0].get_xydata().tolist() for axes in figure.axes)
    assert loss == [[1, 1.0], [3, 0.9]]
    assert error == [[2, 50], [3, 25]]
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear"]
    assert "lowest error 25.00%, epoch 3" in figure.get_label()


def test_learning_curves_say_so_when_nothing_was_recorded():
    figure = learning_curves({"run": [{"epoch": 1, "train_loss": 1.0}]})
    pixels(figure)
    assert [text.get_text() for text in figure.axes[1].texts] == ["not recorded"]


BAD = {
    "clean of rank 1": (lambda: three_examples(clean=np.zeros(3)), r"^clean has shape \(3,\)"),
    "two channels": (lambda: three_examples(clean=np.zeros((3, 2, 6, 5))), r"^clean has shape \(3, 2, 6, 5\)"),
    "empty": (lambda: three_examples(clean=np.zeros((0, 1, 6, 5))), r"^clean is empty"),
    "above 1": (lambda: three_examples(adversarial=np.full((3, 1, 6, 5), 1.5)), r"^adversarial holds 1\.5; .*\[0, 1\]"),
    "NaN": (lambda: three_examples(clean=np.full((3, 1, 6, 5), np.nan)), r"^clean holds nan"),
    "perturbation below -1": (
        lambda: three_examples(perturbation=np.full((3, 1, 6, 5), -2.0)),
        r"^perturbation holds -2",
    ),
    "shapes differ": (lambda: three_examples(perturbation=np.zeros((3, 1, 5, 5))), r"^perturbation is \(3, 5, 5, 1\)"),
    "not the difference": (
        lambda: three_examples(perturbation=np.zeros((3, 1, 6, 5))),
        r"^perturbation is up to 0\.1 ",
    ),
    "too few classes": (lambda: three_examples(after=[1, 2]), r"^after has shape \(2,\); expected \(3,\)"),
    "too few titles": (lambda: three_examples(titles=["one"]), r"^titles has shape"),
    "percent": (lambda: three_examples(confidence_after=[97.0, 50.0, 1.0]), r"^confidence_after holds 97; "),
    "no columns": (lambda: image_grid(np.zeros((2, 4, 4)), columns=0), r"^columns is 0"),
    "captions": (lambda: image_grid(np.zeros((2, 4, 4)), columns=2, captions=["one"]), r"^captions has shape"),
    "grid of rank 2": (lambda: image_grid(np.zeros((4, 4)), columns=2), r"^images has shape \(4, 4\)"),
    "no attacks": (lambda: comparison(attacks={}), r"^attacks is empty"),
    "attacked elsewhere": (
        lambda: comparison(attacks={"FGSM": Attacked(np.zeros((4, 4)), 1, 0.5)}),
        r"^attacks\['FGSM'\]\.adversarial is \(4, 4, 1\)",
    ),
    "attack too sure": (
        lambda: comparison(attacks={"FGSM": Attacked(np.zeros((8, 8)), 1, 1.5)}),
        r"^attacks\['FGSM'\]\.confidence holds 1\.5",
    ),
    "no curves": (lambda: curves(curves={}), r"^curves is empty"),
    "curve of other length": (lambda: curves(curves={"a": ([0, 1], [0.5])}), r"^curves\['a'\] has shape \(1,\)"),
    "curve in percent": (lambda: curves(curves={"a": ([0, 1], [99, 2])}), r"^curves\['a'\] holds 99"),
    "budgets fall": (lambda: curves(curves={"a": ([1, 0], [0.5, 0.5])}), r"^curves\['a'\] has budgets \[1, 0\]"),
    "no chance": (lambda: curves(chance=10), r"^chance holds 10"),
    "no runs": (lambda: learning_curves({}), r"^runs is empty"),
    "no rows": (lambda: learning_curves({"a": []}), r"^runs\['a'\] is empty"),
    "no epoch": (lambda: learning_curves({"a": [{"train_loss": 1.0}]}), r"^runs\['a'\] has a row without epoch"),
    "loss is NaN": (lambda: learning_curves({"a": [{"epoch": 1, "train_loss": np.nan}]}), r"^runs\['a'\] .*train_loss"),
    "error in percent": (
        lambda: learning_curves({"a": [{"epoch": 1, "validation_error": 12}]}),
        r"^runs\['a'\] validation_error holds 12",
    ),
    "short row": (lambda: Table(["a", "b"], [[1]]), r"^rows\[0\] has 1 cells"),
    "no headings": (lambda: Table([], []), r"^columns is empty"),
    "no title": (lambda: render_page(title=" ", summary="", sections=[]), r"^title is ' '"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def test_text_is_legible_by_day_and_by_night():
    pairs = [(colours.WHITE, ink) for ink in (colours.INK, colours.MUTED, colours.BLUE, colours.VERMILION)]
    pairs += [
        (page["paper"], page[ink]) for page in (colours.LIGHT, colours.DARK) for ink in ("ink", "muted", "accent")
    ]
    for paper, ink in pairs:
        low, high = sorted((luminance(paper), luminance(ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (paper, ink)

"""The scores of a classifier: outputs in batches, mean cross-entropy, error rate."""

import numpy as np
import pytest
from training_cases import TRAIN, linear_network, small_network, toy

from npadv import nn
from npadv.data import Split
from npadv.functional import cross_entropy
from npadv.train import evaluate, predict

# Scores ---------------------------------------------------------------------------------------------------------------


def test_predict_returns_logits_in_inference_whatever_the_batch_size():
    model, images = small_network(), toy(23).images
    logits = predict(model, images)
    np.testing.assert_array_equal(logits, model(images).data)
    np.testing.assert_allclose(predict(model, images, batch_size=1), logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predict(model, images, batch_size=7), logits, rtol=1e-5, atol=1e-6)
    assert logits.dtype == np.float32
    assert logits.shape == (23, 2)


def test_predict_takes_any_callable_and_leaves_no_record():
    recorded = []

    def model(x):
        y = nn.Parameter(np.ones(1)) * x
        recorded.append(y.requires_grad)
        return y

    np.testing.assert_array_equal(predict(model, np.eye(3), batch_size=2), np.eye(3))
    assert recorded == [False, False]


def test_evaluate_is_the_mean_over_examples_of_loss_and_error():
    split = Split(np.array([0.2, 0.9, 0.4]).reshape(3, 1, 1, 1), np.array([0, 1, 1]))

    def model(x):
        return np.concatenate([0.5 - x, x - 0.5], axis=1)[:, :, 0, 0]

    losses = [cross_entropy(model(split.images[i : i + 1]), split.labels[i : i + 1]) for i in range(3)]
    for size in (1, 2, 500):
        score = evaluate(model, split, batch_size=size)
        assert score.loss == pytest.approx(np.mean(losses), rel=1e-14)
        assert score.error == 1 / 3  # 0.4 is taken for class 0


def test_nothing_cannot_be_scored():
    with pytest.raises(ValueError, match=r"predict\(images\): expected at least one image, got an empty batch"):
        predict(linear_network(), TRAIN.images[:0])
    with pytest.raises(ValueError, match="split must hold at least one example"):
        evaluate(linear_network(), TRAIN[:0])


def test_evaluate_refuses_labels_the_model_has_no_class_for():
    with pytest.raises(ValueError, match=r"labels: expected classes 0\.\.1, got values from 5 to 5"):
        evaluate(linear_network(), Split(TRAIN.images[:1], np.array([5])))

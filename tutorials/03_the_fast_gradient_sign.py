# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The fast gradient sign
#
# A network that classifies handwritten digits almost without error fails on almost every image if each pixel is changed a
# little, so little that a human still reads the digit easily. Noise of the same size has almost no effect. This tutorial shows
# the attack, explains it (for a linear model the theory holds to the last digit), shows six errors of measurement, and trains
# a network on such images.
#
# The method is the *fast gradient sign method*, FGSM, of Goodfellow, Shlens and Szegedy (2014). Two texts are cited: [WG],
# Warde-Farley and Goodfellow, "Adversarial Perturbations of Deep Neural Networks", and [SYN], Shaham, Yamada and Negahban,
# "Understanding Adversarial Training".
#
# Notation: x is an image with pixels in [0, 1], 0 for the background (black) and 1 for ink (white); y is its class; J(x, y) is
# the loss, here the cross-entropy -log p(y | x), as a function of the image; g is its gradient in x, of the image's shape. The
# *norms* of a perturbation d are
#
#     ||d||_1 = sum |d_i|        ||d||_2 = sqrt(sum d_i^2)        ||d||_inf = max |d_i|,
#
# and eps is the largest size of a perturbation, in the last of these norms unless another is named: no pixel changes by more
# than eps.

# %%
import importlib.util
import sys
from pathlib import Path

import numpy as np

from npadv import Tensor, grad, nn, optim, report
from npadv.attacks import fgsm
from npadv.data import Split, digits
from npadv.defenses import adversarial_training
from npadv.functional import cross_entropy, softmax
from npadv.nn.initializers import zeros
from npadv.norms import norm, project, steepest_ascent_direction
from npadv.train import classification_loss, fit, predict

rng = np.random.default_rng(0)
in_notebook = "get_ipython" in globals()
can_draw = importlib.util.find_spec("matplotlib") is not None
folder = Path(sys.argv[sys.argv.index("--save") + 1]) if not in_notebook and "--save" in sys.argv else None


def show(name, draw, *args, **kwargs):
    """Draw a figure of npadv.report: into the notebook, or into the folder after --save; otherwise draw nothing."""
    if in_notebook and can_draw:
        from IPython.display import Image, display

        from npadv.report.figures import png

        display(Image(png(draw(*args, **kwargs)), width=760))
    elif folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        draw(*args, **kwargs).savefig(folder / f"{name}.png")


# %% [markdown]
# ## 1. Two networks
#
# *Softmax regression* is the simplest classifier of images: its *logits*, one number per class, are z = x W + b, and its
# probabilities softmax(z). A *maxout* network has hidden units that each take the largest of several linear functions; [WG]
# uses large ones. Ours has two layers of 64 units with two pieces each, and dropout. Both networks return logits. `fit` takes
# a model, a loss, data and an optimizer; all random numbers come from `rng`.

# %%
data = digits()
images, labels = data.test.images, data.test.labels  # (297, 1, 28, 28), (297,)


def trained(model, loss=classification_loss, step_size=0.05):
    optimizer = optim.SGD(model.parameters(), step_size, momentum=0.5)
    history = fit(model, loss, data.train, optimizer=optimizer, epochs=30, batch_size=50, rng=rng)
    print(f"trained in {sum(row['seconds'] for row in history):.1f} s")
    return model


def maxout_network():
    settings = {"rng": rng, "max_norm": 1.9365}
    return nn.Sequential(
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Maxout(784, 64, 2, **settings),
        nn.Dropout(0.5),
        nn.Maxout(64, 64, 2, **settings),
        nn.Dropout(0.5),
        nn.Dense(64, 10, **settings),
    )


def accuracy(model, images):
    return float((predict(model, images).argmax(axis=1) == labels).mean())


regression = trained(nn.network("softmax_regression", rng=rng), step_size=0.1)
maxout = trained(maxout_network())
for name, model in (("softmax regression", regression), ("maxout network", maxout)):
    print(f"{name}: accuracy {accuracy(model, images):.1%}")
    assert accuracy(model, images) > 0.92

# %% [markdown]
# ## 2. The attack on a linear function
#
# Let f(x) = <w, x>. How much can a perturbation d with ||d||_inf <= eps raise it? Each pixel contributes w_i d_i, which is at
# most eps |w_i|, for d_i = eps sign(w_i). So the worst perturbation and its gain are ([WG] 1.2.3)
#
#     d = eps sign(w),        <w, d> = eps ||w||_1.
#
# Softmax regression with two classes is exactly this. Take the 3 and the 8: p(3 | x) = 1 / (1 + exp(-m)) with the *margin*
#
#     m(x) = z_3 - z_8 = <w, x> + b_3 - b_8,        w = W_3 - W_8.
#
# The loss of a 3 is J = log(1 + exp(-m)). Its gradient is -(1 - p) w, a negative number times w, so the attack is d = -eps
# sign(w), and for every image the margin falls by exactly eps ||w||_1. (Only the sign of the gradient matters, not its size.)
# The bounds are wide here, so that the box of pixel values has no effect.

# %%
W, bias = (p.data.astype(np.float64) for p in regression.parameters())  # (784, 10), (10,)


def two_classes(x):
    return x.reshape(len(x), 784) @ W[:, [3, 8]] + bias[[3, 8]]


w = W[:, 3] - W[:, 8]
threes = images[labels == 3].astype(np.float64)
eps = 0.1
result = fgsm(two_classes, threes, np.zeros(len(threes), dtype=int), eps=eps, bounds=(-1.0, 2.0))


def margin(x):
    return two_classes(x) @ np.array([1.0, -1.0])


np.testing.assert_allclose(margin(threes) - margin(result.x_adv), eps * np.abs(w).sum(), rtol=1e-10)
np.testing.assert_allclose(  # and the loss equals the formula
    cross_entropy(two_classes(result.x_adv), np.zeros(len(threes), dtype=int), reduction="none"),
    np.log1p(np.exp(-(margin(threes) - eps * np.abs(w).sum()))),
)
print(
    f"margins from {margin(threes).min():.1f} to {margin(threes).max():.1f}; each falls by {eps * np.abs(w).sum():.2f}"
)

# %% [markdown]
# No perturbation of that size gains more, and random ones gain much less. With a random sign for each pixel, the terms eps
# |w_i| have random signs, and their sum is about eps ||w||_2: the square root of a sum of squares, where the attack has the
# sum.

# %%
noise = eps * rng.choice([-1.0, 1.0], (2000, 784))
gains = noise @ w
assert gains.max() < eps * np.abs(w).sum()
assert abs(gains.std() / (eps * np.linalg.norm(w)) - 1) < 0.1
print(f"attack {eps * np.abs(w).sum():.2f}; 2,000 random ones: spread {gains.std():.2f}, largest {gains.max():.2f}")

# %% [markdown]
# ## 3. Why many small changes add up
#
# "In high dimension, many tiny changes add up to a large one": this is the usual short explanation. Let us measure it. We take
# the same digits with 7 x 7, 14 x 14 and 28 x 28 pixels (averages of blocks of pixels) and train a softmax regression on each.
# The step size is proportional to 1/n, so that all three learn equally fast: a gradient step changes each of n weights, so the
# output changes by n times as much.


# %%
def shrunk(split, k):
    n, c, h, w = split.images.shape
    return Split(split.images.reshape(n, c, h // k, k, w // k, k).mean(axis=(3, 5)), split.labels)


rows = []
for k in (4, 2, 1):
    train, test = shrunk(data.train, k), shrunk(data.test, k)
    n = test.images[0].size
    model = nn.Sequential(nn.Flatten(), nn.Dense(n, 10, rng=rng, init=zeros))
    optimizer = optim.SGD(model.parameters(), 0.1 * 784 / n, momentum=0.5)
    fit(model, classification_loss, train, optimizer=optimizer, epochs=30, batch_size=50, rng=rng)
    weights = model.parameters()[0].data
    pairs = np.stack([weights[:, a] - weights[:, b] for a in range(10) for b in range(a)])  # (45, n)
    worst, chance = 0.1 * np.abs(pairs).sum(axis=1).mean(), 0.1 * np.linalg.norm(pairs, axis=1).mean()
    rows.append((n, float(np.abs(pairs).mean()), worst, chance, worst / chance))
table = report.Table(["pixels", "mean |w|", "worst: eps ||w||_1", "chance: eps ||w||_2", "ratio"], rows)
print(report.format_table(table))

# %% [markdown]
# Compare the first and the last row. With sixteen times as many pixels, each weight is about eighteen times smaller, since the
# evidence is spread over more pixels. So the worst case *does not grow*: the pictures contain the same evidence, and an attack
# that changes every pixel by eps gains about as much from many small weights as from few large ones. The effect of random
# signs changes: it halves each time the image gets twice as wide, because more random signs cancel better. The ratio
# ||w||_1 / ||w||_2 is proportional to the square root of n:

# %%
(_, _, worst_7, chance_7, ratio_7), (_, _, worst_14, _, ratio_14), (_, _, worst_28, chance_28, ratio_28) = rows
assert max(worst_7, worst_14, worst_28) < 1.5 * min(worst_7, worst_14, worst_28)
assert 3 < chance_7 / chance_28 < 6
assert all(1.6 < ratio < 2.4 for ratio in (ratio_14 / ratio_7, ratio_28 / ratio_14))

# %% [markdown]
# On paper: repeat every pixel of an image k x k times and divide its weight by k^2. All outputs stay the same, so does
# ||w||_1, and ||w||_2 falls to 1/k of what it was.

# %%
w_larger = np.repeat(np.repeat(w.reshape(28, 28), 2, axis=0), 2, axis=1) / 4
assert np.isclose(np.abs(w_larger).sum(), np.abs(w).sum())
assert np.isclose(np.linalg.norm(w_larger), np.linalg.norm(w) / 2)

# %% [markdown]
# This makes the usual explanation precise. A higher dimension does not make an image easier to attack; it makes harmful
# perturbations rarer. In many dimensions the harmful directions are as harmful as in few, but so rare that noise does not find
# them. So a classifier can be excellent on noisy images and fail against an adversary. (If each new pixel adds as much new
# evidence as any other, the worst case does grow with n; then the effect of noise grows with the square root of n, and the
# ratio is the same.)

# %%
for n in (49, 784):
    evidence = np.ones(n)
    assert np.abs(evidence).sum() == n
    assert np.linalg.norm(evidence) == np.sqrt(n)

# %% [markdown]
# ## 4. The method, line by line
#
# A network is not linear, but near x it almost is: J(x + d, y) is about J(x, y) + <g, d>. By section 2, the d that maximises
# this under ||d||_inf <= eps is
#
#     d = eps sign(g),    g = grad_x J(x, y)                    [SYN] eq. 2; [WG] eq. 1.2 and its solution 1.3
#
# Here is the method with the tape, line by line, and the library's function, which adds checks and a report:


# %%
def sign_method(model, x, y, eps):
    inputs = Tensor(x, requires_grad=True)
    J = cross_entropy(model(inputs), y, reduction="sum")  # a sum: the gradient of an example ignores the others
    g = grad(J, inputs)  # grad_x J
    d = x.dtype.type(eps) * np.sign(g)  # eps sign(g)
    return np.clip(x + d, 0, 1)  # still an image


result = fgsm(maxout, images, labels, eps=0.15)
assert np.array_equal(result.x_adv, sign_method(maxout, images, labels, 0.15))
assert result.distance.max() <= 0.15 + 1e-6
print(f"accuracy {accuracy(maxout, images):.1%}, attacked {accuracy(maxout, result.x_adv):.1%}")
assert accuracy(maxout, result.x_adv) < 0.3

# %%
shown = np.flatnonzero(result.success & ~result.flags["already_wrong"])[:5]
before, after = (softmax(predict(maxout, x[shown])) for x in (images, result.x_adv))
show(
    "examples",
    report.examples,
    images[shown],
    result.x_adv[shown] - images[shown],
    result.x_adv[shown],
    true=labels[shown],
    before=before.argmax(axis=1),
    after=after.argmax(axis=1),
    confidence_before=before.max(axis=1),
    confidence_after=after.max(axis=1),
)

# %% [markdown]
# **Targeted attacks.** To make the network predict a class t of our choice, raise log p(t | x): step *against* the gradient of
# J(x, t). Reaching a given class is harder than leaving the right one, so one step succeeds less often.

# %%
targets = (labels + 1) % 10
targeted = fgsm(maxout, images, targets, eps=0.15, targeted=True)
inputs = Tensor(images, requires_grad=True)
g = grad(cross_entropy(maxout(inputs), targets, reduction="sum"), inputs)
assert np.array_equal(targeted.x_adv, np.clip(images - np.float32(0.15) * np.sign(g), 0, 1))
print(f"left its class: {result.success.mean():.1%}; reached a given class: {targeted.success.mean():.1%}")
assert 0.05 < targeted.success.mean() < result.success.mean()

# %% [markdown]
# ## 5. Accuracy against eps
#
# Here is the accuracy of both networks for several eps, under the attack and under noise of the same size (each pixel moves up
# or down by eps at random and is clipped to the box).

# %%
budgets = np.array([0.0, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25])


def noisy(eps):
    return np.clip(images + np.float32(eps) * rng.choice(np.float32([-1, 1]), images.shape), 0, 1)


curves = {
    "softmax, FGSM": [accuracy(regression, fgsm(regression, images, labels, eps=eps).x_adv) for eps in budgets],
    "maxout, FGSM": [accuracy(maxout, fgsm(maxout, images, labels, eps=eps).x_adv) for eps in budgets],
    "softmax, noise": [accuracy(regression, noisy(eps)) for eps in budgets],
    "maxout, noise": [accuracy(maxout, noisy(eps)) for eps in budgets],
}
rows = [[name, *(f"{value:.1%}" for value in values)] for name, values in curves.items()]
print(report.format_table(report.Table(["eps", *map(str, budgets)], rows)))
show(
    "accuracy_against_eps",
    report.accuracy_curves,
    {name: (budgets, values) for name, values in curves.items()},
    xlabel="eps (max norm, pixels in [0, 1])",
    chance=0.1,
)
for name in ("softmax", "maxout"):
    attacked, at_random = curves[f"{name}, FGSM"], curves[f"{name}, noise"]
    assert attacked[-1] < 0.15  # at 0.25, about as good as guessing, or worse
    assert at_random[-1] > at_random[0] - 0.08  # noise of this size costs a few percent at most

# %% [markdown]
# For the linear model we can compute how good FGSM is. With ten classes, the margin over class k falls by at most
# eps ||W_y - W_k||_1, so an image is safe from *every* attack as long as
#
#     eps < radius = min over k of  (z_y - z_k) / ||W_y - W_k||_1,
#
# and without a box there is a successful attack beyond the radius: one with the class of the minimum as its target. The
# gradient of FGSM averages over all classes, weighted by their probabilities, so FGSM cannot do better than this bound, but
# comes close.

# %%
z = predict(regression, images).astype(np.float64)  # (N, 10)
every = np.arange(len(labels))
size = np.abs(W.T[labels][:, None, :] - W.T[None]).sum(axis=2)  # (N, 10): ||W_y - W_k||_1
others = np.arange(10) != labels[:, None]
radius = np.where(others, (z[every, labels][:, None] - z) / np.where(others, size, 1.0), np.inf).min(axis=1)
for eps in (0.05, 0.1, 0.15):
    unboxed = fgsm(regression, images, labels, eps=eps, bounds=(-1.0, 2.0))
    assert not unboxed.success[radius > eps * 1.001].any()  # no attack succeeds within the radius
    print(
        f"eps {eps}: accuracy under FGSM {1 - unboxed.success.mean():.1%}, under the best attack {(radius > eps).mean():.1%}"
    )
    assert (radius > eps).mean() <= 1 - unboxed.success.mean() + 0.01 < (radius > eps).mean() + 0.2

# %% [markdown]
# ## 6. Transfer
#
# The two networks have different shapes and were trained from different initial weights. Attack one network, and classify the
# images with the other ([WG] 1.2.1):

# %%
models = {"softmax": regression, "maxout": maxout}
crafted = {name: fgsm(model, images, labels, eps=0.15).x_adv for name, model in models.items()}
transfer = {(a, b): accuracy(models[b], crafted[a]) for a in models for b in models}
rows = [[f"crafted on {a}", *(f"{transfer[a, b]:.1%}" for b in models)] for a in models]
print(report.format_table(report.Table(["accuracy of", *models], rows)))
for a, b in (("softmax", "maxout"), ("maxout", "softmax")):
    assert transfer[a, a] < transfer[b, a]  # an attack on the network itself is stronger
    assert transfer[a, b] < 0.6 < curves[f"{b}, noise"][4] - 0.25  # but one on the other is much stronger than noise

# %% [markdown]
# The attacker needs no access to the network, only a network of a similar kind. The linear explanation predicts this: if both
# networks are nearly linear and were trained on the same digits, their weights should be similar, and so should the directions
# of their gradients at an image. Compare the *cosine* of the angle between the gradients, <g, h> / (||g||_2 ||h||_2), with
# that of random directions in 784 dimensions, which is about 1 / sqrt(784) = 0.036 in size.


# %%
def input_gradient(model):
    inputs = Tensor(images, requires_grad=True)
    return grad(cross_entropy(model(inputs), labels, reduction="sum"), inputs)


def cosines(g, h):
    return (g * h).sum(axis=(1, 2, 3)) / (norm(g, "l2") * norm(h, "l2"))


between_networks = cosines(input_gradient(regression), input_gradient(maxout))
between_random = cosines(*rng.standard_normal((2, *images.shape)))
print(
    f"cosine between the networks' gradients {between_networks.mean():.2f}, random: spread {between_random.std():.3f}"
)
assert between_networks.mean() > 0.25
assert abs(between_random.std() * np.sqrt(784) - 1) < 0.25

# %% [markdown]
# ## 7. Errors of measurement
#
# Many claims of robustness were errors of measurement. Here are six such errors, with their effects.
#
# **Dropout left on.** The gradient is then that of a random half of the network, not of the network that classifies the image.
# The network seems much more robust than it is:

# %%
eps = 0.1
inputs = Tensor(images, requires_grad=True)
g = grad(cross_entropy(maxout(inputs, train=True, rng=rng), labels, reduction="sum"), inputs)
with_dropout = np.clip(images + np.float32(eps) * np.sign(g), 0, 1)
without = fgsm(maxout, images, labels, eps=eps).x_adv
print(f"accuracy, attacked with dropout {accuracy(maxout, with_dropout):.1%}, without {accuracy(maxout, without):.1%}")
assert accuracy(maxout, with_dropout) > accuracy(maxout, without) + 0.2

# %% [markdown]
# In npadv, `model(x)` is always inference, and each call that trains says so, `model(x, train=True, rng=rng)`. So no mode can
# be left on, and attacks call `model(x)`.
#
# **No box.** A pixel cannot have the value -0.1. Most pixels of a digit are background, at 0, and there about half of all
# steps leave the box. An attack that takes them is stronger, but its images cannot exist. Stay in the box, and count success
# on the images that you report: clipping them afterwards may undo the success.

# %%
g = input_gradient(maxout)
free = images + np.float32(eps) * np.sign(g)
outside = ((free < 0) | (free > 1)).mean()
print(f"{outside:.0%} of the pixels left the box")
print(f"accuracy {accuracy(maxout, free):.1%}, and {accuracy(maxout, without):.1%} in the box")
assert np.array_equal(np.clip(free, 0, 1), without)
assert 0.4 < (free[images == 0] < 0).mean() < 0.6
assert 0.2 < outside < 0.5
assert accuracy(maxout, free) < accuracy(maxout, without)

# %% [markdown]
# **Label leaking, and success that is not error.** An attack on true labels uses information that an attacker may not have.
# With `y=None` it uses the network's predictions as labels. But then "success" means "the prediction changed", and an image
# that was wrong before the attack may be right after it. So accuracy is not 1 - success.

# %%
own_labels = fgsm(maxout, images, eps=eps)
unchanged, right = 1 - own_labels.success.mean(), (own_labels.prediction == labels).mean()
wrong_before = predict(maxout, images).argmax(axis=1) != labels
repaired = int((wrong_before & (own_labels.prediction == labels)).sum())
print(
    f"same prediction {unchanged:.1%}, accuracy {right:.1%}: the attack corrected {repaired} of {wrong_before.sum()} errors"
)
assert repaired > 0
assert np.isclose(right - unchanged, (repaired - (wrong_before & ~own_labels.success).sum()) / len(labels))
assert accuracy(maxout, without) <= right  # true labels make the attack stronger

# %% [markdown]
# **A saturated softmax.** Multiply all logits by 1000. No prediction changes, but the probabilities are now so close to 0 and
# 1 that the gradient of the loss, (probabilities - one-hot) times the Jacobian, vanishes: exp(-104) is exactly zero in
# float32, so an image that is classified correctly by a margin of more than 0.104 has a gradient of exactly zero. Since
# sign(0) = 0, the attack does not move, and the network seems perfectly robust. Any training or "defence" that makes logits
# large has this effect, intended or not.

# %%
assert np.exp(np.float32(-104)) == 0 < np.exp(np.float32(-103))


def saturated(x):
    return maxout(x) * 1000.0


stuck = fgsm(saturated, images, labels, eps=0.25)
flagged = stuck.flags["zero_gradient"]
print(
    f"accuracy of the saturated network under FGSM {1 - stuck.success.mean():.1%}, clean {accuracy(maxout, images):.1%}"
)
assert 1 - stuck.success.mean() > accuracy(maxout, images) - 0.03  # it seems robust

z = predict(maxout, images)
margins = z[every, labels] - np.where(others, z, -np.inf).max(axis=1)
assert flagged[margins > 0.105].all()  # but the attack did not move, and the result's flags show it
assert flagged.mean() > 0.9
assert np.array_equal(stuck.x_adv[flagged], images[flagged])

unscaled = fgsm(maxout, images, labels, eps=0.25)  # an attack on the network without the factor
assert np.array_equal(predict(saturated, unscaled.x_adv).argmax(axis=1), unscaled.prediction)
print(
    f"accuracy of the saturated network on examples made without the factor: {accuracy(saturated, unscaled.x_adv):.1%}"
)
assert accuracy(saturated, unscaled.x_adv) < 0.15
assert not unscaled.flags["zero_gradient"].any()

# %% [markdown]
# So read `result.flags` before you trust a number. A defence that removes the gradient, but fails on examples made without the
# defence, is not a defence.
#
# **Sizes in different norms.** The step of steepest ascent depends on the norm in which its size is measured: sign(g) for the
# max norm, g / ||g||_2 for l2, a single pixel for l1 (not g / ||g||_1, which is a much weaker step). "eps = 0.1" means
# nothing without the norm: if 784 pixels change by 0.1, the perturbation has the l2 norm 2.8.

# %%
steps = {kind: steepest_ascent_direction(g, kind) for kind in ("linf", "l2", "l1")}
for kind, d in steps.items():  # each has size 1 in its own norm, and its gain is the dual norm of g
    np.testing.assert_allclose(norm(d, kind), 1, rtol=1e-4)
    np.testing.assert_allclose(
        (g * d).sum(axis=(1, 2, 3)), norm(g, {"linf": "l1", "l2": "l2", "l1": "linf"}[kind]), rtol=1e-3
    )
assert np.allclose(norm(np.float32(0.1) * steps["linf"], "l2"), 2.8, rtol=0.05)

scaled = g / norm(g, "l1")[:, None, None, None]  # also of l1 size 1, but with a much smaller gain
assert np.median((g * scaled).sum(axis=(1, 2, 3)) / norm(g, "linf")) < 0.5

same_number = accuracy(maxout, np.clip(images + np.float32(0.1) * steps["l2"], 0, 1))
same_length = accuracy(maxout, np.clip(images + np.float32(2.8) * steps["l2"], 0, 1))
print(
    f"accuracy at linf 0.1: {accuracy(maxout, without):.1%}; at l2 0.1: {same_number:.1%}; at l2 2.8: {same_length:.1%}"
)
assert same_number > 0.9 * accuracy(maxout, images)  # l2 0.1 has almost no effect
assert same_length < accuracy(maxout, without)  # l2 2.8 lets single pixels change far more than 0.1

# %% [markdown]
# **One step.** FGSM assumes that the loss is linear. Where it is not, many small steps, each projected to within eps of the
# image and into the box, find stronger examples. A model that resists FGSM resists FGSM, and perhaps nothing else.


# %%
def many_steps(model, eps, steps=20):
    x = images
    for _ in range(steps):
        x = fgsm(model, x, labels, eps=eps / 8).x_adv
        x = project(x, images, eps, "linf", bounds=(0.0, 1.0))
    return x


repeated = many_steps(maxout, 0.1)
assert np.abs(repeated - images).max() < 0.1 + 1e-6
print(f"accuracy after one step {accuracy(maxout, without):.1%}, after twenty {accuracy(maxout, repeated):.1%}")
assert accuracy(maxout, repeated) < accuracy(maxout, without)

# %% [markdown]
# ## 8. Training on them
#
# The attack costs one gradient, so every batch of the training can be attacked anew. *Adversarial training* minimises
#
#     alpha J(theta, x, y) + (1 - alpha) J(theta, x + d, y),    d = eps sign(grad_x J)         [SYN] eq. 3
#
# over the weights theta. In npadv it is another loss for `fit`: `npadv/defenses/adversarial_training.py`, with alpha = 1/2.

# %%
robust = trained(maxout_network(), adversarial_training(0.15))


def tested(model):
    return [
        accuracy(model, images),
        accuracy(model, noisy(0.15)),
        accuracy(model, crafted["softmax"]),
        accuracy(model, fgsm(model, images, labels, eps=0.1).x_adv),
        accuracy(model, many_steps(model, 0.1)),
        accuracy(model, fgsm(model, images, labels, eps=0.15).x_adv),
        accuracy(model, many_steps(model, 0.15)),
    ]


columns = {"plain": tested(maxout), "robust": tested(robust)}
headings = ["clean", "noise .15", "transfer .15", "FGSM .1", "20 steps .1", "FGSM .15", "20 steps .15"]
rows = [[name, *(f"{value:.1%}" for value in values)] for name, values in columns.items()]
print(report.format_table(report.Table(["accuracy", *headings], rows)))

plain_scores, robust_scores = (dict(zip(headings, values, strict=True)) for values in columns.values())
assert robust_scores["FGSM .15"] > max(3 * plain_scores["FGSM .15"], 0.3)
assert robust_scores["20 steps .1"] > plain_scores["20 steps .1"] + 0.15
assert robust_scores["transfer .15"] > plain_scores["transfer .15"]
assert abs(robust_scores["clean"] - plain_scores["clean"]) < 0.06
assert robust_scores["20 steps .15"] < robust_scores["FGSM .15"] - 0.1

# %%
robust_curve = [accuracy(robust, fgsm(robust, images, labels, eps=eps).x_adv) for eps in budgets]
show(
    "adversarial_training",
    report.accuracy_curves,
    {"plain": (budgets, curves["maxout, FGSM"]), "trained on FGSM": (budgets, robust_curve)},
    xlabel="eps (max norm, pixels in [0, 1])",
    chance=0.1,
)

# %% [markdown]
# The gains: several times the accuracy against the attack of the training; some protection from examples made for another
# network; and, as [WG] 1.3 reports for a larger network, protection from stronger attacks of a smaller size. The costs: the
# time to attack each batch and to train on it twice (see the seconds above), and here about four points of accuracy on clean
# images. The limits: at the size of the training, twenty steps are much stronger than the one step of the training. Reporting
# the FGSM column alone would be the last error of section 7.
#
# ## Try it
#
# 1. Train with `alpha=0.0`, which is [SYN]'s Algorithm 1. What happens to the clean accuracy?
# 2. Repeat the errors of section 7 with `robust`. Which of them make it seem better than it is?
# 3. Replace the digits by MNIST (`npadv.data.mnist()` fetches it once) and the small network by
#    `nn.network("maxout_mlp", rng=rng)`: the papers' setting, with some minutes of training.
#
# Then read `npadv/attacks/fgsm.py`: it is section 4, with checks.

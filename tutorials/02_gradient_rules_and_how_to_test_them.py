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
# # Gradient rules, and how to test them
#
# The first tutorial built a tape out of *rules*, one line each, that say how a cotangent passes from the result of an
# operation to its arguments. Where do these lines come from, and why should anybody believe them? A wrong sign is found
# within a minute, because nothing trains. A factor of 1.001 is never found that way, nor is a second derivative that is
# silently zero. So we derive rules on paper, check them with arithmetic that knows nothing of rules, and plant wrong ones to
# see whether the check deserves the name. At the end we write a primitive of our own, and use second derivatives to find the
# direction in which a network is easiest to disturb.
#
# Notation: x is an argument, y = f(x) the result, L a scalar computed from y, and g = dL/dy the cotangent of y, an array of
# y's shape. `<a, b>` is the sum of the products of corresponding elements, whatever the shape of a and b.

# %%
import numpy as np

import npadv
from npadv import Tensor, defvjp, grad, ops, primitive
from npadv.testing import check_grads

rng = np.random.default_rng(0)


def dot(a, b):
    return float((a * b).sum())


# %% [markdown]
# ## 1. Vector-Jacobian products
#
# All partial derivatives of y in x form the *Jacobian*, the matrix J with J_ij = dy_i / dx_j. Here is one small enough to
# see, of y = tanh(A x) from three numbers to two, with its columns measured one at a time.

# %%
A = np.array([[1.0, -0.5, 0.0], [0.3, 0.2, -1.0]])
x = np.array([0.5, 1.0, -0.2])


def f(x):
    return ops.tanh(A @ x)


h = 1e-6
J = np.stack([(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(3)], axis=1)
print(J.round(4))

# %% [markdown]
# By the chain rule dL/dx_j = sum_i dL/dy_i J_ij, that is
#
#     dL/dx = J^T g,
#
# the *vector-Jacobian product*. This is all that `grad` ever computes: give it a g and it returns J^T g. With a row of the
# identity as g it returns a row of J, which is how `npadv.jacobian` is made.

# %%
xs = Tensor(x, requires_grad=True)
g = np.array([2.0, -1.0])
assert np.allclose(grad(f(xs), xs, g), J.T @ g, atol=1e-8)
assert np.allclose(npadv.jacobian(f(xs), xs), J, atol=1e-8)

# %% [markdown]
# And it never forms J to do so. For tanh alone, applied to a thousand numbers, J has a million elements, all zero but a
# thousand; the rule `g * (1 - y * y)` multiplies by it with a thousand products. A rule is a program for J^T g.
#
# ## 2. Rules on paper
#
# To find a rule, write down how a small change dx changes y, to first order, and then move everything in <g, dy> to the
# side of g until it reads
#
#     <g, dy> = <(the rule), dx>.
#
# **Product**, y = a * b, element by element: dy = b * da + a * db, so <g, dy> = <g * b, da> + <g * a, db>.
#
# **Broadcasting**, y = a repeated along new or stretched axes: each element of a meets every g of its copies, so
# <g, dy> = <sum of g over these axes, da>. **Sum** is the other way round: dy is the sum of dx, so each element of x gets the
# g of its sum, repeated. Each is the other's rule. For a linear map B, the map B* with
#
#     <g, B x> = <B* g, x>      for all x and g
#
# is called its *adjoint*: a linear map's rule is its adjoint, and the adjoint's rule is the map. The equation is also a test:
# draw x and g at random and compare two numbers. It needs neither derivatives nor step sizes.

# %%
x, g = rng.standard_normal((3, 1)), rng.standard_normal((2, 3, 4))
stretched = ops.broadcast_to(x, shape=(2, 3, 4))
assert np.isclose(dot(g, stretched), dot(ops.sum_to(g, shape=(3, 1)), x))

# Picking elements has adding them back as its adjoint; an element that was picked twice receives both.
x, g, index = rng.standard_normal(5), rng.standard_normal(4), np.array([3, 0, 3, 1])
assert np.isclose(dot(g, ops.getitem(x, index=index)), dot(ops.scatter_add(g, index=index, shape=(5,)), x))

# %% [markdown]
# **Matrix product**, Y = A B. For matrices <P, Q> = trace(P^T Q), and a trace does not change when its factors rotate:
#
#     <G, dA B> = trace(G^T dA B) = trace(B G^T dA) = <G B^T, dA>,
#     <G, A dB> = trace(G^T A dB)                   = <A^T G, dB>.
#
# If you forget which factor is transposed, the shapes tell you, unless the matrices are square.

# %%
A, B, G = rng.standard_normal((3, 4)), rng.standard_normal((4, 5)), rng.standard_normal((3, 5))
a, b = Tensor(A, requires_grad=True), Tensor(B, requires_grad=True)
by_tape = grad(a @ b, [a, b], G)
assert np.allclose(by_tape[0], G @ B.T)
assert np.allclose(by_tape[1], A.T @ G)
assert np.isclose(dot(G, A @ B), dot(G @ B.T, A))  # the product is linear in A: the dot-product test holds

# %% [markdown]
# **Log-sum-exp**, y = log(sum_j exp(x_j)): dy = sum_j exp(x_j) dx_j / sum_k exp(x_k) = <softmax(x), dx>, so the rule is
# g softmax(x). Since y is there already, softmax(x) = exp(x - y) costs one exponential, and that one cannot overflow: y is at
# least as large as every x_j. (In the forward direction, the largest x_j is taken out first: `ops/reduce.py`.)

# %%
x = np.array([1000.0, 999.0, -1000.0])
xs = Tensor(x, requires_grad=True)
softmax = grad(ops.logsumexp(xs), xs)
assert np.allclose(softmax, [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0.0])
with np.errstate(over="ignore", invalid="ignore"):
    naive = np.exp(x) / np.exp(x).sum()
assert np.isnan(naive[0])  # infinity / infinity

# %% [markdown]
# **Maximum.** y = max_j x_j follows its largest element, so that one gets all of g and the others nothing. Where two are
# largest there is no derivative: raising either raises y, lowering one alone does not lower it. A rule must still say
# something. Any weights s, non-negative and with the sum 1, on the largest elements make a *subgradient*, that is
# max(x + d) >= max(x) + <s, d> for every d. npadv gives all to the first; others share. Neither is wrong, but a library
# should do one, always, and say which.

# %%
x = np.array([2.0, 5.0, 5.0])
xs = Tensor(x, requires_grad=True)
assert grad(ops.max(xs), xs).tolist() == [0.0, 1.0, 0.0]
for s in (np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.5, 0.5])):
    assert all((x + d).max() >= x.max() + s @ d - 1e-12 for d in rng.standard_normal((200, 3)))

# %% [markdown]
# **Convolution.** For images x (N, C, H, W) and filters w (K, C, KH, KW),
#
#     y[n,k,a,b] = sum over c, i, j of  w[k,c,i,j] x[n,c,a+i,b+j].
#
# Take <g, y> and you have a sum over n, k, c, a, b, i, j of a product of three numbers, g, w and x. It is linear in each of the
# three. Its derivative in x collects, for each pixel, what it was multiplied with; likewise in w; and in g, which gives y. The
# three are one set of loops in which another of the three stands on the left.


# %%
def taps(g_shape, w_shape):
    """Yield the places in x, w and g that belong together."""
    (n, _, oh, ow), (k, c, kh, kw) = g_shape, w_shape
    for n_, k_, c_, a, b, i, j in np.ndindex(n, k, c, oh, ow, kh, kw):
        yield (n_, c_, a + i, b + j), (k_, c_, i, j), (n_, k_, a, b)


def convolve(x, w, g_shape):
    y = np.zeros(g_shape)
    for at_x, at_w, at_g in taps(g_shape, w.shape):
        y[at_g] += w[at_w] * x[at_x]
    return y


def convolve_input_grad(g, w, x_shape):
    dx = np.zeros(x_shape)
    for at_x, at_w, at_g in taps(g.shape, w.shape):
        dx[at_x] += w[at_w] * g[at_g]
    return dx


def convolve_weight_grad(x, g, w_shape):
    dw = np.zeros(w_shape)
    for at_x, at_w, at_g in taps(g.shape, w_shape):
        dw[at_w] += x[at_x] * g[at_g]
    return dw


x, w, g = rng.standard_normal((2, 3, 5, 6)), rng.standard_normal((4, 3, 2, 3)), rng.standard_normal((2, 4, 4, 4))
y, dx, dw = convolve(x, w, g.shape), convolve_input_grad(g, w, x.shape), convolve_weight_grad(x, g, w.shape)
assert np.isclose(dot(g, y), dot(dx, x))
assert np.isclose(dot(g, y), dot(dw, w))  # one number, in three ways

# %% [markdown]
# So the gradient of a convolution needs no new idea at any order: differentiate one of the three and you get the other two.
# `npadv/ops/conv.py` has them as three primitives, and their rules say exactly this. They are faster than our loops (the sums
# become one matrix product), and the same.

# %%
xs, ws = Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)
assert np.allclose(ops.conv2d(x, w), y)
for by_loops, by_rule in zip((dx, dw), grad(ops.conv2d(xs, ws), [xs, ws], g), strict=True):
    assert np.allclose(by_loops, by_rule)

# %% [markdown]
# ## 3. Numeric derivatives
#
# The witness against a rule is a difference. The obvious one, and the better one, have the errors (from Taylor's series)
#
#     forward    (f(x + h) - f(x)) / h           = f'(x) + h/2 f''(x)    + ...
#     central    (f(x + h) - f(x - h)) / (2 h)   = f'(x) + h^2/6 f'''(x) + ...
#
# called *truncation* errors, which ask for a small h. But f is only known to about u |f|, where u is the spacing of
# floating-point numbers near 1 (2.2e-16 in float64), and the difference divides that by h: a *rounding* error of about
# u |f| / h, which asks for a large h. Their sum is least, for the central difference, where its derivative in h is zero:
#
#     h^2/6 |f'''| + u |f| / h   is least at   h = (3 u |f / f'''|)^(1/3),
#
# about u^(1/3), with an error of about u^(2/3); for the forward difference it is h = sqrt(2 u |f / f''|), about u^(1/2),
# with an error of about u^(1/2). For f = exp, f and all its derivatives are equal, so the fractions are 1. Measure it: the
# median relative error over 400 points.

# %%
points = rng.uniform(0.5, 2.0, 400)


def relative_errors(h, dtype):
    x, h = points.astype(dtype), dtype(h)
    forward = (np.exp(x + h) - np.exp(x)) / h
    central = (np.exp(x + h) - np.exp(x - h)) / (2 * h)
    exact = np.exp(x.astype(np.float64))  # the derivative of exp
    return [float(np.median(abs(d - exact) / exact)) for d in (forward, central)]


steps = 10.0 ** -np.arange(1, 12.5, 0.5)
error = np.array([relative_errors(h, np.float64) for h in steps])  # (steps, 2)

print("  step   forward  central     forward o, central x: digits that are right")
for step, (forward, central) in zip(steps[::2], error[::2], strict=True):
    line = [" "] * 36
    line[int(-3 * np.log10(forward))] = "o"
    line[int(-3 * np.log10(central))] = "x"
    print(f"{step:7.0e}  {forward:7.0e}  {central:7.0e}     |{''.join(line).rstrip()}")

# %% [markdown]
# The picture is a V on its side: digits are gained down to the best step and lost below it. All that was claimed can be read
# off: the slopes (halving h halves the forward error and quarters the central one; below the best step, it doubles both),
# where the best steps lie, and how good the best is.

# %%
u = np.finfo(np.float64).eps
best = error.argmin(axis=0)
for k, theory in enumerate([(2 * u) ** (1 / 2), (3 * u) ** (1 / 3)]):
    assert theory / 10 < steps[best[k]] < theory * 10
    print(f"{('forward', 'central')[k]}: best step {steps[best[k]]:.0e}, theory {theory:.0e}")
assert u ** (1 / 2) / 10 < error[best[0], 0] < u ** (1 / 2) * 10
assert u ** (2 / 3) / 10 < error[best[1], 1] < u ** (2 / 3) * 10


def slope(k, largest, smallest):
    chosen = (steps <= largest * 1.01) & (steps >= smallest * 0.99)
    return np.polyfit(np.log(steps[chosen]), np.log(error[chosen, k]), 1)[0]


assert abs(slope(0, 1e-1, 1e-6) - 1) < 0.1  # truncation: error proportional to h ...
assert abs(slope(1, 1e-1, 1e-4) - 2) < 0.1  # ... and to h^2
assert abs(slope(1, 1e-7, 1e-12) + 1) < 0.3  # rounding: error proportional to 1/h ...
assert abs(slope(0, 1e-9, 1e-12) + 1) < 0.3  # ... for both

# %% [markdown]
# In float32 (u = 1.2e-7) the same theory promises no more than four or five digits, and an error of 1.001 in a rule would
# hide among them if a few roundings add up. That is why `check_grads` insists on float64, with a step of 1e-6.

# %%
u32 = float(np.finfo(np.float32).eps)
best_in_float32 = min(relative_errors(h, np.float32)[1] for h in steps[:12])
assert u32 ** (2 / 3) / 10 < best_in_float32 < u32 ** (2 / 3) * 10
assert best_in_float32 > 1e4 * error[best[1], 1]
print(f"best central difference: {error[best[1], 1]:.0e} in float64, {best_in_float32:.0e} in float32")

# %% [markdown]
# ## 4. One number instead of a matrix
#
# To compare a whole Jacobian with differences takes two evaluations per element of x; for an image and a network, too many.
# Instead draw a direction u in x and weights v in y at random, and compare one number,
#
#     <v, J u>  =  <v, (f(x + h u) - f(x - h u)) / 2h>    from values: two evaluations,
#               =  <J^T v, u>                             from the rules: one walk.
#
# If the rules compute another matrix J', the two differ by <v, D u> with D = J' - J. Can a wrong D hide? With v and u normal
# and independent, <v, D u> is zero with probability 0 unless D = 0, and the mean of its square is the sum of the squares of
# all elements of D. So an error shows at about its true size, wherever it sits in the matrix.

# %%
D = np.zeros((30, 40))
D[17, 23] = 0.001  # one wrong derivative among 1,200
D[3] = 0.0002
u, v = rng.standard_normal((20_000, 40)), rng.standard_normal((20_000, 30))
projections = np.einsum("si,ij,sj->s", v, D, u, optimize=True)
assert (projections != 0).all()
assert abs((projections**2).mean() / (D**2).sum() - 1) < 0.2
print(f"size of the error {np.sqrt((D**2).sum()):.2e}, of its projections {np.sqrt((projections**2).mean()):.2e}")

# %% [markdown]
# That is `npadv.testing.check_grads`. And since `grad` with `create_graph=True` is itself a function made of primitives,
# `check_grads` turns around and checks *its* gradient in the same way: the second order, which tests every rule's own
# derivative.

# %%
x, w = rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
check_grads(lambda x, w: ops.logsumexp(ops.tanh(x @ w), axis=1), [x, w])

# %% [markdown]
# ## 5. Planting wrong rules
#
# A test that has never failed has not been tested. Here are some ways to be wrong, planted one at a time into a right
# operation, and what the check says. `planted` makes a primitive with the rules we give it; `caught` tells at which order the
# check objects, 0 if it does not.


# %%
def planted(forward, *rules):
    wrong = primitive(forward)
    defvjp(wrong, *rules)
    return wrong


def caught(function, *args, order=2):
    try:
        check_grads(function, args, order=order)
    except AssertionError as error_message:
        return int(str(error_message)[len("order ")])
    return 0


x = np.array([0.3, -1.2, 0.8])
square_a, square_b = rng.standard_normal((3, 3)), rng.standard_normal((3, 3))


def forward(x):
    return np.tanh(x)


def product(a, b):
    return a @ b


def plus(a, b):
    return a + b


not_transposed = planted(
    product,
    lambda g, y, a, b: ops.matmul(g, b),  # should be g b^T
    lambda g, y, a, b: ops.matmul(ops.transpose(a), g),
)
not_summed = planted(plus, lambda g, y, a, b: g, lambda g, y, a, b: g)
cosine_with_a_wrong_rule = planted(lambda x: np.cos(x), lambda g, y, x: g * ops.sign(x))

outcomes = {
    "right": caught(planted(forward, lambda g, y, x: g * (1 - y * y)), x),
    "wrong sign": caught(planted(forward, lambda g, y, x: -g * (1 - y * y)), x),
    "off by 1.001": caught(planted(forward, lambda g, y, x: 1.001 * g * (1 - y * y)), x),
    "forgets g": caught(planted(forward, lambda g, y, x: 1 - y * y), x),
    "not transposed": caught(not_transposed, square_a, square_b),
    "not summed": caught(not_summed, square_a, square_b[0]),
    "detached": caught(planted(forward, lambda g, y, x: g * (1 - np.tanh(npadv.autodiff.value_of(x)) ** 2)), x),
    "borrows a wrong rule": caught(planted(lambda x: np.sin(x), lambda g, y, x: g * cosine_with_a_wrong_rule(x)), x),
}
for fault, found in outcomes.items():
    print(f"{fault:21s} {'passes' if found == 0 else f'caught at order {found}'}")
assert outcomes.pop("right") == 0
assert set(outcomes.values()) == {1, 2}
assert outcomes["detached"] == outcomes["borrows a wrong rule"] == 2

# %% [markdown]
# The last two are the interesting ones. The *detached* rule computes the right number from arrays, so every first derivative
# is right, and a network trains. But it has cut the thread from x to the derivative, and whoever differentiates again gets
# zero, or too little, without a word. The other is right in itself and relies on something that is not. Only the second order
# sees either.
#
# Also note "forgets g". Had we only ever checked scalar losses with the cotangent 1, this rule would have passed; it is the
# random v that finds it. Random numbers do more of the work than it seems:

# %%
forgets_g = planted(forward, lambda g, y, x: 1 - y * y)
xs = Tensor(x, requires_grad=True)
assert np.allclose(grad(ops.sum(forgets_g(xs)), xs), 1 - np.tanh(x) ** 2)  # g is all ones here, so nothing is missing

symmetric = square_b + square_b.T
assert caught(lambda a: not_transposed(a, symmetric), square_a, order=1) == 0  # nor is a transpose, here

# %% [markdown]
# What the check cannot do, you have to know. It looks only where you point it; it wants f smooth there; and it allows an
# absolute error of 1e-7, for the differences' own rounding, so it is blind to rules whose whole effect is smaller. Scale what
# you test to the size of 1.

# %%
half_right = planted(lambda x: np.maximum(x, 0), lambda g, y, x: g)  # a ReLU that lets everything through
assert caught(half_right, np.array([0.5, 2.0])) == 0  # tested on one side only
assert caught(half_right, np.array([0.5, -2.0])) == 1

# At a tie a central difference says the mean of what the two sides say: it blames a rule that has chosen one.
tie, direction = np.array([5.0, 5.0]), np.array([1.0, -3.0])
difference = ((tie + h * direction).max() - (tie - h * direction).max()) / (2 * h)
assert np.isclose(difference, direction.mean())
assert caught(ops.max, tie) == 1
assert caught(ops.max, np.array([5.0, 5.1])) == 0

tiny = planted(lambda x: 1e-9 * x * x, lambda g, y, x: -2e-9 * g * x)  # a wrong sign, in a whisper
assert caught(tiny, x) == 0
assert caught(lambda x: 1e9 * tiny(x), x) == 1

# %% [markdown]
# ## 6. A primitive of your own
#
# Suppose a loss needs log(1 - exp(-x)) for x > 0. Composed of the operations that exist, it is inaccurate where x is small,
# because 1 - exp(-x) cancels; below 1e-16 it is minus infinity. Two better formulas exist, each good on one side of log 2
# (Mächler 2012):
#
#     log(-expm1(-x))       for x < log 2,       expm1(t) = exp(t) - 1, computed without cancellation
#     log1p(-exp(-x))       otherwise,           log1p(t) = log(1 + t), likewise.
#
# The derivative is exp(-x) / (1 - exp(-x)). To write it as a rule we may use primitives only, since it will run on Tensors
# when somebody wants second derivatives. The denominator is exp(y), so the whole is
#
#     dy/dx = exp(-x) / exp(y) = exp(-x - y),
#
# which neither cancels nor overflows before its time.

# %%
from npadv.backend import xp_of


@primitive
def log1mexp(x):
    """Return log(1 - exp(-x)) for x > 0, accurate for small x and for large x.

    >>> round(float(log1mexp(np.array(1e-20))), 6)  # log(1e-20), since exp(-x) is nearly 1 - x
    -46.051702
    >>> float(log1mexp(np.array(50.0)) / -np.exp(-50.0))
    1.0
    """
    xp = xp_of(x)  # numpy or cupy, whichever x is of
    small = x < np.log(2)
    elsewhere = xp.where(small, 1.0, x)  # both branches are computed: give this one nothing to stumble over
    return xp.where(small, xp.log(-xp.expm1(-x)), xp.log1p(-xp.exp(-elsewhere)))


defvjp(log1mexp, lambda g, y, x: g * ops.exp(-x - y))

# %% [markdown]
# Now the tests, in the order in which they find things: the examples in its docstring, the check at both orders and on both
# sides of log 2, and the extremes against a formula for the derivative that the rule does not use, 1 / expm1(x).

# %%
import doctest

for examples in doctest.DocTestFinder().find(log1mexp, "log1mexp", module=False, globs=globals()):
    outcome = doctest.DocTestRunner().run(examples)
    assert outcome.attempted == 2
    assert outcome.failed == 0

check_grads(log1mexp, [np.array([0.2, 0.5, 0.9, 3.0])])

x = np.array([1e-20, 1e-12, 0.5, 1.0, 30.0])
xs = Tensor(x, requires_grad=True)
np.testing.assert_allclose(grad(log1mexp(xs), xs, np.ones(5)), 1 / np.expm1(x), rtol=1e-13)

with np.errstate(divide="ignore"):
    naive = ops.log(1 - ops.exp(-x))
assert naive[0] == -np.inf
assert abs(naive[1] - log1mexp(x)[1]) > 1e-6  # at 1e-12 most digits behind the point are gone
assert abs(naive[2] - log1mexp(x)[2]) < 1e-14  # in the middle, all is well

# %% [markdown]
# A primitive that is to stay goes into one of the files of `npadv/ops`, its rule beside it, and into the table of
# `tests/test_primitives.py`, where Hypothesis draws shapes, strides and dtypes for it. A test fails for a primitive that is
# not in the table.

# %% [markdown]
# ## 7. What second derivatives are good for
#
# Where is a network easiest to disturb? Let p(x) be the class probabilities at an image x, and ask how far a small
# perturbation r moves them, measured by the Kullback-Leibler divergence
#
#     D(r) = KL(p(x) || p(x + r)) = sum_k p_k(x) (log p_k(x) - log p_k(x + r)).
#
# D is never negative and D(0) = 0: a minimum, so the gradient at r = 0 is zero and tells nothing. The first term that speaks is
# the second, D(r) = 1/2 <r, H r> + ..., where H is the *Hessian*, the matrix of second derivatives. The worst small
# perturbation of a given l2 length lies along the eigenvector of H with the largest eigenvalue.
#
# For a 28 x 28 image H has 784 x 784 elements. But to find its first eigenvector we need only products H v: start with any v,
# replace it by H v / ||H v||, repeat; what belongs to the largest eigenvalue outgrows the rest. This is *power iteration*.
# And H v is the gradient of the number <grad D, v>: differentiate twice, and no matrix is formed. `npadv.hvp` does it.

# %%
from npadv import nn, optim
from npadv.data import digits
from npadv.functional import kl_divergence
from npadv.functional import softmax as softmax_of
from npadv.train import classification_loss, fit, predict

data = digits()
model = nn.Sequential(nn.Flatten(), nn.Dense(784, 32, rng=rng), nn.Tanh(), nn.Dense(32, 10, rng=rng))
fit(
    model,
    classification_loss,
    data.train,
    optimizer=optim.SGD(model.parameters(), 0.1, momentum=0.9),
    epochs=5,
    rng=rng,
)
logits = predict(model, data.test.images)
accuracy = (logits.argmax(axis=1) == data.test.labels).mean()
print(f"test accuracy {accuracy:.1%}")
assert accuracy > 0.85

least_sure = softmax_of(logits).max(axis=1).argmin()
x = data.test.images[least_sure : least_sure + 1]  # (1, 1, 28, 28)


def divergence(r):
    return kl_divergence(model(x), model(x + r), reduction="sum")


def hessian_times(v):
    r = Tensor(np.zeros_like(x), requires_grad=True)
    return npadv.hvp(divergence(r), r, v)


def unit(v):
    return v / np.linalg.norm(v)


v = unit(rng.standard_normal(x.shape).astype(x.dtype))
for k in range(30):
    Hv = hessian_times(v)
    curvature = dot(v, Hv)
    if k in (0, 1, 2, 4, 9, 19, 29):
        print(f"after {k:2d} iterations: curvature {curvature:.4f}")
    v = unit(Hv)

# %% [markdown]
# Is it the largest? Here H can be written down. D's second derivative at 0 is the *Fisher information*: with J the Jacobian of
# the logits in x (10 x 784) and p the probabilities,
#
#     H = J^T (diag(p) - p p^T) J.

# %%
xs = Tensor(x, requires_grad=True)
z = model(xs)
J = npadv.jacobian(z, xs).reshape(10, 784).astype(np.float64)
p = softmax_of(z.data)[0].astype(np.float64)
H = J.T @ (np.diag(p) - np.outer(p, p)) @ J
np.testing.assert_allclose(hessian_times(v).ravel(), H @ v.ravel(), atol=1e-4 * curvature)
largest = np.linalg.eigvalsh(H)[-1]
assert 0.95 * largest < curvature < 1.0001 * largest
print(f"largest eigenvalue {largest:.4f}")

# %% [markdown]
# Now take a step of length 0.3 that way (the image itself is some 8 long), and steps of the same length at random:

# %%
with npadv.no_record():
    along = max(divergence(0.3 * v).item(), divergence(-0.3 * v).item())
    at_random = [divergence(0.3 * unit(rng.standard_normal(x.shape)).astype(x.dtype)).item() for _ in range(100)]
print(f"divergence along v {along:.4f}, at random {np.mean(at_random):.5f} on average, {max(at_random):.5f} at most")
assert along > 20 * np.mean(at_random)
assert along > max(at_random)
assert 4 < np.linalg.norm(x) < 16

# %% [markdown]
# No label was needed, only the network's own opinion. A network trained not to change its mind along v is trained by *virtual
# adversarial training* ([WG] 1.3.1), which can learn from images nobody has labelled.
#
# One trap, since many implementations have fallen into it. H v can also be had from a difference of gradients,
# (grad D(xi v) - grad D(0)) / xi, and xi = 1e-6 is what one often reads. Section 3 says what happens to that in float32.


# %%
def by_difference(v, xi):
    r = [Tensor((t * v).astype(x.dtype), requires_grad=True) for t in (xi, 0.0)]
    ahead, here = (grad(divergence(r_), r_) for r_ in r)
    return (ahead - here) / x.dtype.type(xi)


guesses = [unit(rng.standard_normal(x.shape).astype(x.dtype)) for _ in range(15)]
products = [hessian_times(guess) for guess in guesses]
wrong_by = {
    xi: np.median(
        [
            np.linalg.norm(by_difference(guess, xi) - Hv) / np.linalg.norm(Hv)
            for guess, Hv in zip(guesses, products, strict=True)
        ]
    )
    for xi in (1e-6, 1e-4, 1e-2)
}
print("; ".join(f"xi = {xi:g}: wrong by {value:.2%}" for xi, value in wrong_by.items()))
assert wrong_by[1e-2] < 0.02
assert wrong_by[1e-6] > 0.3  # mostly rounding

# %% [markdown]
# ## Try it
#
# 1. Write the gelu, x Phi(x) with the normal distribution function Phi, as a primitive. `scipy.special.erf` is no primitive:
#    which part of the derivative must you make one, so that the second order passes?
# 2. Plant a rule whose *third* derivative alone is wrong, and catch it with `check_grads(..., order=3)`.
# 3. Give `planted` a rule for `max` that shares g among ties. What does the difference say now at [5, 5]? And at [5, 5, 5]?
#
# Next: `03_the_fast_gradient_sign.py`, where the gradient in the input is put to use.

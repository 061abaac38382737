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
# The first tutorial built a tape from *rules*. Each is one line that computes the cotangent of an operation's argument from
# the cotangent of its result. How does one find these lines, and how does one know that they are right? A wrong sign shows
# within a minute, because nothing trains. A factor of 1.001 does not show in training, nor does a second derivative that is
# zero by mistake. So we derive rules on paper, compare them with numeric derivatives, and plant wrong rules to see whether the
# comparison finds them. At the end we write a primitive of our own, and use second derivatives to find the direction in which
# a network is easiest to disturb.
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
# All partial derivatives of y in x form the *Jacobian*, the matrix J with J_ij = dy_i / dx_j. Here is a small one, of
# y = tanh(A x) from three numbers to two, with its columns measured one at a time.

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
# the *vector-Jacobian product*. `grad` computes nothing else: given g, it returns J^T g. If g is a row of the identity matrix,
# J^T g is a row of J; `npadv.jacobian` computes J row by row in this way.

# %%
xs = Tensor(x, requires_grad=True)
g = np.array([2.0, -1.0])
assert np.allclose(grad(f(xs), xs, g), J.T @ g, atol=1e-8)
assert np.allclose(npadv.jacobian(f(xs), xs), J, atol=1e-8)

# %% [markdown]
# It never forms J. For tanh of a thousand numbers, J has a million elements, all but a thousand of them zero; the rule
# `g * (1 - y * y)` computes J^T g with a thousand products. A rule is a program for J^T g.
#
# ## 2. Rules on paper
#
# To find a rule, write the change dy of y for a small change dx, to first order. Then move every factor in <g, dy> to the side
# of g until dx stands alone:
#
#     <g, dy> = <(the rule), dx>.
#
# **Product**, y = a * b, element by element: dy = b * da + a * db, so <g, dy> = <g * b, da> + <g * a, db>.
#
# **Broadcasting**, y = a repeated along new or stretched axes: each element of a is multiplied with the g of all its copies,
# so <g, dy> = <sum of g over these axes, da>. **Sum** is the reverse: dy is the sum of dx, so each element of x gets the g of
# its sum, repeated. Each of the two is the rule of the other. For a linear map B, the map B* with
#
#     <g, B x> = <B* g, x>      for all x and g
#
# is called its *adjoint*. The rule of a linear map is its adjoint, and the rule of the adjoint is the map. The equation is
# also a test, which needs no derivatives and no step sizes: draw x and g at random and compare two numbers.

# %%
x, g = rng.standard_normal((3, 1)), rng.standard_normal((2, 3, 4))
stretched = ops.broadcast_to(x, shape=(2, 3, 4))
assert np.isclose(dot(g, stretched), dot(ops.sum_to(g, shape=(3, 1)), x))

# The adjoint of picking elements adds them back; an element that was picked twice receives both contributions.
x, g, index = rng.standard_normal(5), rng.standard_normal(4), np.array([3, 0, 3, 1])
assert np.isclose(dot(g, ops.getitem(x, index=index)), dot(ops.scatter_add(g, index=index, shape=(5,)), x))

# %% [markdown]
# **Matrix product**, Y = A B. For matrices <P, Q> = trace(P^T Q), and a trace does not change when its factors rotate:
#
#     <G, dA B> = trace(G^T dA B) = trace(B G^T dA) = <G B^T, dA>,
#     <G, A dB> = trace(G^T A dB)                   = <A^T G, dB>.
#
# If you forget which factor is transposed, the shapes show it, unless the matrices are square.

# %%
A, B, G = rng.standard_normal((3, 4)), rng.standard_normal((4, 5)), rng.standard_normal((3, 5))
a, b = Tensor(A, requires_grad=True), Tensor(B, requires_grad=True)
by_tape = grad(a @ b, [a, b], G)
assert np.allclose(by_tape[0], G @ B.T)
assert np.allclose(by_tape[1], A.T @ G)
assert np.isclose(dot(G, A @ B), dot(G @ B.T, A))  # the product is linear in A: the dot-product test holds

# %% [markdown]
# **Log-sum-exp**, y = log(sum_j exp(x_j)): dy = sum_j exp(x_j) dx_j / sum_k exp(x_k) = <softmax(x), dx>, so the rule is g
# softmax(x). Since y is known, softmax(x) = exp(x - y) costs one exponential, which cannot overflow: y is at least as large as
# every x_j. (The forward function subtracts the largest x_j first: see `npadv/ops/reduce.py`.)

# %%
x = np.array([1000.0, 999.0, -1000.0])
xs = Tensor(x, requires_grad=True)
softmax = grad(ops.logsumexp(xs), xs)
assert np.allclose(softmax, [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0.0])
with np.errstate(over="ignore", invalid="ignore"):
    naive = np.exp(x) / np.exp(x).sum()
assert np.isnan(naive[0])  # infinity / infinity

# %% [markdown]
# **Maximum.** y = max_j x_j changes with its largest element, so that element gets all of g and the others get nothing. If two
# elements are largest, there is no derivative: raising either raises y, but lowering one alone does not lower it. A rule must
# still return something. Any weights s on the largest elements, non-negative and with the sum 1, form a *subgradient*: then
# max(x + d) >= max(x) + <s, d> for every d. npadv gives all of g to the first largest element; other libraries divide it.
# Both are correct, but a library should always do the same, and document it.

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
# <g, y> is a sum over n, k, c, a, b, i, j of a product of three numbers, from g, w and x. It is linear in each of the three
# arrays. Its derivative in x adds up, for each pixel, the factors by which the pixel was multiplied. The same holds for w, and
# for g, where the derivative is y. The three are the same loops with another array on the left.


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
assert np.isclose(dot(g, y), dot(dw, w))  # the same number, computed from each of the three

# %% [markdown]
# So the gradients of a convolution need no new idea at any order: the derivatives of each of the three are the other two.
# `npadv/ops/conv.py` has them as three primitives, with exactly these rules. They return the same numbers as our loops and are
# faster.

# %%
xs, ws = Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)
assert np.allclose(ops.conv2d(x, w), y)
for by_loops, by_rule in zip((dx, dw), grad(ops.conv2d(xs, ws), [xs, ws], g), strict=True):
    assert np.allclose(by_loops, by_rule)

# %% [markdown]
# ## 3. Numeric derivatives
#
# A rule is tested against a difference. The obvious difference and a better one are, by Taylor's series,
#
#     forward    (f(x + h) - f(x)) / h           = f'(x) + h/2 f''(x)    + ...
#     central    (f(x + h) - f(x - h)) / (2 h)   = f'(x) + h^2/6 f'''(x) + ...
#
# The terms with h are *truncation* errors; they call for a small h. But f is known only to about u |f|, where u is the spacing
# of floating-point numbers near 1 (2.2e-16 in float64), and the difference divides this error by h. The *rounding* error is
# about u |f| / h, which calls for a large h. The sum of both is smallest where its derivative in h is zero. For the central
# difference,
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
# The picture is a V on its side: smaller steps gain digits down to the best step, and lose digits below it. It confirms the
# theory: the slopes (halving h halves the forward error and quarters the central one; below the best step it doubles both),
# the best steps, and the smallest errors.

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
# In float32 (u = 1.2e-7) the same theory gives only four or five digits, and a few roundings together can hide a factor of
# 1.001 in a rule. This is why `check_grads` requires float64, with a step of 1e-6.

# %%
u32 = float(np.finfo(np.float32).eps)
best_in_float32 = min(relative_errors(h, np.float32)[1] for h in steps[:12])
assert u32 ** (2 / 3) / 10 < best_in_float32 < u32 ** (2 / 3) * 10
assert best_in_float32 > 1e4 * error[best[1], 1]
print(f"best central difference: {error[best[1], 1]:.0e} in float64, {best_in_float32:.0e} in float32")

# %% [markdown]
# ## 4. One number instead of a matrix
#
# Comparing a whole Jacobian with differences takes two evaluations for each element of x: too many for an image and a network.
# Instead, draw a direction u in x and weights v in y at random, and compare one number,
#
#     <v, J u>  =  <v, (f(x + h u) - f(x - h u)) / 2h>    from values: two evaluations,
#               =  <J^T v, u>                             from the rules: one walk.
#
# If the rules compute another matrix J', the two numbers differ by <v, D u> with D = J' - J. Could this be zero for a wrong
# matrix? If v and u are normal and independent, <v, D u> is zero with probability 0 unless D = 0, and the mean of its square
# is the sum of the squares of all elements of D. So an error shows at about its true size, wherever it is in the matrix.

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
# This is `npadv.testing.check_grads`. Since `grad` with `create_graph=True` is itself a function of primitives, `check_grads`
# then checks the gradient of *that* function in the same way. This second order tests the derivative of every rule.

# %%
x, w = rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
check_grads(lambda x, w: ops.logsumexp(ops.tanh(x @ w), axis=1), [x, w])

# %% [markdown]
# ## 5. Planting wrong rules
#
# A test that has never failed has not been tested. Here are several mistakes, each planted into a right operation, and the
# result of the check. `planted` makes a primitive with given rules. `caught` returns the order at which the check fails, 0 if
# it passes.


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
    "without g": caught(planted(forward, lambda g, y, x: 1 - y * y), x),
    "not transposed": caught(not_transposed, square_a, square_b),
    "not summed": caught(not_summed, square_a, square_b[0]),
    "detached": caught(planted(forward, lambda g, y, x: g * (1 - np.tanh(npadv.autodiff.value_of(x)) ** 2)), x),
    "uses a wrong rule": caught(planted(lambda x: np.sin(x), lambda g, y, x: g * cosine_with_a_wrong_rule(x)), x),
}
for fault, found in outcomes.items():
    print(f"{fault:21s} {'passes' if found == 0 else f'caught at order {found}'}")
assert outcomes.pop("right") == 0
assert set(outcomes.values()) == {1, 2}
assert outcomes["detached"] == outcomes["uses a wrong rule"] == 2

# %% [markdown]
# The last two are the interesting ones. The *detached* rule computes the right number from arrays, so every first derivative
# is right, and a network trains. But the derivative is no longer recorded as a function of x, so the second derivative is zero
# or too small, without an error. The last rule is right but uses another primitive whose rule is wrong. Only the second order
# finds these two.
#
# Note also "without g". With scalar losses and the cotangent 1, this rule would pass; the random v finds it. The next cell
# shows two mistakes that pass without random numbers:

# %%
without_g = planted(forward, lambda g, y, x: 1 - y * y)
xs = Tensor(x, requires_grad=True)
assert np.allclose(grad(ops.sum(without_g(xs)), xs), 1 - np.tanh(x) ** 2)  # right, since g is all ones here

symmetric = square_b + square_b.T
assert caught(lambda a: not_transposed(a, symmetric), square_a, order=1) == 0  # right, since b equals its transpose

# %% [markdown]
# The check has limits. It tests only the points that you give it. f must be smooth there. It allows an absolute error of 1e-7,
# for the rounding of the differences, so it cannot find a wrong rule whose values are smaller than that. Scale the function to
# values of about 1.

# %%
half_right = planted(lambda x: np.maximum(x, 0), lambda g, y, x: g)  # a ReLU that lets everything through
assert caught(half_right, np.array([0.5, 2.0])) == 0  # tested on one side only
assert caught(half_right, np.array([0.5, -2.0])) == 1

# At a tie, a central difference is the mean of the slopes on both sides: the check fails for a rule that chooses one of them.
# them.
tie, direction = np.array([5.0, 5.0]), np.array([1.0, -3.0])
difference = ((tie + h * direction).max() - (tie - h * direction).max()) / (2 * h)
assert np.isclose(difference, direction.mean())
assert caught(ops.max, tie) == 1
assert caught(ops.max, np.array([5.0, 5.1])) == 0

tiny = planted(lambda x: 1e-9 * x * x, lambda g, y, x: -2e-9 * g * x)  # a wrong sign of a tiny derivative
assert caught(tiny, x) == 0
assert caught(lambda x: 1e9 * tiny(x), x) == 1

# %% [markdown]
# ## 6. A primitive of your own
#
# Suppose a loss needs log(1 - exp(-x)) for x > 0. Composed of existing operations, it is inaccurate for small x, because
# 1 - exp(-x) cancels; below 1e-16 it is minus infinity. There are two better formulas, each accurate on one side of log 2
# (Mächler 2012):
#
#     log(-expm1(-x))       for x < log 2,       expm1(t) = exp(t) - 1, computed without cancellation
#     log1p(-exp(-x))       otherwise,           log1p(t) = log(1 + t), likewise.
#
# The derivative is exp(-x) / (1 - exp(-x)). A rule may use primitives only, since it runs on Tensors when second derivatives
# are computed. The denominator is exp(y), so the derivative is
#
#     dy/dx = exp(-x) / exp(y) = exp(-x - y),
#
# which does not cancel, and overflows only where the derivative itself does.

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
    xp = xp_of(x)  # numpy or cupy, depending on x
    small = x < np.log(2)
    elsewhere = xp.where(small, 1.0, x)  # both branches are computed for all x; this avoids a warning in the second
    return xp.where(small, xp.log(-xp.expm1(-x)), xp.log1p(-xp.exp(-elsewhere)))


defvjp(log1mexp, lambda g, y, x: g * ops.exp(-x - y))

# %% [markdown]
# Now the tests: the examples in the docstring, the check at both orders on both sides of log 2, and extreme arguments, for
# which the gradient is compared with another formula for the derivative, 1 / expm1(x).

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
assert abs(naive[1] - log1mexp(x)[1]) > 1e-6  # at 1e-12, most decimals are wrong
assert abs(naive[2] - log1mexp(x)[2]) < 1e-14  # at 0.5, both are accurate

# %% [markdown]
# To add a primitive to the library, put it and its rule into a file of `npadv/ops`, and add an entry to the table in
# `tests/primitive_table.py`, for which Hypothesis draws shapes, strides and dtypes. A test fails for a primitive that is not
# in the table.

# %% [markdown]
# ## 7. A use of second derivatives
#
# Where is a network easiest to disturb? Let p(x) be the class probabilities at an image x, and ask how far a small
# perturbation r moves them, measured by the Kullback-Leibler divergence
#
#     D(r) = KL(p(x) || p(x + r)) = sum_k p_k(x) (log p_k(x) - log p_k(x + r)).
#
# D is never negative and D(0) = 0: a minimum, so the gradient at r = 0 is zero. The first term of the Taylor series that is
# not zero is the second, D(r) = 1/2 <r, H r> + ..., where H is the *Hessian*, the matrix of second derivatives. The worst
# small perturbation of a given l2 length lies along the eigenvector of H with the largest eigenvalue.
#
# For a 28 x 28 image H has 784 x 784 elements. But to find its first eigenvector we need only products H v: start with any v
# and repeatedly replace it by H v / ||H v||. The component with the largest eigenvalue grows fastest and remains. This is
# *power iteration*. H v is the gradient of the number <grad D, v>, so two differentiations compute it and no matrix is formed:
# `npadv.hvp`.

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
# Is this the largest eigenvalue? Here there is a formula for H. The second derivative of D at 0 is the *Fisher information*:
# if J is the Jacobian of the logits in x (10 x 784) and p are the probabilities,
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
# Now take a step of length 0.3 along v (the image itself has a length of about 8), and steps of the same length in random
# directions:

# %%
with npadv.no_record():
    along = max(divergence(0.3 * v).item(), divergence(-0.3 * v).item())
    at_random = [divergence(0.3 * unit(rng.standard_normal(x.shape)).astype(x.dtype)).item() for _ in range(100)]
print(f"divergence along v {along:.4f}, at random {np.mean(at_random):.5f} on average, {max(at_random):.5f} at most")
assert along > 20 * np.mean(at_random)
assert along > max(at_random)
assert 4 < np.linalg.norm(x) < 16

# %% [markdown]
# This needed no label, only the network's predicted distribution. *Virtual adversarial training* ([WG] 1.3.1) trains a network
# to predict the same distribution along v, so it can learn from images without labels.
#
# Many implementations contain one mistake here. H v can also be computed from a difference of gradients,
# (grad D(xi v) - grad D(0)) / xi, often with xi = 1e-6. By section 3, this step is too small in float32.


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
#    which part of the derivative must be a primitive, so that the second order passes?
# 2. Plant a rule whose *third* derivative alone is wrong, and catch it with `check_grads(..., order=3)`.
# 3. Give `planted` a rule for `max` that divides g among ties. Does the check pass now at [5, 5]? And at [5, 5, 5]?
#
# Next: `03_the_fast_gradient_sign.py`, which uses the gradient in the input.

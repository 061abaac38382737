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
# # A tape in fifty lines
#
# A neural network is a long calculation that ends in one number, the loss. To train or attack a network, we need to know how
# the loss changes when one of the inputs or weights changes a little: the *gradient*. This tutorial builds a program that
# computes the gradient of any calculation, with NumPy alone, in at most fifty lines (the cells tagged `core` are the program,
# and the tutorial counts them). We train a network with it. Then we open the library's version, `npadv/autodiff/`; you will
# recognise every part of it, and see what the library adds and why.
#
# You need Python, NumPy and the chain rule. One piece of notation: if L is the loss, a single number, and `v` is any array
# in the calculation, then
#
#     g = dL/dv
#
# is an array of `v`'s shape. It holds, for each element of `v`, the derivative of L with respect to that element. It is called
# the *cotangent* of `v`; for an input or a weight it is called the *gradient*.

# %% [markdown]
# ## 1. The chain rule is bookkeeping
#
# Take a small calculation, and give every intermediate result a name.

# %%
a, b = 2.0, -3.0
c = a * b
d = c + a
L = d * d


# %% [markdown]
# Now read it backwards. L changes by `2 d` for each unit of `d`; `d` changes by 1 for each unit of `c`; and so on down.
# Write g_v for dL/dv:

# %%
g_L = 1.0
g_d = g_L * 2 * d  # from L = d * d
g_c = g_d * 1  # from d = c + a
g_a = g_d * 1  # from d = c + a, a's second use
g_b = g_c * a  # from c = a * b
g_a = g_a + g_c * b  # from c = a * b, a's first use: the contributions of both uses are added


def by_hand(a, b):
    return (a * b + a) ** 2


h = 1e-6  # a numeric derivative agrees; tutorial 2 is about how well
assert abs(g_a - (by_hand(a + h, b) - by_hand(a - h, b)) / (2 * h)) < 1e-6
assert abs(g_b - (by_hand(a, b + h) - by_hand(a, b - h)) / (2 * h)) < 1e-6
print(f"dL/da = {g_a:g}, dL/db = {g_b:g}")

# %% [markdown]
# Three observations contain the whole design.
#
# 1. Each line of the backward pass belongs to one line of the forward pass. It needs only that line's arguments, and the
#    cotangent of its result. So one *rule* for `*` and one for `+` are enough, once and for all.
# 2. The lines run in reverse: `d`'s cotangent must be complete before it is passed on to `c` and `a`.
# 3. `a` was used twice, and its two contributions were added.
#
# We still need a record of the lines that were run. The next section builds it.

# %% [markdown]
# ## 2. A record
#
# A `Tensor` is an array with a record of its origin: the arguments it was computed from, the rules of the operation that
# computed it, and the time on a clock that counts Tensors. A Tensor made by hand has no arguments; it is called a *leaf*.
#
# A *primitive* is an operation that leaves such a record. We turn a plain function of arrays into a primitive by giving it
# its rules, one for each argument. A rule is called as `rule(g, y, *args)` with plain arrays: the cotangent of the result, the
# result itself, and the arguments. It returns the cotangent of its argument.

# %% tags=["core"]
import heapq
import itertools

import numpy as np

clock = itertools.count()


class Tensor:
    __array_ufunc__ = None  # so that array * Tensor calls the Tensor's method

    def __init__(self, data, rules=(), args=()):
        self.data, self.rules, self.args, self.order = np.asarray(data, dtype=float), rules, args, next(clock)


def primitive(*rules):
    def decorate(forward):
        def apply(*args):
            args = [a if isinstance(a, Tensor) else Tensor(a) for a in args]
            return Tensor(forward(*[a.data for a in args]), rules, args)

        return apply

    return decorate


# %% [markdown]
# ## 3. The rules
#
# Six primitives are enough for a network. To find a rule, write the change `dy` of the result for a small change `dx` of an
# argument; the factor of `dx`, times g, is the rule. (Tutorial 2 derives the rules and tests them.)
#
#     y = a + b           dy = da + db                     g_a = g             g_b = g
#     y = a * b           dy = b da + a db                 g_a = g b           g_b = g a
#     y = a @ b           dy = da @ b + a @ db             g_a = g b^T         g_b = a^T g
#     y = tanh(x)         dy = (1 - tanh(x)^2) dx          g_x = g (1 - y^2)
#     y = sum(x)          dy = sum(dx)                     g_x = g, for each element
#     y = log sum exp(x)  dy = sum(softmax(x) dx)          g_x = g softmax(x), with softmax(x) = exp(x - y)
#
# One complication: NumPy *broadcasts*. In `x @ w + b` the same bias row is added to every example of the batch, so each
# element of `b` is used many times, and by observation 3 its contributions must be added. `sum_to` does this: it sums over
# the axes along which an argument of the given shape was stretched.


# %% tags=["core"]
def sum_to(g, shape):
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


@primitive(lambda g, y, a, b: sum_to(g, a.shape), lambda g, y, a, b: sum_to(g, b.shape))
def add(a, b):
    return a + b


@primitive(lambda g, y, a, b: sum_to(g * b, a.shape), lambda g, y, a, b: sum_to(g * a, b.shape))
def multiply(a, b):
    return a * b


@primitive(lambda g, y, a, b: g @ b.T, lambda g, y, a, b: a.T @ g)
def matmul(a, b):
    return a @ b


@primitive(lambda g, y, x: g * (1 - y * y))
def tanh(x):
    return np.tanh(x)


@primitive(lambda g, y, x: g[:, None] * np.exp(x - y[:, None]))
def logsumexp(x):  # (N, K) to (N,)
    return np.logaddexp.reduce(x, axis=1)


@primitive(lambda g, y, x: g * np.ones_like(x))
def total(x):
    return x.sum()


Tensor.__add__ = Tensor.__radd__ = add
Tensor.__mul__ = Tensor.__rmul__ = multiply
Tensor.__matmul__ = matmul

# %% [markdown]
# The operators now leave records:

# %%
x = Tensor([1.0, 2.0])
y = total(x * x)
product = y.args[0]
assert product.args == [x, x]  # x * x has recorded x, twice
assert x.order < product.order < y.order  # and the clock has recorded the order
print(f"y = {y.data}, made from {product.data}, made from {x.data}")


# %% [markdown]
# ## 4. Walking back
#
# Start at `y` with the cotangent 1 (dy/dy). Of all tensors whose cotangent we have and have not yet passed on, take the
# youngest. Its rules compute contributions to its arguments' cotangents; add these to the cotangents that we have. Stop when
# no tensor is left.


# %% tags=["core"]
def gradient(y, wrt):
    g, waiting = {y: np.ones_like(y.data)}, [(-y.order, y)]
    while waiting:
        node = heapq.heappop(waiting)[1]  # the youngest
        for rule, a in zip(node.rules, node.args, strict=True):
            share = rule(g[node], node.data, *[b.data for b in node.args])
            if a not in g:
                heapq.heappush(waiting, (-a.order, a))
            g[a] = g[a] + share if a in g else share
    return [g[w] for w in wrt]


# %%
a, b = Tensor(2.0), Tensor(-3.0)
c = a * b
d = c + a
assert gradient(d * d, [a, b]) == [g_a, g_b]  # what we found by hand

assert np.array_equal(gradient(y, [x])[0], 2 * x.data)

# %% [markdown]
# This is reverse-mode automatic differentiation, or *backpropagation*. The record is often called a *tape*, since it is
# played backwards. Is it at most fifty lines? Count the lines of the tagged cells, without blank lines and comments.


# %%
def lines_of_core(source):
    cells = source.split("\n# %%")
    core = [cell.split("\n")[1:] for cell in cells if cell.startswith(' tags=["core"]')]
    return [line for cell in core for line in cell if line.strip() and not line.lstrip().startswith("#")]


if "__file__" in globals():  # a notebook has no __file__
    with open(__file__, encoding="utf-8") as file:
        count = len(lines_of_core(file.read()))
    print(f"the tape has {count} lines")
    assert count <= 50

# %% [markdown]
# ## 5. Why like this?
#
# Each part could have been designed differently. Small experiments show the costs of the alternatives.
#
# **Why a walk over records, and not over paths?** The chain rule in a textbook sums over all paths from `x` to `y`. Doubling
# a number n times, each time as `x + x`, makes n records and 2^n paths.


# %%
def doubled(x, n):
    for _ in range(n):
        x = x + x
    return x


def by_paths(y, x):
    """Return dy/dx of a scalar as the sum over all paths, and how many rules that took."""
    if y is x:
        return 1.0, 0
    derivative, calls = 0.0, 0
    for rule, a in zip(y.rules, y.args, strict=True):
        rest, more = by_paths(a, x)
        derivative += rest * rule(np.array(1.0), y.data, *[b.data for b in y.args])
        calls += more + 1
    return derivative, calls


x = Tensor(1.0)
derivative, calls = by_paths(doubled(x, 10), x)
assert derivative == gradient(doubled(x, 10), [x])[0] == 2**10
assert calls == 2 * (2**10 - 1)  # where the tape calls 2 * 10 rules
assert gradient(doubled(x, 60), [x])[0] == 2.0**60  # 2^60 paths would take centuries
print(f"10 doublings: {calls} rules over paths, 20 over records")

# %% [markdown]
# **Why in order of creation?** A tensor may pass its cotangent on only when it is complete, that is, after all tensors that
# were computed from it. These were all created later, since arguments exist before results. So "youngest first" is always
# right, and a clock is all it needs. Taking tensors in the order in which the walk *meets* them is wrong:


# %%
def gradient_first_met_first(y, wrt):
    g, waiting = {y: np.ones_like(y.data)}, [y]
    while waiting:
        node = waiting.pop(0)  # the only changed line
        for rule, a in zip(node.rules, node.args, strict=True):
            share = rule(g[node], node.data, *[b.data for b in node.args])
            if a not in g:
                waiting.append(a)
            g[a] = g[a] + share if a in g else share
    return [g[w] for w in wrt]


x = Tensor(0.5)
b = 3.0 * x
y = b + tanh(b)  # the walk meets b at once, but tanh(b) has another contribution to b
right = 3 * (1 + (1 - np.tanh(1.5) ** 2))
assert np.isclose(gradient(y, [x])[0], right)
assert gradient_first_met_first(y, [x])[0] == 3.0  # b passed on its cotangent before the second contribution
print(f"dy/dx = {gradient(y, [x])[0]:.4f}; first met, first served: {gradient_first_met_first(y, [x])[0]:.4f}")


# %% [markdown]
# **Why not recursion?** The usual algorithm for an order visits a tensor's arguments recursively before the tensor itself.
# Python allows about a thousand nested calls; an attack or a recurrent network easily has more steps than that.

# %%
import sys


def visit(node, seen, order):
    if node not in seen:
        seen.add(node)
        for a in node.args:
            visit(a, seen, order)
        order.append(node)


x = Tensor(1.0)
y = x
for _ in range(2 * sys.getrecursionlimit()):
    y = y + 1.0

try:
    visit(y, set(), [])
    raise AssertionError("expected a RecursionError")
except RecursionError:
    print(f"recursion gave up before {2 * sys.getrecursionlimit()} steps; the walk did not")
assert gradient(y, [x])[0] == 1.0

# %% [markdown]
# **Why not a closure per result?** A well-known small design lets each operation define a function `backward()` that reads
# the cotangent of its own result. The result then refers to the function and the function refers to the result: a *reference
# cycle*. Python frees an object at once when no reference to it is left. In a cycle a reference is always left, so the arrays
# wait for the garbage collector, which counts objects and not megabytes. Our records refer only to older tensors.

# %%
import gc
import weakref


class Closing:
    def __init__(self, data):
        self.data, self.grad, self.backward = data, 0.0, lambda: None

    def double(self):
        out = Closing(2 * self.data)

        def backward():
            self.grad += 2 * out.grad  # out.backward -> this function -> out

        out.backward = backward
        return out


def results_left_behind(leaf, double, steps=100):
    """Compute and drop a result many times; return how many are still in memory."""
    results = [weakref.ref(double(leaf)) for _ in range(steps)]
    return sum(result() is not None for result in results)


gc.collect()
gc.disable()  # the collector could run at any time and change the counts
with_cycles = results_left_behind(Closing(np.zeros(1000)), Closing.double)
without = results_left_behind(Tensor(np.zeros(1000)), lambda leaf: leaf + leaf)
gc.enable()
assert (with_cycles, without) == (100, 0)
print(f"of 100 dropped results, still in memory: {with_cycles} with closures, {without} with records")

# %% [markdown]
# **Why a dictionary of cotangents, and not an attribute `grad` on each tensor?** Because the dictionary belongs to one walk
# and is freed with it. Two walks over one record cannot add to each other's numbers, and nothing must be reset to zero between
# them. The gradient of an input changes nothing in the weights, which is exactly what an attack needs.

# %%
x = Tensor(3.0)
y = x * x
assert gradient(y, [x]) == gradient(y, [x]) == [6.0]

# %% [markdown]
# ## 6. Training a network
#
# Fifty lines are enough to train a network. scikit-learn contains 1,797 handwritten digits; `npadv.data` returns them as 28 x
# 28 images with pixels in [0, 1]. The network has one hidden layer of 32 tanh units. It returns *logits* z, one number per
# class; the probability of class k is softmax(z)_k = exp(z_k) / sum_j exp(z_j).
#
# The loss is the mean *cross-entropy*, -log(probability of the right class), over the N examples of a batch:
#
#     -log softmax(z)_y = log(sum_j exp(z_j)) - z_y.

# %%
from npadv.data import digits

data = digits()
train_x, train_y = data.train.images.reshape(-1, 784).astype(float), data.train.labels
test_x, test_y = data.test.images.reshape(-1, 784).astype(float), data.test.labels


def network(x, parameters):
    w1, b1, w2, b2 = parameters
    return tanh(x @ w1 + b1) @ w2 + b2


def mean_cross_entropy(z, y):
    right = np.eye(10)[y]  # (N, 10), one where the right class is
    return (total(logsumexp(z)) + total(z * -right)) * (1 / len(y))


def error(parameters):
    return float((network(Tensor(test_x), parameters).data.argmax(axis=1) != test_y).mean())


rng = np.random.default_rng(0)
shapes = [(784, 32), (32,), (32, 10), (10,)]
parameters = [
    Tensor(rng.normal(0, shape[0] ** -0.5, shape) if len(shape) == 2 else np.zeros(shape)) for shape in shapes
]

print(f"before: test error {error(parameters):.1%}")
for epoch in range(8):
    losses = []
    for batch in rng.permutation(len(train_x)).reshape(-1, 50):  # 1,500 examples: 30 batches
        loss = mean_cross_entropy(network(Tensor(train_x[batch]), parameters), train_y[batch])
        for p, g in zip(parameters, gradient(loss, parameters), strict=True):
            p.data -= 0.3 * g
        losses.append(loss.data)
    print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, test error {error(parameters):.1%}")
assert error(parameters) < 0.1

# %% [markdown]
# Is the gradient right, or merely good enough for training? Many wrong gradients are good enough. Here is npadv's gradient for
# the same weights and the same batch; the last bits differ, since npadv sums in another order.

# %%
import npadv
from npadv.functional import cross_entropy

ours = gradient(mean_cross_entropy(network(Tensor(train_x[:50]), parameters), train_y[:50]), parameters)

w1, b1, w2, b2 = theirs = [npadv.Tensor(p.data, requires_grad=True) for p in parameters]
logits = npadv.ops.tanh(train_x[:50] @ w1 + b1) @ w2 + b2
for own, g in zip(ours, npadv.grad(cross_entropy(logits, train_y[:50]), theirs), strict=True):
    np.testing.assert_allclose(own, g, rtol=1e-10, atol=1e-14)
print("the gradients of our tape and of npadv agree")

# %% [markdown]
# ## 7. The library's tape
#
# Open the folder `npadv/autodiff` beside this page. It is the same program:
#
#     here                     there
#     ---------------------    ----------------------------------------------------------------------------------
#     Tensor                   Tensor (tensor.py), with _operation (which has the rules), _args and _order
#     @primitive(rules)        @primitive, and defvjp(function, rules): the same in two steps (primitive.py)
#     apply                    apply, inside primitive: compute, then leave a record
#     gradient                 grad, with _path_between (find the records) and _backward_pass (walk) (gradient.py)
#     sum_to                   sum_to, and unbroadcast, which calls it only where needed (ops/shape.py)
#
# Each difference has a reason, and a short experiment shows it.
#
# **It walks only between `wrt` and `y`.** Our tape computes cotangents for all tensors, constants included. The library first
# finds the records that lead from `wrt` to `y` (`_path_between`) and calls no other rule. The following primitive shows it: it
# returns its argument, and its rule notes each call.

# %%
calls = []


@npadv.primitive
def noting(x):
    return x


npadv.defvjp(noting, lambda g, y, x: (calls.append(type(g).__name__), g)[1])

image, weights = npadv.Tensor([1.0, 2.0], requires_grad=True), npadv.Tensor([3.0, 4.0], requires_grad=True)
loss = (image * noting(weights)).sum()
npadv.grad(loss, image)
assert calls == []  # the input's gradient costs nothing for the weights
npadv.grad(loss, weights)
assert calls == ["ndarray"]

# %% [markdown]
# **Its rules run on arrays or on Tensors.** The rule above was called with an `ndarray`: without a wrapper, without a record.
# But a rule is itself a calculation, such as `g * (1 - y * y)`. Called with Tensors, it leaves records of its own, so that the
# gradient can be differentiated again. `create_graph=True` does this; in `_backward_pass` it is the one line that chooses
# between the record's `_args` and its `_values`.

# %%
npadv.grad(loss, weights, create_graph=True)
assert calls == ["ndarray", "Tensor"]

x = npadv.Tensor(0.7, requires_grad=True)
first = npadv.grad(npadv.ops.tanh(x), x, create_graph=True)
second = npadv.grad(first, x)  # (1 - tanh^2)' = -2 tanh (1 - tanh^2)
t = np.tanh(0.7)
assert np.isclose(first.data, 1 - t**2)
assert np.isclose(second, -2 * t * (1 - t**2))

# %% [markdown]
# **It notices changes in place.** A rule reads its arguments during the walk, which may be long after they were used. If an
# array has been changed in between, our tape computes a wrong derivative:

# %%
x = Tensor([1.0, 2.0])
y = total(x * x)
x.data[0] = 100.0
assert gradient(y, [x])[0][0] == 200.0  # where y was computed, it was 2

# %% [markdown]
# Each of the library's tensors records when it was created (`_order`) and when it was last changed (`_version`), by the same
# clock. If an argument was changed after the record of its use was made, the walk raises an error.

# %%
x = npadv.Tensor([1.0, 2.0], requires_grad=True)
y = (x * x).sum()
x[0] = 100.0
try:
    npadv.grad(y, x)
    raise AssertionError("expected a RuntimeError")
except RuntimeError as error_message:
    print(f"RuntimeError: {error_message}")

# %% [markdown]
# It cannot notice a change of `x.data` itself. Code that changes `x.data` must call `x.mark_changed()`, as the optimizers do.
#
# **A ContextVar switches recording off.** Inference needs no record, so `no_record()` switches recording off. With a global
# variable it would be off in every other thread as well, and it would stay off if an exception came before it is switched on
# again. The value of a ContextVar belongs to one thread or task, and `no_record` always restores it.

# %%
import threading

seen = {}
x = npadv.Tensor(2.0, requires_grad=True)
try:
    with npadv.no_record():
        seen["here"] = (x * x).requires_grad
        other = threading.Thread(target=lambda: seen.update(other_thread=(x * x).requires_grad))
        other.start()
        other.join()
        raise KeyError("an error inside no_record()")
except KeyError:
    seen["after"] = (x * x).requires_grad
assert seen == {"here": False, "other_thread": True, "after": True}

# %% [markdown]
# **It keeps float32.** Our tape converts everything to float64, which takes twice the memory.

# %%
x32 = np.ones(3, dtype=np.float32)
assert (Tensor(x32) * 2.0).data.dtype == np.float64
assert (npadv.Tensor(x32) * 2.0).dtype == np.float32
assert (Tensor(x32) * 2.0).data.nbytes == 2 * x32.nbytes

# %% [markdown]
# **It raises errors instead of returning zeros.** Asking for the gradient of a tensor that was not recorded, or with respect
# to one that `y` does not depend on, is usually a mistake.

# %%
constant, x = npadv.Tensor(1.0), npadv.Tensor(2.0, requires_grad=True)
for y in (constant * 2.0, npadv.Tensor(1.0, requires_grad=True) * 2.0):
    try:
        npadv.grad(y, x)
        raise AssertionError("expected a ValueError")
    except ValueError as error_message:
        print(f"ValueError: {error_message}")

# %% [markdown]
# **It can be replayed.** A tape is a program: a list of operations on arrays, in order. For one image and a small network,
# recording takes as long as the arithmetic, and a loop that computes the gradient of one function at many points makes the
# same record every time. `npadv.Replay` records the function at the first two points, and at a third one of its own. If the
# records are the same, it writes them out as a Python function, with a line for each operation and a line for each rule. From
# the third point on it calls that function, without any Tensor.

# %%
calls = []


def function(x):
    calls.append(x)
    return (npadv.ops.tanh(x) * x).sum()


gradient_of = npadv.Replay(function)
for point in np.random.default_rng(0).normal(size=(10, 3)):
    value, slope = gradient_of(point)
    x = npadv.Tensor(point, requires_grad=True)
    assert np.array_equal(slope, npadv.grad((npadv.ops.tanh(x) * x).sum(), x))  # the same, to the last bit
assert len(calls) == 3
print(gradient_of, gradient_of.program(point), sep="\n\n")

# %% [markdown]
# Why three records? Because one cannot show whether another input would give another record. Try to replay
# `(x * np.sign(x.data)).sum()`: `print` shows where the records differ.

# %% [markdown]
# Now read `npadv/autodiff/tensor.py`, `npadv/autodiff/primitive.py` and `npadv/autodiff/gradient.py`, in this order. `apply`,
# inside `primitive`, is our `apply`, written out for speed. `ancestors` and `_backward_pass` are our `gradient`; the library
# sorts the tensors by `_order`, where ours took them from a heap. The rest is the list above. The rules stand beside their
# operations, in `npadv/ops`.
#
# ## Try it
#
# 1. Our `gradient` cannot be differentiated again. Pass `node` and `node.args` to the rules, in place of their `.data`, and
#    make `g` a Tensor. Which of the six rules now work at once, and which need what `npadv/ops` has (a `sum_to` that is itself
#    a primitive, say)?
# 2. Give the tape a `relu`. What should its rule return at 0? `npadv/ops/elementwise.py` has an answer and a reason.
# 3. Add the set `on_path` of `npadv/autodiff/gradient.py` to `gradient`, and count the rules that training calls with it and
#    without it.
#
# Next: `02_gradient_rules_and_how_to_test_them.py`, on deriving rules and testing them.

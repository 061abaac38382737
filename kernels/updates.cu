// The update rules of npadv/optim.py, in place, each in one pass over memory:
//
//   sgd             g <- g + weight_decay * p,   p <- p - s * g
//   sgd_momentum    ... v <- momentum * v + (1 - dampening) * g,   p <- p - s * v      Nesterov: p - s * (g + momentum * v)
//   adam            ... m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,
//                   p <- p - s / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + epsilon)
//
// s = step size * scale, where the scale is the parameter's own. The numbers that change from step to step are in the
// device's memory, in settings, so that a captured CUDA graph can be replayed while a schedule goes on. The host writes them
// before each step:
//
//   sgd             settings[0] = step size
//   sgd_momentum    settings[0] = step size, [1] = momentum
//   adam            settings[0] = step size, [1] = t, [2] = 1 - b1^t, [3] = 1 - b2^t
//
// They are doubles in either precision: in floats 1 - 0.999^1 would keep three digits. The arithmetic on elements is in
// their own precision and in the order of optim.py. On the CPU the results are NumPy's to the bit; on a GPU they differ by
// rounding, because its compiler fuses a multiplication and an addition into one operation that rounds once.
//
// Every element is independent of the others. NaN in the gradient makes NaN. As array operations momentum is a dozen
// passes over memory; this kernel reads three numbers and writes two, and memory is its limit. The next step would be one
// launch for all parameters: a network has a dozen small ones, for which a launch takes longer than the work.

#include "common.cuh"

// Without weight decay p is left out, because 0 * p would be NaN for an infinite p.
static __device__ real decayed(real g, real p, real weight_decay) {
  return weight_decay != 0 ? g + weight_decay * p : g;
}

extern "C" __global__ void sgd(real* p, const real* g, const double* settings, double scale, real weight_decay,
                               long long n) {
  const real s = real(settings[0] * scale);
  for (long long i = first_index(); i < n; i += all_threads()) p[i] -= s * decayed(g[i], p[i], weight_decay);
}

extern "C" __global__ void sgd_momentum(real* p, const real* g, real* v, const double* settings, double scale,
                                        real undamped, int nesterov, real weight_decay, long long n) {
  const real s = real(settings[0] * scale), momentum = real(settings[1]);
  for (long long i = first_index(); i < n; i += all_threads()) {
    const real gradient = decayed(g[i], p[i], weight_decay);
    const real velocity = momentum * v[i] + undamped * gradient;  // undamped = 1 - dampening
    v[i] = velocity;
    p[i] -= s * (nesterov ? gradient + momentum * velocity : velocity);
  }
}

extern "C" __global__ void adam(real* p, const real* g, real* m, real* v, const double* settings, double scale, real b1,
                                real b2, real rest1, real rest2, real epsilon, real weight_decay, long long n) {
  const real s = real(settings[0] * scale / settings[2]), correction = real(settings[3]);
  for (long long i = first_index(); i < n; i += all_threads()) {
    const real gradient = decayed(g[i], p[i], weight_decay);
    m[i] = b1 * m[i] + rest1 * gradient;  // rest = 1 - b, rounded once
    v[i] = b2 * v[i] + rest2 * gradient * gradient;
    p[i] -= s * m[i] / (sqrt(v[i] / correction) + epsilon);
  }
}

// What an optimizer does with a gradient, in place; the rules of npadv/optim.py in one pass over memory each:
//
//   sgd             g <- g + weight_decay * p,   p <- p - s * g
//   sgd_momentum    ... v <- momentum * v + (1 - dampening) * g,   p <- p - s * v      Nesterov: p - s * (g + momentum * v)
//   adam            ... m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,
//                   p <- p - s / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + epsilon)
//   adam_advance    t <- t + 1,  and the two corrections for it: once a step, before the parameters' turns
//
// s = step size * scale, where the scale is the parameter's own. What changes from step to step is in memory, in settings,
// so that a captured CUDA graph can be replayed while a schedule goes on:
//
//   sgd             settings[0] = step size
//   sgd_momentum    settings[0] = step size, [1] = momentum
//   adam            settings[0] = step size, [1] = t, [2] = 1 - b1^t, [3] = 1 - b2^t
//
// They are doubles in either precision: in floats 1 - 0.999^1 would keep three digits. The arithmetic on elements is in
// their own precision and in the order in which optim.py has it: on the CPU the results are NumPy's to the bit, on a GPU
// to rounding, since there the compiler fuses a multiplication and an addition into one operation that rounds once.
//
// Every element stands alone; a grid-stride loop. NaN in the gradient makes NaN. As array operations momentum is a dozen
// passes over memory. Here it reads three numbers and writes two, and that is what limits it. What is left: one launch
// for all parameters, since a network has a dozen small ones, for which the launch takes longer than the work.

#ifndef real
#define real float  // -Dreal=double compiles the other precision
#endif

static __device__ long long first_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ long long all_threads() { return (long long)gridDim.x * blockDim.x; }

// Without weight decay p is left out of it, as 0 * p would be NaN for an infinite p.
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
    const real slope = decayed(g[i], p[i], weight_decay);
    const real velocity = momentum * v[i] + undamped * slope;  // undamped = 1 - dampening
    v[i] = velocity;
    p[i] -= s * (nesterov ? slope + momentum * velocity : velocity);
  }
}

// One thread.
extern "C" __global__ void adam_advance(double* settings, double b1, double b2) {
  if (first_index() != 0) return;
  settings[1] += 1;
  settings[2] = 1 - pow(b1, settings[1]);
  settings[3] = 1 - pow(b2, settings[1]);
}

extern "C" __global__ void adam(real* p, const real* g, real* m, real* v, const double* settings, double scale, real b1,
                                real b2, real rest1, real rest2, real epsilon, real weight_decay, long long n) {
  const real s = real(settings[0] * scale / settings[2]), correction = real(settings[3]);
  for (long long i = first_index(); i < n; i += all_threads()) {
    const real slope = decayed(g[i], p[i], weight_decay);
    m[i] = b1 * m[i] + rest1 * slope;  // rest = 1 - b, rounded once
    v[i] = b2 * v[i] + rest2 * slope * slope;
    p[i] -= s * m[i] / (sqrt(v[i] / correction) + epsilon);
  }
}

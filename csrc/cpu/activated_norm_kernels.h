// The inner loops of the activated batch norm on the CPU, in the widest vectors of the processor that runs them.

#pragma once

#include "../activated_norm.h"

#include <cstdint>

namespace convbody::cpu::norm {

// Values of type A (float or double) in dense rows: either every column is a channel (`each`), whose parameters and
// results are at the column's index, or there is a single row, of one channel, which has them at index 0.
struct Rows {
  int64_t count, width;
  bool each;
};

// What undoes an activation and gives its slope, all of it from its output.
template <class A>
struct ActivationOf {
  Activation kind;
  A slope;
  A lowest;  // of elu: what an output that has been rounded to -1 counts as
};

// y = activation((x - mean) * scale + bias)
template <class A>
struct ForwardParameters {
  const A *mean, *scale, *bias;
};

// With g the gradient before the activation and z the values there: g * scale + (z - bias) * tilt + shift.
template <class A>
struct BackwardParameters {
  const A *bias, *scale, *tilt, *shift;
};

template <class A>
struct Kernels {
  // The sum over the values of each channel.
  void (*sum)(Rows rows, const A* x, double* to);

  // The same of x - mean and of its square: to[0][..], to[1][..].
  void (*deviations)(Rows rows, const A* x, const A* mean, double* const to[2]);

  // The same of g and of g * (z - bias).
  void (*backward_sums)(Rows rows, const A* grad, const A* y, const A* bias, ActivationOf<A> activation,
                        double* const to[2]);

  void (*forward)(Rows rows, const A* x, ForwardParameters<A> parameters, ActivationOf<A> activation, A* y);
  void (*backward)(Rows rows, const A* grad, const A* y, BackwardParameters<A> parameters,
                   ActivationOf<A> activation, A* grad_x);
};

// The kernels for the processor at hand; A is float or double.
template <class A>
const Kernels<A>& kernels();

}  // namespace convbody::cpu::norm

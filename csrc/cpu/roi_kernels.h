// The inner loops of RoIAlign on the CPU, in the widest vectors of the processor that runs them.

#pragma once

#include <cstdint>

namespace convbody::cpu::roi {

// Runs of values in an image, each with a weight, which the divisor divides: run i begins at data + offsets[i].
template <class A>
struct Runs {
  const int64_t* offsets;
  const A* weights;
  int64_t count;
  A divisor;
};

template <class A>
struct Kernels {
  // to[0..width) = the sum of weight * run, in their order, by the divisor: the mean of equal values is their value.
  void (*combine)(const A* data, Runs<A> runs, int64_t width, A* to);

  // run += weight / divisor * from[0..width), for every run: the transpose of combine().
  void (*spread)(const A* from, Runs<A> runs, int64_t width, A* data);
};

// The kernels for the processor at hand; A is float or double.
template <class A>
const Kernels<A>& kernels();

}  // namespace convbody::cpu::roi

// The inner loop of non-maximum suppression on the CPU, in the widest vectors of the processor that runs it.

#pragma once

#include <cstdint>
#include <type_traits>

namespace convbody::cpu::nms {

inline constexpr int64_t kPadding = 8;  // values behind the last box that may be read, and flags written

template <class A>
struct Boxes {
  const A *x1, *y1, *x2, *y2, *area;
};

// As wide as the values that are compared: all bits set, or none.
template <class A>
using Flag = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;

template <class A>
struct Kernels {
  // Sets the flags of the boxes [begin, end) whose overlap with box i is above the limit. Rounds as
  // torchvision's operator does, in that order, so that both decide alike.
  void (*suppress)(Boxes<A> boxes, int64_t i, int64_t begin, int64_t end, A limit, Flag<A>* flags);
};

// The kernels for the processor at hand; A is float or double.
template <class A>
const Kernels<A>& kernels();

}  // namespace convbody::cpu::nms

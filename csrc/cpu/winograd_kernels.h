// The transforms of F(4x4, 3x3), of Lavin and Gray 2015 (arXiv 1509.09308): a tile of 4x4 outputs of a 3x3
// convolution, from 6x6 inputs, by 36 products for each pair of channels instead of 144.
//
// The polynomials are evaluated at 0, +-sqrt(1/2), +-sqrt(2) and infinity. Points whose powers lie near 1 lose less
// to rounding than the usual 0, +-1, +-2.

#pragma once

#include <cstdint>

namespace convbody::cpu::winograd {

inline constexpr int64_t kIn = 6, kOut = 4, kTaps = 3;
inline constexpr int64_t kProducts = kIn * kIn;

// What becomes of a sum: bias and residual are added, then negative values cut off. `bias` may not be null.
struct Finish {
  const float* bias;
  const float* const* residual;  // one pointer for each output, or null
  bool relu;
};

struct Kernels {
  // to[product * plane + c] from the 6x6 pixels, row by row, each a pointer to its channels.
  void (*transform_input)(const float* const* pixels, int64_t channels, float* to, int64_t plane);

  // The same of `channels` filters: tap t of filter c is at filters[t * channels + c].
  void (*transform_filters)(const float* filters, int64_t channels, float* to, int64_t plane);

  // The 4x4 outputs, row by row, from from[product * plane + c]; null pointers are left out.
  void (*transform_output)(const float* from, int64_t plane, int64_t channels, Finish finish, float* const* outputs);
};

// The kernels for the processor at hand.
const Kernels& kernels();

}  // namespace convbody::cpu::winograd

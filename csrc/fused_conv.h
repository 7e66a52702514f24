// A convolution of stride 1 that keeps the size, with what usually follows it: its geometry, and the checks of the
// operator's arguments, before any memory is touched.

#pragma once

#include "ops.h"

namespace convbody {

// Channels come in multiples of two vectors of the widest instruction set.
inline constexpr int64_t kChannelStep = 32;

struct FusedConvGeometry {
  int64_t batch, channels, height, width;  // of the input
  int64_t out_channels, kernel;            // kernel by kernel taps, 1 or 3

  int64_t positions() const { return height * width; }
  std::vector<int64_t> output_sizes() const { return {batch, out_channels, height, width}; }
};

inline void check_fused_argument(
    const Tensor& tensor, const char* name, const std::vector<int64_t>& wanted, const Tensor& input) {
  STD_TORCH_CHECK(
      sizes_of(tensor) == wanted && tensor.scalar_type() == ScalarType::Float && tensor.device() == input.device(),
      "fused_conv2d: ", name, " has shape ", shape_of(tensor), " and type ",
      torch::headeronly::toString(tensor.scalar_type()), "; it must have shape ", to_string(wanted),
      ", be float32, and lie on the input's device");
}

inline FusedConvGeometry check_fused_conv2d(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& residual) {
  STD_TORCH_CHECK(
      input.dim() == 4 && weight.dim() == 4 && input.scalar_type() == ScalarType::Float,
      "fused_conv2d: input and weight must have 4 dimensions and be float32, not shapes ", shape_of(input), " and ",
      shape_of(weight), " with an input of type ", torch::headeronly::toString(input.scalar_type()));
  const FusedConvGeometry g{input.size(0), input.size(1),  input.size(2),
                            input.size(3), weight.size(0), weight.size(2)};
  STD_TORCH_CHECK(
      g.kernel == 1 || g.kernel == 3, "fused_conv2d: a weight of shape ", shape_of(weight), " is not 1x1 or 3x3");
  STD_TORCH_CHECK(
      g.channels > 0 && g.out_channels > 0 && g.channels % kChannelStep == 0 && g.out_channels % kChannelStep == 0,
      "fused_conv2d: channels must be multiples of ", kChannelStep, ", not those of an input of shape ",
      shape_of(input), " and a weight of shape ", shape_of(weight));
  check_fused_argument(weight, "the weight", {g.out_channels, g.channels, g.kernel, g.kernel}, input);
  if (bias) {
    check_fused_argument(*bias, "the bias", {g.out_channels}, input);
  }
  if (residual) {
    check_fused_argument(*residual, "the residual", g.output_sizes(), input);
  }
  return g;
}

}  // namespace convbody

// What the operators' implementations share, whatever the device: the geometry of a deformable convolution and the
// checks of its arguments. Everything is checked here, before any memory is touched; index arithmetic is 64 bit.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace convbody {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct ConvolutionOptions {
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

struct DeformConvGeometry : ConvolutionOptions {
  int64_t batch, channels, height, width;        // of the input
  int64_t out_channels, out_height, out_width;   // of the output
  int64_t kernel_h, kernel_w;
  int64_t groups;         // of the convolution: each convolves its own channels
  int64_t offset_groups;  // deformable groups: each moves its own channels

  int64_t taps() const { return kernel_h * kernel_w; }
  int64_t out_positions() const { return out_height * out_width; }
  int64_t group_channels() const { return channels / groups; }
  int64_t group_out_channels() const { return out_channels / groups; }
  int64_t offset_group_channels() const { return channels / offset_groups; }
  std::vector<int64_t> output_sizes() const { return {batch, out_channels, out_height, out_width}; }
};

inline std::vector<int64_t> sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return std::vector<int64_t>(sizes.begin(), sizes.end());
}

// "(2, 18, 7, 7)", for messages.
inline std::string to_string(const std::vector<int64_t>& sizes) {
  std::ostringstream text;
  text << "(";
  for (size_t i = 0; i < sizes.size(); ++i) {
    text << (i ? ", " : "") << sizes[i];
  }
  text << (sizes.size() == 1 ? ",)" : ")");
  return text.str();
}

inline std::string shape_of(const Tensor& tensor) { return to_string(sizes_of(tensor)); }

// The format torch itself would choose for a tensor like this one: channels_last where the strides say so.
inline MemoryFormat memory_format_of(const Tensor& tensor) {
  int64_t smallest = 0;  // stride that the next dimension may have, from the innermost out
  for (const int64_t dim : {1, 3, 2, 0}) {
    const int64_t size = tensor.size(dim), stride = tensor.stride(dim);
    // N111 and strides that fit both orders count as contiguous.
    if (size == 0 || stride == 0 || stride < smallest || (dim == 0 && smallest == tensor.stride(1))) {
      return MemoryFormat::Contiguous;
    }
    smallest = size > 1 ? stride * size : stride;
  }
  return MemoryFormat::ChannelsLast;
}

inline Tensor empty_tensor(const std::vector<int64_t>& sizes, const Tensor& like, MemoryFormat format) {
  return torch::stable::empty(sizes, like.scalar_type(), std::nullopt, like.device(), std::nullopt, format);
}

// An argument beside the input: its type and device must be the input's.
inline void check_goes_with_input(const Tensor& tensor, const char* name, const Tensor& input) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == input.scalar_type(), "deform_conv2d: ", name, " of shape ", shape_of(tensor),
      " is of type ", torch::headeronly::toString(tensor.scalar_type()), ", the input of shape ", shape_of(input),
      " of type ", torch::headeronly::toString(input.scalar_type()), "; they must agree");
  STD_TORCH_CHECK(
      tensor.device() == input.device(), "deform_conv2d: ", name, " of shape ", shape_of(tensor),
      " and the input of shape ", shape_of(input), " are on different devices; they must agree");
}

inline void check_shape(const Tensor& tensor, const char* name, const std::vector<int64_t>& wanted, const Tensor& input,
                        const Tensor& weight) {
  STD_TORCH_CHECK(
      sizes_of(tensor) == wanted, "deform_conv2d: ", name, " has shape ", shape_of(tensor), ", not ",
      to_string(wanted), ", for an input of shape ", shape_of(input), " and a weight of shape ", shape_of(weight));
}

// Parameters below 2^31 keep every product of two of them, and so every position, inside 64 bits.
inline void check_option(int64_t value, const char* name, int64_t smallest) {
  STD_TORCH_CHECK(
      value >= smallest && value <= std::numeric_limits<int32_t>::max(), "deform_conv2d: ", name, " is ", value,
      " but must be at least ", smallest, " and below 2^31");
}

inline void check_options(const ConvolutionOptions& options) {
  check_option(options.stride_h, "stride_h", 1);
  check_option(options.stride_w, "stride_w", 1);
  check_option(options.pad_h, "pad_h", 0);
  check_option(options.pad_w, "pad_w", 0);
  check_option(options.dilation_h, "dilation_h", 1);
  check_option(options.dilation_w, "dilation_w", 1);
}

inline int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
  const int64_t room = size + 2 * pad - (dilation * (kernel - 1) + 1);
  return room < 0 ? 0 : room / stride + 1;
}

// Checks every argument of the forward pass and returns what follows from their shapes.
inline DeformConvGeometry check_deform_conv2d(
    const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& mask, const ConvolutionOptions& options) {
  const auto type = input.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Double || type == ScalarType::Float || type == ScalarType::Half ||
          type == ScalarType::BFloat16,
      "deform_conv2d: the input of shape ", shape_of(input), " is of type ", torch::headeronly::toString(type),
      "; it works on float64, float32, float16 and bfloat16");
  STD_TORCH_CHECK(
      input.dim() == 4 && weight.dim() == 4 && offset.dim() == 4,
      "deform_conv2d: input, offset and weight must have 4 dimensions, not shapes ", shape_of(input), ", ",
      shape_of(offset), " and ", shape_of(weight));
  check_goes_with_input(offset, "offset", input);
  check_goes_with_input(weight, "weight", input);
  check_options(options);

  DeformConvGeometry g{};
  static_cast<ConvolutionOptions&>(g) = options;
  g.batch = input.size(0), g.channels = input.size(1), g.height = input.size(2), g.width = input.size(3);
  g.out_channels = weight.size(0), g.kernel_h = weight.size(2), g.kernel_w = weight.size(3);
  STD_TORCH_CHECK(
      weight.numel() > 0, "deform_conv2d: the weight has no elements: shape ", shape_of(weight),
      ", for an input of shape ", shape_of(input));

  g.groups = g.channels / weight.size(1);
  STD_TORCH_CHECK(
      g.groups > 0 && g.channels % weight.size(1) == 0 && g.out_channels % g.groups == 0,
      "deform_conv2d: the channels of an input of shape ", shape_of(input),
      " do not divide into groups for a weight of shape ", shape_of(weight));

  g.out_height = output_size(g.height, g.kernel_h, g.stride_h, g.pad_h, g.dilation_h);
  g.out_width = output_size(g.width, g.kernel_w, g.stride_w, g.pad_w, g.dilation_w);
  STD_TORCH_CHECK(
      g.out_height > 0 && g.out_width > 0, "deform_conv2d: an input of shape ", shape_of(input),
      " is too small for a weight of shape ", shape_of(weight), " with dilation (", g.dilation_h, ", ", g.dilation_w,
      ") and padding (", g.pad_h, ", ", g.pad_w, ")");

  g.offset_groups = offset.size(1) / (2 * g.taps());
  STD_TORCH_CHECK(
      g.offset_groups > 0 && offset.size(1) % (2 * g.taps()) == 0 && g.channels % g.offset_groups == 0,
      "deform_conv2d: an offset of shape ", shape_of(offset), " must have 2 * ", g.taps(),
      " channels, or as often as many as there are deformable groups that divide the ", g.channels,
      " channels of an input of shape ", shape_of(input));
  check_shape(
      offset, "offset", {g.batch, g.offset_groups * 2 * g.taps(), g.out_height, g.out_width}, input, weight);
  if (mask) {
    check_goes_with_input(*mask, "mask", input);
    check_shape(*mask, "mask", {g.batch, g.offset_groups * g.taps(), g.out_height, g.out_width}, input, weight);
  }
  if (bias) {
    check_goes_with_input(*bias, "bias", input);
    check_shape(*bias, "bias", {g.out_channels}, input, weight);
  }
  return g;
}

// The same for the backward pass: grad is the gradient of the output.
inline DeformConvGeometry check_deform_conv2d_backward(
    const Tensor& grad, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, const ConvolutionOptions& options) {
  const auto g = check_deform_conv2d(input, offset, weight, std::nullopt, mask, options);
  check_goes_with_input(grad, "grad", input);
  check_shape(grad, "grad", g.output_sizes(), input, weight);
  return g;
}

}  // namespace convbody

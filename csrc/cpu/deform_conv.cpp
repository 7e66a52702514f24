// Deformable convolution on the CPU: the operators' entry points.

#include "deform_conv_backward.h"
#include "deform_conv_forward.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <tuple>

namespace convbody {
namespace {

template <class Call>
void with_type(ScalarType type, Call&& call) {
  switch (type) {
    case ScalarType::Double: return call(double());
    case ScalarType::Float: return call(float());
    case ScalarType::Half: return call(torch::headeronly::Half());
    default: return call(torch::headeronly::BFloat16());
  }
}

Tensor deform_conv2d(
    const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
    int64_t dilation_h, int64_t dilation_w) {
  const auto g = check_deform_conv2d(
      input, offset, weight, bias, mask, {stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w});
  Tensor output = empty_tensor(g.output_sizes(), input, memory_format_of(input));
  with_type(input.scalar_type(), [&](auto zero) {
    cpu::Forward<decltype(zero)>(g, input, offset, weight, bias, mask, output).run();
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
    int64_t dilation_h, int64_t dilation_w, bool /*deterministic: it always is*/) {
  const auto g = check_deform_conv2d_backward(
      grad, input, offset, weight, mask, {stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w});
  Tensor grad_input = empty_tensor(sizes_of(input), input, memory_format_of(input));
  Tensor grad_offset = empty_tensor(sizes_of(offset), offset, MemoryFormat::Contiguous);
  Tensor grad_weight = empty_tensor(sizes_of(weight), weight, MemoryFormat::Contiguous);
  Tensor grad_mask = mask ? empty_tensor(sizes_of(*mask), *mask, MemoryFormat::Contiguous)
                          : empty_tensor({0}, input, MemoryFormat::Contiguous);
  with_type(input.scalar_type(), [&](auto zero) {
    cpu::Backward<decltype(zero)>(
        g, grad, input, offset, weight, mask, grad_input, grad_offset, grad_weight, grad_mask)
        .run();
  });
  return {grad_input, grad_offset, grad_weight, grad_mask};
}

}  // namespace
}  // namespace convbody

STABLE_TORCH_LIBRARY_IMPL(convbody, CPU, m) {
  m.impl("deform_conv2d", TORCH_BOX(&convbody::deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&convbody::deform_conv2d_backward));
}

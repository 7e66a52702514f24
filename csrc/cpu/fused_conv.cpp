// Convolutions of stride 1 with bias, residual and ReLU on the CPU: channels-last float32 images. The result is written
// once, when it is finished.

#include "../fused_conv.h"
#include "pointwise.h"
#include "winograd.h"

namespace convbody {
namespace {

const float* data(const Tensor& tensor) { return static_cast<const float*>(tensor.data_ptr()); }

Tensor fused_conv2d(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& residual, bool relu) {
  const auto g = check_fused_conv2d(input, weight, bias, residual);
  Tensor output = empty_tensor(g.output_sizes(), input, MemoryFormat::ChannelsLast);
  if (output.numel() == 0) {
    return output;
  }
  const Tensor pixels = torch::stable::contiguous(input, MemoryFormat::ChannelsLast);
  const Tensor filters = torch::stable::contiguous(weight);
  std::vector<float> shifts(g.out_channels);
  if (bias) {
    const Tensor dense = torch::stable::contiguous(*bias);
    std::copy_n(data(dense), g.out_channels, shifts.data());
  }
  std::optional<Tensor> added;
  if (residual) {
    added = torch::stable::contiguous(*residual, MemoryFormat::ChannelsLast);
  }
  const cpu::Fused fused{data(pixels),    data(filters), shifts.data(), added ? data(*added) : nullptr,
                         relu,            static_cast<float*>(output.data_ptr())};
  g.kernel == 1 ? cpu::Pointwise(g, fused).run() : cpu::Winograd(g, fused).run();
  return output;
}

}  // namespace
}  // namespace convbody

STABLE_TORCH_LIBRARY_IMPL(convbody, CPU, m) { m.impl("fused_conv2d", TORCH_BOX(&convbody::fused_conv2d)); }

// What the devices share of the activated batch norm: the activations, and the checks of the operators' arguments.

#pragma once

#include "ops.h"

#include <string_view>
#include <tuple>

namespace convbody {

enum class Activation { LeakyRelu, Elu, Identity };

inline Activation activation_of(std::string_view name) {
  STD_TORCH_CHECK(
      name == "leaky_relu" || name == "elu" || name == "identity",
      "activated_norm: the activation must be leaky_relu, elu or identity, not ", std::string(name));
  return name == "leaky_relu" ? Activation::LeakyRelu : name == "elu" ? Activation::Elu : Activation::Identity;
}

// Statistics and parameters are float32; float64 beside an input of float64.
inline ScalarType parameter_type(const Tensor& input) {
  return input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_images(const Tensor& input) {
  const auto type = input.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Double || type == ScalarType::Float || type == ScalarType::Half ||
          type == ScalarType::BFloat16,
      "activated_norm: the input is of type ", torch::headeronly::toString(type),
      " but must be float64, float32, float16 or bfloat16");
  STD_TORCH_CHECK(
      input.dim() == 4, "activated_norm: the input must have 4 dimensions, not the shape ", shape_of(input));
}

// Parameters of `rows` values per channel.
inline void check_parameters(const Tensor& tensor, const char* name, const Tensor& input, int64_t rows = 1) {
  const auto wanted = rows == 1 ? std::vector<int64_t>{input.size(1)} : std::vector<int64_t>{rows, input.size(1)};
  STD_TORCH_CHECK(
      sizes_of(tensor) == wanted, "activated_norm: ", name, " has shape ", shape_of(tensor), " but must have ",
      to_string(wanted), " for an input of shape ", shape_of(input));
  STD_TORCH_CHECK(
      tensor.scalar_type() == parameter_type(input), "activated_norm: ", name, " is of type ",
      torch::headeronly::toString(tensor.scalar_type()), " but must be of type ",
      torch::headeronly::toString(parameter_type(input)), " for an input of type ",
      torch::headeronly::toString(input.scalar_type()));
  STD_TORCH_CHECK(
      tensor.device() == input.device(), "activated_norm: ", name, " of shape ", shape_of(tensor),
      " and the input of shape ", shape_of(input), " are on different devices");
}

// The gradient of an output.
inline void check_grad(const Tensor& grad, const Tensor& output) {
  check_images(output);
  STD_TORCH_CHECK(
      sizes_of(grad) == sizes_of(output) && grad.scalar_type() == output.scalar_type() &&
          grad.device() == output.device(),
      "activated_norm: the gradient of shape ", shape_of(grad), " and the output of shape ", shape_of(output),
      " must agree in shape, type and device");
}

// Dense images: one behind the other, channel by channel, or (channels_last) pixel by pixel.
struct ImageLayout {
  int64_t batch, channels, positions;
  bool channels_last;

  ImageLayout(const Tensor& tensor, MemoryFormat format)
      : batch(tensor.size(0)),
        channels(tensor.size(1)),
        positions(tensor.size(2) * tensor.size(3)),
        channels_last(format == MemoryFormat::ChannelsLast) {}

  int64_t values() const { return batch * channels * positions; }
  int64_t values_of_channel() const { return batch * positions; }
};

// What the norm is, beside its tensors.
struct NormOptions {
  double eps;
  Activation activation;
  double slope;
};

// The operators on a device whose kernels are the functions of Device. Those take dense images of one layout and
// contiguous parameters; images may be empty.
template <class Device>
struct ActivatedNorm {
  static std::tuple<Tensor, Tensor> statistics(const Tensor& input) {
    check_images(input);
    const auto format = memory_format_of(input);
    const Tensor mean = parameters_like(input, {input.size(1)}), var = parameters_like(input, {input.size(1)});
    Device::statistics(ImageLayout(input, format), torch::stable::contiguous(input, format), mean, var);
    return {mean, var};
  }

  static Tensor forward(
      const Tensor& input, const Tensor& mean, const Tensor& var, const Tensor& weight, const Tensor& bias, double eps,
      std::string activation, double slope) {
    check_images(input);
    check_parameters(mean, "mean", input);
    check_parameters(var, "var", input);
    check_parameters(weight, "weight", input);
    check_parameters(bias, "bias", input);
    const auto format = memory_format_of(input);
    const Tensor output = empty_tensor(sizes_of(input), input, format);
    Device::forward(
        ImageLayout(input, format), torch::stable::contiguous(input, format), torch::stable::contiguous(mean),
        torch::stable::contiguous(var), torch::stable::contiguous(weight), torch::stable::contiguous(bias),
        NormOptions{eps, activation_of(activation), slope}, output);
    return output;
  }

  static Tensor sums(
      const Tensor& grad, const Tensor& output, const Tensor& weight, const Tensor& bias, double eps,
      std::string activation, double slope) {
    check_grad(grad, output);
    check_parameters(weight, "weight", output);
    check_parameters(bias, "bias", output);
    const auto format = memory_format_of(output);
    const Tensor to = parameters_like(output, {2, output.size(1)});
    Device::sums(
        ImageLayout(output, format), torch::stable::contiguous(grad, format),
        torch::stable::contiguous(output, format), torch::stable::contiguous(weight), torch::stable::contiguous(bias),
        NormOptions{eps, activation_of(activation), slope}, to);
    return to;
  }

  static Tensor backward(
      const Tensor& grad, const Tensor& output, const Tensor& var, const Tensor& weight, const Tensor& bias,
      const Tensor& means, double eps, std::string activation, double slope) {
    check_grad(grad, output);
    check_parameters(var, "var", output);
    check_parameters(weight, "weight", output);
    check_parameters(bias, "bias", output);
    check_parameters(means, "means", output, 2);
    const auto format = memory_format_of(output);
    const Tensor grad_input = empty_tensor(sizes_of(output), output, format);
    Device::backward(
        ImageLayout(output, format), torch::stable::contiguous(grad, format),
        torch::stable::contiguous(output, format), torch::stable::contiguous(var), torch::stable::contiguous(weight),
        torch::stable::contiguous(bias), torch::stable::contiguous(means),
        NormOptions{eps, activation_of(activation), slope}, grad_input);
    return grad_input;
  }

 private:
  static Tensor parameters_like(const Tensor& input, const std::vector<int64_t>& sizes) {
    return torch::stable::empty(sizes, parameter_type(input), std::nullopt, input.device());
  }
};

// Implements the schemas of library.cpp with it.
template <class Device, class Library>
void implement_activated_norm(Library& m) {
  using Ops = ActivatedNorm<Device>;
  m.impl("activated_norm_statistics", TORCH_BOX(&Ops::statistics));
  m.impl("activated_norm", TORCH_BOX(&Ops::forward));
  m.impl("activated_norm_sums", TORCH_BOX(&Ops::sums));
  m.impl("activated_norm_backward", TORCH_BOX(&Ops::backward));
}

}  // namespace convbody

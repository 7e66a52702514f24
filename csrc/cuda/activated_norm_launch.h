// Activated batch norm on a GPU: how the operators cut their work into tiles.

#pragma once

#include "activated_norm_tiles.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <limits>

namespace convbody::cuda::norm {

// Blocks that keep any GPU busy. The same for all, so that sums do not depend on the GPU.
constexpr int64_t kEnoughBlocks = 1024;

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// Launch::run(tensor, tiles, tile) runs tile(block, shared, i) for 0 <= i < tiles where the tensor is.
template <class Launch>
struct Kernels {
  static void statistics(const ImageLayout& layout, const Tensor& input, const Tensor& mean, const Tensor& var) {
    with_type(input, [&](auto zero) {
      using T = decltype(zero);
      using A = accumulate_t<T>;
      reduce(layout, input, Statistics<T>{data<const T>(input), data<A>(mean), data<A>(var)});
    });
  }

  static void forward(
      const ImageLayout& layout, const Tensor& input, const Tensor& mean, const Tensor& var, const Tensor& weight,
      const Tensor& bias, const NormOptions& options, const Tensor& output) {
    with_type(input, [&](auto zero) {
      using T = decltype(zero);
      using A = accumulate_t<T>;
      map(layout, input, Forward<T>{
          {data<const T>(input)}, data<T>(output), data<const A>(mean), data<const A>(var), data<const A>(weight),
          data<const A>(bias), options_for<T>(options)});
    });
  }

  static void sums(
      const ImageLayout& layout, const Tensor& grad, const Tensor& output, const Tensor& weight, const Tensor& bias,
      const NormOptions& options, const Tensor& to) {
    with_type(output, [&](auto zero) {
      using T = decltype(zero);
      using A = accumulate_t<T>;
      reduce(layout, output, BackwardSums<T>{
          data<const T>(grad), data<const T>(output), data<const A>(weight), data<const A>(bias),
          options_for<T>(options), data<A>(to), data<A>(to) + layout.channels});
    });
  }

  static void backward(
      const ImageLayout& layout, const Tensor& grad, const Tensor& output, const Tensor& var, const Tensor& weight,
      const Tensor& bias, const Tensor& means, const NormOptions& options, const Tensor& grad_input) {
    with_type(output, [&](auto zero) {
      using T = decltype(zero);
      using A = accumulate_t<T>;
      map(layout, output, Backward<T>{
          {data<const T>(grad), data<const T>(output)}, data<T>(grad_input), data<const A>(var), data<const A>(weight),
          data<const A>(bias), data<const A>(means), data<const A>(means) + layout.channels, options_for<T>(options)});
    });
  }

 private:
  // Calls the function with a value of the type of the images.
  template <class Call>
  static void with_type(const Tensor& images, Call&& call) {
    switch (images.scalar_type()) {
      case ScalarType::Double: return call(double());
      case ScalarType::Float: return call(float());
      case ScalarType::Half: return call(torch::headeronly::Half());
      default: return call(torch::headeronly::BFloat16());
    }
  }

  template <class T>
  static Options<accumulate_t<T>> options_for(const NormOptions& o) {
    using A = accumulate_t<T>;
    const A lowest = static_cast<A>(std::numeric_limits<T>::epsilon()) - 1;
    return {o.activation, static_cast<A>(o.slope), lowest, static_cast<A>(o.eps)};
  }

  template <class Op>
  static void map(const ImageLayout& layout, const Tensor& images, const Op& op) {
    constexpr int n = 16 / sizeof(typename Op::Value);
    const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
    if ((layout.channels_last ? layout.channels : layout.positions) % n == 0 && aligned(op.output) &&
        std::all_of(op.inputs, op.inputs + Op::kInputs, aligned)) {
      Launch::run(images, parts(layout.values(), n * kThreads), Map<Op, n>{op, layout});
    } else {
      Launch::run(images, parts(layout.values(), kThreads), Map<Op, 1>{op, layout});
    }
  }

  template <class Op>
  static void reduce(const ImageLayout& layout, const Tensor& images, const Op& op) {
    using State = typename Op::State;
    Reduce<Op> tiles{op, layout};
    tiles.lanes = kLanes;
    if (!layout.channels_last) {
      while (tiles.lanes < kThreads && tiles.lanes < layout.positions) {
        tiles.lanes *= 2;
      }
    }
    tiles.chunk = 8 * tiles.lanes;
    const int64_t rows = layout.channels_last ? parts(layout.values_of_channel(), 8)
                                              : layout.batch * parts(layout.positions, tiles.chunk);
    const int64_t most = std::max<int64_t>(1, parts(rows, kThreads / tiles.lanes));
    tiles.splits = std::min(most, parts(kEnoughBlocks, std::max<int64_t>(1, tiles.groups())));
    const Tensor partial = torch::stable::empty(
        {tiles.splits * layout.channels * static_cast<int64_t>(sizeof(State))}, ScalarType::Byte, std::nullopt,
        images.device());
    tiles.partial = data<State>(partial);
    Launch::run(images, tiles.groups() * tiles.splits, tiles);
    Launch::run(
        images, parts(layout.channels, kThreads), Finish<Op>{op, layout.channels, tiles.splits, tiles.partial});
  }
};

}  // namespace convbody::cuda::norm

// Activated batch norm on the CPU, on tiles of images that threads share.

#include "activated_norm_tiles.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <array>
#include <cmath>
#include <limits>
#include <utility>

namespace convbody {
namespace {

using cpu::norm::accumulate_t;
using cpu::norm::ActivationOf;
using cpu::norm::for_each_tile;
using cpu::norm::Moments;
using cpu::norm::reduce;
using cpu::norm::Sums;
using cpu::norm::Tile;
using cpu::norm::Values;

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <class T>
void statistics(const ImageLayout& layout, const Tensor& input, const Tensor& mean, const Tensor& var) {
  using A = accumulate_t<T>;
  struct Scratch {
    Values<T> x;
    std::vector<double> first, second;
    std::vector<A> mean;
  };
  const auto& kernel = cpu::norm::kernels<A>();
  const T* x = data<const T>(input);
  // The mean of the tile, then deviations from it, whose sum is what rounding left in the mean.
  const auto moments = reduce<Scratch, Moments>(layout, [&](Scratch& s, const Tile& tile, Moments& total) {
    const int64_t channels = tile.rows.each ? tile.rows.width : 1, count = tile.values_of_channel();
    s.first.assign(channels, 0), s.second.assign(channels, 0), s.mean.assign(channels, 0);
    const A* values = s.x.read(x + tile.offset, tile.values());
    kernel.sum(tile.rows, values, s.first.data());
    for (int64_t i = 0; i < channels; ++i) {
      s.mean[i] = static_cast<A>(s.first[i] / count);
    }
    double* const sums[2] = {s.first.data(), s.second.data()};
    kernel.deviations(tile.rows, values, s.mean.data(), sums);
    for (int64_t i = 0; i < channels; ++i) {
      const double rest = s.first[i] / count;
      total.add(i, count, s.mean[i] + rest, s.second[i] - rest * s.first[i]);
    }
  });
  for (int64_t i = 0; i < layout.channels; ++i) {
    data<A>(mean)[i] = static_cast<A>(moments.mean[i]);
    data<A>(var)[i] = static_cast<A>(std::max(moments.squares[i] / moments.count[i], 0.0));
  }
}

// A weight that can be divided by.
template <class A>
A away_from_zero(A weight, double eps) {
  const A least = static_cast<A>(eps);
  return std::abs(weight) < least ? (weight < 0 ? -least : least) : weight;
}

template <class A>
double rstd_of(A var, double eps) {
  return 1 / std::sqrt(static_cast<double>(var) + eps);
}

template <class T>
ActivationOf<accumulate_t<T>> activation_for(const NormOptions& options) {
  using A = accumulate_t<T>;
  return {options.activation, static_cast<A>(options.slope), static_cast<A>(std::numeric_limits<T>::epsilon()) - 1};
}

template <class T>
void forward(
    const ImageLayout& layout, const Tensor& input, const Tensor& mean, const Tensor& var, const Tensor& weight,
    const Tensor& bias, const NormOptions& options, const Tensor& output) {
  using A = accumulate_t<T>;
  const auto& kernel = cpu::norm::kernels<A>();
  const auto activation = activation_for<T>(options);
  std::vector<A> scale(layout.channels);
  for (int64_t i = 0; i < layout.channels; ++i) {
    scale[i] = static_cast<A>(away_from_zero(data<A>(weight)[i], options.eps) * rstd_of(data<A>(var)[i], options.eps));
  }
  for_each_tile<std::pair<Values<T>, Values<T>>>(layout, [&](auto& scratch, const Tile& tile) {
    const A* x = scratch.first.read(data<const T>(input) + tile.offset, tile.values());
    T* y = data<T>(output) + tile.offset;
    kernel.forward(
        tile.rows, x,
        {data<A>(mean) + tile.channel, scale.data() + tile.channel, data<A>(bias) + tile.channel}, activation,
        scratch.second.room(y, tile.values()));
    scratch.second.write(y, tile.values());
  });
}

template <class T>
void backward_sums(
    const ImageLayout& layout, const Tensor& grad, const Tensor& output, const Tensor& weight, const Tensor& bias,
    const NormOptions& options, const Tensor& to) {
  using A = accumulate_t<T>;
  struct Scratch {
    Values<T> grad, y;
    Sums sums{0};
  };
  const auto& kernel = cpu::norm::kernels<A>();
  const auto activation = activation_for<T>(options);
  const auto totals = reduce<Scratch, Sums>(layout, [&](Scratch& s, const Tile& tile, Sums& total) {
    s.sums.first.assign(total.first.size(), 0), s.sums.second.assign(total.first.size(), 0);
    double* const sums[2] = {s.sums.first.data(), s.sums.second.data()};
    kernel.backward_sums(
        tile.rows, s.grad.read(data<const T>(grad) + tile.offset, tile.values()),
        s.y.read(data<const T>(output) + tile.offset, tile.values()), data<A>(bias) + tile.channel, activation, sums);
    total.add(s.sums, 0);
  });
  A* of_weight = data<A>(to);
  for (int64_t i = 0; i < layout.channels; ++i) {
    of_weight[i] = static_cast<A>(totals.second[i] / away_from_zero(data<A>(weight)[i], options.eps));
    of_weight[layout.channels + i] = static_cast<A>(totals.first[i]);
  }
}

template <class T>
void backward(
    const ImageLayout& layout, const Tensor& grad, const Tensor& output, const Tensor& var, const Tensor& weight,
    const Tensor& bias, const Tensor& means, const NormOptions& options, const Tensor& grad_input) {
  using A = accumulate_t<T>;
  const auto& kernel = cpu::norm::kernels<A>();
  const auto activation = activation_for<T>(options);
  const A *mean_weight = data<A>(means), *mean_bias = mean_weight + layout.channels;
  std::vector<A> scale(layout.channels), tilt(layout.channels), shift(layout.channels);
  for (int64_t i = 0; i < layout.channels; ++i) {
    const double rstd = rstd_of(data<A>(var)[i], options.eps);
    const double factor = rstd * away_from_zero(data<A>(weight)[i], options.eps);
    scale[i] = static_cast<A>(factor);
    tilt[i] = static_cast<A>(-rstd * mean_weight[i]);
    shift[i] = static_cast<A>(-factor * mean_bias[i]);
  }
  for_each_tile<std::array<Values<T>, 3>>(layout, [&](auto& scratch, const Tile& tile) {
    T* to = data<T>(grad_input) + tile.offset;
    kernel.backward(
        tile.rows, scratch[0].read(data<const T>(grad) + tile.offset, tile.values()),
        scratch[1].read(data<const T>(output) + tile.offset, tile.values()),
        {data<A>(bias) + tile.channel, scale.data() + tile.channel, tilt.data() + tile.channel,
         shift.data() + tile.channel},
        activation, scratch[2].room(to, tile.values()));
    scratch[2].write(to, tile.values());
  });
}

// Calls the function with a value of the type of the images.
template <class Call>
void with_type(const Tensor& images, Call&& call) {
  switch (images.scalar_type()) {
    case ScalarType::Double: return call(double());
    case ScalarType::Float: return call(float());
    case ScalarType::Half: return call(torch::headeronly::Half());
    default: return call(torch::headeronly::BFloat16());
  }
}

struct Cpu {
  template <class... Args>
  static void statistics(const ImageLayout& layout, const Tensor& images, const Args&... args) {
    with_type(images, [&](auto zero) { convbody::statistics<decltype(zero)>(layout, images, args...); });
  }
  template <class... Args>
  static void forward(const ImageLayout& layout, const Tensor& images, const Args&... args) {
    with_type(images, [&](auto zero) { convbody::forward<decltype(zero)>(layout, images, args...); });
  }
  template <class... Args>
  static void sums(const ImageLayout& layout, const Tensor& images, const Args&... args) {
    with_type(images, [&](auto zero) { convbody::backward_sums<decltype(zero)>(layout, images, args...); });
  }
  template <class... Args>
  static void backward(const ImageLayout& layout, const Tensor& images, const Args&... args) {
    with_type(images, [&](auto zero) { convbody::backward<decltype(zero)>(layout, images, args...); });
  }
};

}  // namespace
}  // namespace convbody

STABLE_TORCH_LIBRARY_IMPL(convbody, CPU, m) { convbody::implement_activated_norm<convbody::Cpu>(m); }

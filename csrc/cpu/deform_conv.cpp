// Deformable convolution on the CPU.

#include "../ops.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <tuple>
#include <type_traits>

namespace convbody {
namespace {

template <class T>
using accumulate_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// A tensor of four dimensions as a pointer and its strides.
template <class T>
struct View {
  T* data;
  int64_t n, c, h, w;
  T& at(int64_t in, int64_t ic, int64_t ih, int64_t iw) const { return data[in * n + ic * c + ih * h + iw * w]; }
};

template <class T>
View<T> view(const Tensor& t) {
  return {static_cast<T*>(t.data_ptr()), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// The four pixels around a sample, each with its weight and the derivatives of that weight by y and x.
template <class A>
struct Corners {
  bool inside[4] = {};
  int64_t y[4], x[4];
  A weight[4], by_y[4], by_x[4];
};

template <class A>
Corners<A> corners(A y, A x, int64_t height, int64_t width) {
  Corners<A> s;
  if (!(y > -1 && x > -1 && y < height && x < width)) return s;
  const A y0 = std::floor(y), x0 = std::floor(x), ly = y - y0, lx = x - x0;
  for (int i = 0; i < 4; ++i) {
    const int down = i / 2, right = i % 2;
    s.y[i] = static_cast<int64_t>(y0) + down, s.x[i] = static_cast<int64_t>(x0) + right;
    s.inside[i] = s.y[i] >= 0 && s.y[i] < height && s.x[i] >= 0 && s.x[i] < width;
    const A wy = down ? ly : 1 - ly, wx = right ? lx : 1 - lx;
    s.weight[i] = wy * wx, s.by_y[i] = down ? wx : -wx, s.by_x[i] = right ? wy : -wy;
  }
  return s;
}

template <class T, class Visit>
void for_each_sample(const DeformConvGeometry& g, const View<T>& offset, const std::optional<View<T>>& mask, Visit&& f) {
  using A = accumulate_t<T>;
  for (int64_t n = 0; n < g.batch; ++n)
    for (int64_t oy = 0; oy < g.out_height; ++oy)
      for (int64_t ox = 0; ox < g.out_width; ++ox)
        for (int64_t d = 0; d < g.offset_groups; ++d)
          for (int64_t k = 0; k < g.taps(); ++k) {
            const int64_t dk = d * g.taps() + k;
            const A y = oy * g.stride_h - g.pad_h + k / g.kernel_w * g.dilation_h + static_cast<A>(offset.at(n, 2 * dk, oy, ox));
            const A x = ox * g.stride_w - g.pad_w + k % g.kernel_w * g.dilation_w + static_cast<A>(offset.at(n, 2 * dk + 1, oy, ox));
            const A m = mask ? static_cast<A>(mask->at(n, dk, oy, ox)) : A(1);
            f(n, oy, ox, d, k, m, corners<A>(y, x, g.height, g.width));
          }
}

template <class T>
void forward(const DeformConvGeometry& g, const Tensor& input, const Tensor& offset, const Tensor& weight,
             const std::optional<Tensor>& bias, const std::optional<Tensor>& mask, const Tensor& output) {
  using A = accumulate_t<T>;
  const auto x = view<T>(input), w = view<T>(weight), y = view<T>(output);
  std::optional<View<T>> m;
  if (mask) m = view<T>(*mask);
  std::vector<A> sums(g.batch * g.out_channels * g.out_positions(), A(0));
  for_each_sample<T>(g, view<T>(offset), m, [&](int64_t n, int64_t oy, int64_t ox, int64_t d, int64_t k, A factor, const Corners<A>& s) {
    for (int64_t c = d * g.offset_group_channels(); c < (d + 1) * g.offset_group_channels(); ++c) {
      A value = 0;
      for (int i = 0; i < 4; ++i)
        if (s.inside[i]) value += s.weight[i] * static_cast<A>(x.at(n, c, s.y[i], s.x[i]));
      const int64_t group = c / g.group_channels();
      for (int64_t o = group * g.group_out_channels(); o < (group + 1) * g.group_out_channels(); ++o)
        sums[(n * g.out_channels + o) * g.out_positions() + oy * g.out_width + ox] +=
            factor * value * static_cast<A>(w.at(o, c % g.group_channels(), k / g.kernel_w, k % g.kernel_w));
    }
  });
  const T* b = bias ? static_cast<const T*>(bias->data_ptr()) : nullptr;
  for (int64_t n = 0; n < g.batch; ++n)
    for (int64_t o = 0; o < g.out_channels; ++o)
      for (int64_t p = 0; p < g.out_positions(); ++p)
        y.at(n, o, p / g.out_width, p % g.out_width) = static_cast<T>(
            sums[(n * g.out_channels + o) * g.out_positions() + p] + (b ? static_cast<A>(b[o * bias->stride(0)]) : A(0)));
}

template <class A>
struct Sums {
  std::vector<A> values;
  explicit Sums(const Tensor& like) : values(like.numel(), A(0)) {}
  template <class T>
  void store(const Tensor& to) const {
    if (to.numel() == 0) return;
    const auto v = view<T>(to);
    size_t i = 0;
    for (int64_t n = 0; n < to.size(0); ++n)
      for (int64_t c = 0; c < to.size(1); ++c)
        for (int64_t h = 0; h < to.size(2); ++h)
          for (int64_t w = 0; w < to.size(3); ++w) v.at(n, c, h, w) = static_cast<T>(values[i++]);
  }
};

template <class T>
void backward(const DeformConvGeometry& g, const Tensor& grad, const Tensor& input, const Tensor& offset, const Tensor& weight,
              const std::optional<Tensor>& mask, const Tensor& grad_input, const Tensor& grad_offset,
              const Tensor& grad_weight, const Tensor& grad_mask) {
  using A = accumulate_t<T>;
  const auto x = view<T>(input), w = view<T>(weight), dy = view<T>(grad);
  std::optional<View<T>> m;
  if (mask) m = view<T>(*mask);
  Sums<A> to_input(grad_input), to_offset(grad_offset), to_weight(grad_weight), to_mask(grad_mask);
  for_each_sample<T>(g, view<T>(offset), m, [&](int64_t n, int64_t oy, int64_t ox, int64_t d, int64_t k, A factor, const Corners<A>& s) {
    const int64_t p = oy * g.out_width + ox, dk = d * g.taps() + k;
    for (int64_t c = d * g.offset_group_channels(); c < (d + 1) * g.offset_group_channels(); ++c) {
      const int64_t group = c / g.group_channels(), gc = c % g.group_channels();
      A value = 0, by_y = 0, by_x = 0, slope = 0;
      for (int i = 0; i < 4; ++i) {
        if (!s.inside[i]) continue;
        const A pixel = static_cast<A>(x.at(n, c, s.y[i], s.x[i]));
        value += s.weight[i] * pixel, by_y += s.by_y[i] * pixel, by_x += s.by_x[i] * pixel;
      }
      for (int64_t o = group * g.group_out_channels(); o < (group + 1) * g.group_out_channels(); ++o) {
        const A go = static_cast<A>(dy.at(n, o, oy, ox));
        slope += go * static_cast<A>(w.at(o, gc, k / g.kernel_w, k % g.kernel_w));
        to_weight.values[(o * g.group_channels() + gc) * g.taps() + k] += go * factor * value;
      }
      for (int i = 0; i < 4; ++i)
        if (s.inside[i]) to_input.values[((n * g.channels + c) * g.height + s.y[i]) * g.width + s.x[i]] += slope * factor * s.weight[i];
      const int64_t at = (n * g.offset_groups * g.taps() + dk) * g.out_positions() + p;
      if (mask) to_mask.values[at] += slope * value;
      const int64_t at_y = (n * g.offset_groups * g.taps() + dk) * 2 * g.out_positions() + p;
      to_offset.values[at_y] += slope * factor * by_y;
      to_offset.values[at_y + g.out_positions()] += slope * factor * by_x;
    }
  });
  to_input.template store<T>(grad_input), to_offset.template store<T>(grad_offset);
  to_weight.template store<T>(grad_weight), to_mask.template store<T>(grad_mask);
}

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
    forward<decltype(zero)>(g, input, offset, weight, bias, mask, output);
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
    backward<decltype(zero)>(g, grad, input, offset, weight, mask, grad_input, grad_offset, grad_weight, grad_mask);
  });
  return {grad_input, grad_offset, grad_weight, grad_mask};
}

}  // namespace
}  // namespace convbody

STABLE_TORCH_LIBRARY_IMPL(convbody, CPU, m) {
  m.impl("deform_conv2d", TORCH_BOX(&convbody::deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&convbody::deform_conv2d_backward));
}

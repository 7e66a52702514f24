// RoIAlign on the CPU. Half types are computed in float32.

#include "../roi_align.h"
#include "roi_bins.h"
#include "roi_kernels.h"

#include <utility>

namespace convbody {
namespace {

using cpu::roi::Box;
using cpu::roi::Options;
using cpu::roi::Runs;

inline constexpr int64_t kChannelBlock = 32;  // that one thread adds gradients to: two cache lines of float32
inline constexpr int64_t kWindowStep = 16;    // columns: whole vectors

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <class A>
class RoIAlign {
 public:
  RoIAlign(const RoIGeometry& geometry, const Options& options, const A* rois)
      : g_(geometry), options_(options), rois_(rois) {}

  // Cut-outs (boxes, channels, rows, columns) of dense images in the layout of the geometry. Threads share the boxes
  // of channels_last images, and the channels of others, whose planes stay in the cache from box to box.
  void forward(const A* input, A* output) const {
    if (g_.channels_last) {
      torch::stable::parallel_for(0, g_.boxes, 1, [&](int64_t begin, int64_t end) {
        Scratch s;
        Box<A> box;
        for (int64_t i = begin; i < end; ++i) {
          place(box, i);
          cut_pixels(s, box, input + box.image * g_.image_values(), output + i * g_.channels * g_.bins());
        }
      });
      return;
    }
    std::vector<Window> windows(g_.boxes);
    place_all([&](int64_t i) { place_window(windows[i], i); });
    torch::stable::parallel_for(0, g_.channels, 1, [&](int64_t begin, int64_t end) {
      Scratch s;
      for (int64_t channel = begin; channel < end; ++channel) {
        for (int64_t i = 0; i < g_.boxes; ++i) {
          const A* plane = input + windows[i].box.image * g_.image_values() + channel * g_.positions();
          cut_plane(s, windows[i], plane, output + (i * g_.channels + channel) * g_.bins());
        }
      }
    });
  }

  // Adds to images of zeros. Each thread has channels of its own, to which it adds box after box: the number of
  // threads changes no bit.
  void backward(const A* grad, A* grad_input) const {
    g_.channels_last ? add_to_pixels(grad, grad_input) : add_to_planes(grad, grad_input);
  }

 private:
  struct Scratch {
    std::vector<int64_t> offsets;
    std::vector<A> weights, values, sums;
  };

  void place(Box<A>& box, int64_t i) const {
    box.place(rois_ + 5 * i, options_, g_.rows, g_.columns, g_.height, g_.width);
  }

  template <class Place>
  void place_all(const Place& place_one) const {
    torch::stable::parallel_for(0, g_.boxes, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        place_one(i);
      }
    });
  }

  void add_to_pixels(const A* grad, A* grad_input) const {
    std::vector<Box<A>> boxes(g_.boxes);
    place_all([&](int64_t i) { place(boxes[i], i); });
    const int64_t blocks = (g_.channels + kChannelBlock - 1) / kChannelBlock;
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      Scratch s;
      for (int64_t channel = begin * kChannelBlock; channel < std::min(end * kChannelBlock, g_.channels);
           channel += kChannelBlock) {
        const int64_t count = std::min(kChannelBlock, g_.channels - channel);
        for (int64_t i = 0; i < g_.boxes; ++i) {
          A* image = grad_input + boxes[i].image * g_.image_values() + channel;
          add_pixels(s, boxes[i], grad + (i * g_.channels + channel) * g_.bins(), count, image);
        }
      }
    });
  }

  void add_to_planes(const A* grad, A* grad_input) const {
    std::vector<Window> windows(g_.boxes);
    place_all([&](int64_t i) { place_window(windows[i], i); });
    torch::stable::parallel_for(0, g_.channels, 1, [&](int64_t begin, int64_t end) {
      Scratch s;
      for (int64_t channel = begin; channel < end; ++channel) {
        for (int64_t i = 0; i < g_.boxes; ++i) {
          A* plane = grad_input + windows[i].box.image * g_.image_values() + channel * g_.positions();
          add_plane(s, windows[i], grad + (i * g_.channels + channel) * g_.bins(), plane);
        }
      }
    });
  }

  // Pixels of channels_last images that make a bin.
  Runs<A> pixels_of(Scratch& s, const Box<A>& box, int64_t row, int64_t column) const {
    s.offsets.clear(), s.weights.clear();
    for (int64_t y = box.rows.begin(row); y < box.rows.end(row); ++y) {
      for (int64_t x = box.columns.begin(column); x < box.columns.end(column); ++x) {
        s.offsets.push_back((box.rows.pixels[y] * g_.width + box.columns.pixels[x]) * g_.channels);
        s.weights.push_back(box.rows.weights[y] * box.columns.weights[x]);
      }
    }
    const A samples = box.rows.divisor * box.columns.divisor;
    return {s.offsets.data(), s.weights.data(), static_cast<int64_t>(s.offsets.size()), samples};
  }

  void cut_pixels(Scratch& s, const Box<A>& box, const A* image, A* to) const {
    s.values.resize(g_.bins() * g_.channels);
    for (int64_t bin = 0; bin < g_.bins(); ++bin) {
      const auto runs = pixels_of(s, box, bin / g_.columns, bin % g_.columns);
      kernels_.combine(image, runs, g_.channels, s.values.data() + bin * g_.channels);
    }
    transpose(s.values.data(), g_.bins(), g_.channels, to);
  }

  void add_pixels(Scratch& s, const Box<A>& box, const A* grad, int64_t channels, A* image) const {
    s.values.resize(g_.bins() * channels);
    transpose(grad, channels, g_.bins(), s.values.data());
    for (int64_t bin = 0; bin < g_.bins(); ++bin) {
      const auto runs = pixels_of(s, box, bin / g_.columns, bin % g_.columns);
      kernels_.spread(s.values.data() + bin * channels, runs, channels, image);
    }
  }

  static void transpose(const A* from, int64_t rows, int64_t columns, A* to) {
    for (int64_t column = 0; column < columns; ++column) {
      for (int64_t row = 0; row < rows; ++row) {
        to[column * rows + row] = from[row * columns + column];
      }
    }
  }

  // Where a box reads the planes of contiguous images: a window of columns, whole vectors of them if the plane is that
  // wide, and in it the rows that `box` names.
  struct Window {
    Box<A> box;  // whose columns count from `begin`
    int64_t begin = 0, width = 0;
    std::vector<int64_t> offsets;

    Runs<A> rows_of_bin(int64_t row) const {
      const auto& rows = box.rows;
      const int64_t first = rows.begin(row);
      return {offsets.data() + first, rows.weights.data() + first, rows.end(row) - first, rows.divisor};
    }
  };

  void place_window(Window& window, int64_t i) const {
    place(window.box, i);
    auto& columns = window.box.columns.pixels;
    if (!columns.empty()) {
      const auto [first, last] = std::minmax_element(columns.begin(), columns.end());
      const int64_t wanted = (*last - *first + kWindowStep) / kWindowStep * kWindowStep;
      window.begin = std::max<int64_t>(0, std::min(*first, g_.width - wanted));
      window.width = std::min(wanted, g_.width - window.begin);
    }
    for (int64_t& column : columns) {
      column -= window.begin;
    }
    for (const int64_t row : window.box.rows.pixels) {
      window.offsets.push_back(row * g_.width + window.begin);
    }
  }

  // First the rows of every bin are combined, then their columns.
  void cut_plane(Scratch& s, const Window& window, const A* plane, A* to) const {
    const auto& columns = window.box.columns;
    s.values.resize(g_.rows * window.width);
    for (int64_t row = 0; row < g_.rows; ++row) {
      kernels_.combine(plane, window.rows_of_bin(row), window.width, s.values.data() + row * window.width);
    }
    s.sums.resize(g_.rows);
    for (int64_t bin = 0; bin < g_.columns; ++bin) {
      std::fill(s.sums.begin(), s.sums.end(), A(0));
      for (int64_t x = columns.begin(bin); x < columns.end(bin); ++x) {
        for (int64_t row = 0; row < g_.rows; ++row) {
          s.sums[row] += columns.weights[x] * s.values[row * window.width + columns.pixels[x]];
        }
      }
      for (int64_t row = 0; row < g_.rows; ++row) {
        to[row * g_.columns + bin] = s.sums[row] / columns.divisor;
      }
    }
  }

  void add_plane(Scratch& s, const Window& window, const A* grad, A* plane) const {
    const auto& columns = window.box.columns;
    s.values.assign(g_.rows * window.width, 0);
    for (int64_t bin = 0; bin < g_.columns; ++bin) {
      for (int64_t x = columns.begin(bin); x < columns.end(bin); ++x) {
        const A weight = columns.weights[x] / columns.divisor;
        for (int64_t row = 0; row < g_.rows; ++row) {
          s.values[row * window.width + columns.pixels[x]] += weight * grad[row * g_.columns + bin];
        }
      }
    }
    for (int64_t row = 0; row < g_.rows; ++row) {
      kernels_.spread(s.values.data() + row * window.width, window.rows_of_bin(row), window.width, plane);
    }
  }

  const RoIGeometry& g_;
  const Options& options_;
  const A* rois_;
  const cpu::roi::Kernels<A>& kernels_ = cpu::roi::kernels<A>();
};

// Calls the function with a value of the type that is computed in.
template <class Call>
void with_wide_type(ScalarType type, Call&& call) {
  type == ScalarType::Double ? call(double()) : call(float());
}

// Contiguous (boxes, 5) of the wide type; every image is in the batch.
template <class A>
Tensor checked_rois(const Tensor& rois, ScalarType wide, int64_t batch) {
  const Tensor found = torch::stable::contiguous(torch::stable::to(rois, wide));
  for (int64_t i = 0; i < found.size(0); ++i) {
    const A image = data<const A>(found)[5 * i];
    STD_TORCH_CHECK(
        image >= 0 && image < static_cast<A>(batch), "roi_align: box ", i, " is of image ", image, " in a batch of ",
        batch);
  }
  return found;
}

Tensor roi_align(
    const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height, int64_t pooled_width,
    int64_t sampling_ratio, bool aligned) {
  const auto format = check_roi_input(input, rois, pooled_height, pooled_width, sampling_ratio);
  const auto type = input.scalar_type(), wide = wide_type(type);
  const RoIGeometry g{input.size(0), input.size(1), input.size(2), input.size(3), rois.size(0),
                      pooled_height, pooled_width,  format == MemoryFormat::ChannelsLast};
  const Tensor images = torch::stable::contiguous(torch::stable::to(input, wide), format);
  const Tensor output = empty_tensor({g.boxes, g.channels, g.rows, g.columns}, images, MemoryFormat::Contiguous);
  with_wide_type(wide, [&](auto zero) {
    using A = decltype(zero);
    const Tensor boxes = checked_rois<A>(rois, wide, g.batch);
    const Options options{spatial_scale, sampling_ratio, aligned};
    RoIAlign<A>(g, options, data<const A>(boxes)).forward(data<const A>(images), data<A>(output));
  });
  return torch::stable::to(output, type);
}

Tensor roi_align_backward(
    const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t batch, int64_t channels, int64_t height,
    int64_t width, int64_t sampling_ratio, bool aligned, bool channels_last) {
  check_roi_grad(grad, rois, batch, channels, height, width, sampling_ratio);
  const auto type = grad.scalar_type(), wide = wide_type(type);
  const RoIGeometry g{batch, channels, height, width, rois.size(0), grad.size(2), grad.size(3), channels_last};
  const Tensor grads = torch::stable::contiguous(torch::stable::to(grad, wide));
  Tensor grad_input = empty_tensor(
      {batch, channels, height, width}, grads, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  torch::stable::zero_(grad_input);
  with_wide_type(wide, [&](auto zero) {
    using A = decltype(zero);
    const Tensor boxes = checked_rois<A>(rois, wide, batch);
    const Options options{spatial_scale, sampling_ratio, aligned};
    RoIAlign<A>(g, options, data<const A>(boxes)).backward(data<const A>(grads), data<A>(grad_input));
  });
  return torch::stable::to(grad_input, type);
}

}  // namespace
}  // namespace convbody

STABLE_TORCH_LIBRARY_IMPL(convbody, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&convbody::roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&convbody::roi_align_backward));
}

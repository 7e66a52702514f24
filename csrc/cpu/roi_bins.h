// Where RoIAlign (He et al. 2017, arXiv 1703.06870, section 3) reads an image for a box, and with which weights.
//
// A bin is the mean of samples on a grid, each interpolated bilinearly. Both are products of something vertical and
// something horizontal, and so the bin is a weighted sum over some rows and, within each, over some columns: samples
// that share pixels are merged before any channel is read.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace convbody::cpu::roi {

struct Options {
  double spatial_scale;
  int64_t sampling_ratio;
  bool aligned;
};

// The rows (or columns) that make each bin along one axis.
template <class A>
class Bins {
 public:
  // From `start`, `extent` pixels in `count` bins of `grid` samples each, in an image of `size` pixels.
  void fill(A start, A extent, int64_t count, int64_t grid, int64_t size) {
    pixels.clear(), weights.clear(), ends_.assign(1, 0);
    divisor = static_cast<A>(std::max<int64_t>(grid, 1));
    const A bin = extent / static_cast<A>(count);
    for (int64_t i = 0; i < count; ++i) {
      const A from = start + static_cast<A>(i) * bin;
      const auto [first, last] = samples_near(from, bin, grid, size);
      for (int64_t sample = first; sample < last; ++sample) {
        add(from + (static_cast<A>(sample) + A(0.5)) * bin / static_cast<A>(grid), size);
      }
      ends_.push_back(static_cast<int64_t>(pixels.size()));
    }
  }

  int64_t begin(int64_t bin) const { return ends_[bin]; }
  int64_t end(int64_t bin) const { return ends_[bin + 1]; }

  std::vector<int64_t> pixels;  // of all bins, one after the other
  std::vector<A> weights;
  A divisor;  // of the weights: samples of a bin

 private:
  // Samples that may lie in the image: a huge box has no more of them than the image has room for, and some.
  static std::pair<int64_t, int64_t> samples_near(A from, A bin, int64_t grid, int64_t size) {
    if (!(bin > 0) || grid <= 2 * (size + 4)) {
      return {0, grid};
    }
    const A step = bin / static_cast<A>(grid), all = static_cast<A>(grid);
    const A first = std::clamp((A(-1) - from) / step - 4, A(0), all);
    const A last = std::clamp((static_cast<A>(size) - from) / step + 4, A(0), all);
    return {static_cast<int64_t>(first), static_cast<int64_t>(last)};
  }

  void add(A position, int64_t size) {
    if (!(position >= -1 && position <= static_cast<A>(size))) {
      return;  // outside, or not a number
    }
    position = std::max(position, A(0));
    const int64_t low = static_cast<int64_t>(position);
    if (low >= size - 1) {
      add_pixel(size - 1, 1);
      return;
    }
    const A share = position - static_cast<A>(low);
    add_pixel(low, 1 - share);
    add_pixel(low + 1, share);
  }

  // The next sample mostly shares a pixel with the one before.
  void add_pixel(int64_t pixel, A weight) {
    const int64_t count = static_cast<int64_t>(pixels.size());
    for (int64_t i = count - 1; i >= std::max(ends_.back(), count - 2); --i) {
      if (pixels[i] == pixel) {
        weights[i] += weight;
        return;
      }
    }
    pixels.push_back(pixel), weights.push_back(weight);
  }

  std::vector<int64_t> ends_;
};

// A box, (image, x1, y1, x2, y2), on the feature map.
template <class A>
struct Box {
  int64_t image;
  Bins<A> rows, columns;

  void place(const A* roi, const Options& options, int64_t pooled_height, int64_t pooled_width, int64_t height,
             int64_t width) {
    image = static_cast<int64_t>(roi[0]);
    const A scale = static_cast<A>(options.spatial_scale), shift = options.aligned ? A(0.5) : A(0);
    const A left = roi[1] * scale - shift, top = roi[2] * scale - shift;
    A wide = roi[3] * scale - shift - left, high = roi[4] * scale - shift - top;
    if (!options.aligned) {
      wide = std::max(wide, A(1)), high = std::max(high, A(1));
    }
    rows.fill(top, high, pooled_height, samples(high, pooled_height, options), height);
    columns.fill(left, wide, pooled_width, samples(wide, pooled_width, options), width);
  }

 private:
  // Per bin; without a ratio one for each pixel, none in a box without extent or without an end.
  static int64_t samples(A extent, int64_t bins, const Options& options) {
    if (options.sampling_ratio > 0) {
      return options.sampling_ratio;
    }
    const A wanted = std::ceil(extent / static_cast<A>(bins));
    constexpr A most = 1 << 30;
    return wanted > 0 && std::isfinite(wanted) ? static_cast<int64_t>(std::min(wanted, most)) : 0;
  }
};

}  // namespace convbody::cpu::roi

// What the forward and the backward pass share on the CPU: strided views, scratch memory, threads, where samples lie,
// and the packed copies of image and weight that the kernels read.
//
// All sums are made in float32 (float64 for float64): float16 and bfloat16 are converted on the way in and out.

#pragma once

#include "../ops.h"
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace convbody::cpu {

template <class T>
using accumulate_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Bounds of the scratch memory, in bytes; their sum stays under 32 MiB for one thread.
constexpr int64_t kSlabBytes = 6 << 20;    // an image's copy, and the copy its gradient is summed in
constexpr int64_t kWeightBytes = 5 << 20;  // packed weights, and the sums of their gradient
constexpr int64_t kTileBytes = 1 << 20;    // what one thread keeps of columns: about a second-level cache
constexpr int64_t kTileRows = 96;          // output positions of a tile; more reuse nothing more

// Rows whose length is a power of two would all fall into the same few cache sets.
constexpr int64_t kRowPadding = 16;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Empty where they do not meet: its size is then not above zero.
inline Range intersection(Range a, Range b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }

// [0, count) in ranges of nearly one size, none above `limit`; a limit below one counts as one.
inline std::vector<Range> even_blocks(int64_t count, int64_t limit) {
  const int64_t size = divide_up(count, divide_up(count, std::max<int64_t>(1, limit)));
  std::vector<Range> blocks;
  for (int64_t begin = 0; begin < count; begin += size) {
    blocks.push_back({begin, std::min(count, begin + size)});
  }
  return blocks;
}

// Rows of a tile: what `room` and `most` allow, in whole blocks of the kernel where one fits.
inline int64_t tile_rows(int64_t room, int64_t most, int64_t block) {
  const int64_t rows = std::min(room, most);
  return rows >= block ? rows / block * block : std::max<int64_t>(1, rows);
}

// A tensor of four dimensions: its data and its strides. `channels` of them at `channel` lie together where c is 1.
template <class T>
struct View {
  T* data = nullptr;
  int64_t n = 0, c = 0, h = 0, w = 0;

  View() = default;
  explicit View(const Tensor& t)
      : data(static_cast<T*>(t.data_ptr())), n(t.stride(0)), c(t.stride(1)), h(t.stride(2)), w(t.stride(3)) {}
  T& at(int64_t in, int64_t ic, int64_t ih, int64_t iw) const { return data[in * n + ic * c + ih * h + iw * w]; }
};

// Uninitialised memory that begins at a cache line.
template <class A>
class Buffer {
 public:
  explicit Buffer(int64_t count = 0)
      : data_(count ? static_cast<A*>(::operator new(count * sizeof(A), std::align_val_t(64))) : nullptr) {}
  A* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(A* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<A, Free> data_;
};

inline int64_t thread_count() { return static_cast<int64_t>(torch::stable::get_num_threads()); }

// Calls work(slot) once for each thread, and returns when all are done.
template <class Work>
void run_on_threads(int64_t slots, const Work& work) {
  torch::stable::parallel_for(0, slots, 1, [&](int64_t first, int64_t last) {
    for (int64_t slot = first; slot < last; ++slot) {
      work(slot);
    }
  });
}

// A thread's part of [0, count); it may be empty.
inline Range share_of(int64_t count, int64_t slots, int64_t slot) {
  return {count * slot / slots, count * (slot + 1) / slots};
}

// Splits [0, count) into one range for each thread and calls work(slot, begin, end): slot picks the thread's scratch.
template <class Work>
void split_over_threads(int64_t count, int64_t slots, const Work& work) {
  run_on_threads(slots, [&](int64_t slot) {
    const Range share = share_of(count, slots, slot);
    if (share.size() > 0) {
      work(slot, share.begin, share.end);
    }
  });
}

// Where one tap of one deformable group samples the image. Anything that is not wholly beyond -1 and inside the size,
// infinities and NaN among them, samples nothing.
template <class A>
Sample<A> locate(A y, A x, A factor, int64_t height, int64_t width) {
  Sample<A> s{{-1, -1, -1, -1}, {0, 0, 0, 0}, 0, 0, factor};
  if (!(y > -1 && x > -1 && y < static_cast<A>(height) && x < static_cast<A>(width))) {
    return s;
  }
  const A top = std::floor(y), left = std::floor(x);
  const A ly = y - top, lx = x - left, hy = 1 - ly, hx = 1 - lx;
  const auto y0 = static_cast<int64_t>(top), x0 = static_cast<int64_t>(left);
  const bool rows[2] = {y0 >= 0, y0 + 1 < height}, columns[2] = {x0 >= 0, x0 + 1 < width};
  const A weights[4] = {hy * hx, hy * lx, ly * hx, ly * lx};
  for (int corner = 0; corner < 4; ++corner) {
    const int down = corner / 2, right = corner % 2;
    if (rows[down] && columns[right]) {
      s.pixel[corner] = (y0 + down) * width + x0 + right;
      s.weight[corner] = factor * weights[corner];
    }
  }
  s.y_fraction = ly, s.x_fraction = lx;
  return s;
}

// Places of all taps at the output positions [begin, begin + count) of image n, for one deformable group and tap.
template <class T>
struct Sampler {
  using A = accumulate_t<T>;
  const DeformConvGeometry& g;
  View<const T> offset, mask;  // mask.data is null where there is none

  void locate_tap(int64_t n, int64_t begin, int64_t count, int64_t offset_group, int64_t tap, Sample<A>* to) const {
    const int64_t channel = offset_group * g.taps() + tap;
    const int64_t tap_y = tap / g.kernel_w * g.dilation_h - g.pad_h, tap_x = tap % g.kernel_w * g.dilation_w - g.pad_w;
    int64_t oy = begin / g.out_width, ox = begin % g.out_width;
    for (int64_t i = 0; i < count; ++i) {
      const A y = static_cast<A>(oy * g.stride_h + tap_y) + static_cast<A>(offset.at(n, 2 * channel, oy, ox));
      const A x = static_cast<A>(ox * g.stride_w + tap_x) + static_cast<A>(offset.at(n, 2 * channel + 1, oy, ox));
      const A factor = mask.data ? static_cast<A>(mask.at(n, channel, oy, ox)) : A(1);
      to[i] = locate<A>(y, x, factor, g.height, g.width);
      if (++ox == g.out_width) {
        ox = 0, ++oy;
      }
    }
  }
};

// Channels that are sampled together: they follow each other in the image and in the columns, and move together.
struct Run {
  int64_t offset_group, channel, column, length;
};

// The runs of some channels, whose columns column_of(channel) gives.
template <class ColumnOf>
std::vector<Run> runs_of(const DeformConvGeometry& g, Range channels, const ColumnOf& column_of) {
  std::vector<Run> runs;
  for (int64_t c = channels.begin; c < channels.end; ++c) {
    const int64_t offset_group = c / g.offset_group_channels(), column = column_of(c);
    if (!runs.empty() && runs.back().offset_group == offset_group &&
        runs.back().column + runs.back().length == column) {
      ++runs.back().length;
    } else {
      runs.push_back({offset_group, c, column, 1});
    }
  }
  return runs;
}

// Copies some channels of image n to dense channels-last pixels. Columns go in blocks: a block's pixels stay
// in the first-level cache while the channels pass.
template <class T, class A>
void copy_to_pixels(const DeformConvGeometry& g, View<const T> image, int64_t n, Range range, A* to, int64_t slots) {
  const int64_t channels = range.size();
  split_over_threads(g.height, slots, [&](int64_t, int64_t first_row, int64_t last_row) {
    for (int64_t y = first_row; y < last_row; ++y) {
      for (int64_t x0 = 0; x0 < g.width; x0 += 16) {
        const int64_t x1 = std::min(g.width, x0 + 16);
        for (int64_t c = 0; c < channels; ++c) {
          for (int64_t x = x0; x < x1; ++x) {
            to[(y * g.width + x) * channels + c] = static_cast<A>(image.at(n, range.begin + c, y, x));
          }
        }
      }
    }
  });
}

template <class T, class A>
void copy_from_pixels(const DeformConvGeometry& g, const A* from, View<T> image, int64_t n, Range range,
                      int64_t slots) {
  const int64_t channels = range.size();
  split_over_threads(g.height, slots, [&](int64_t, int64_t first_row, int64_t last_row) {
    for (int64_t y = first_row; y < last_row; ++y) {
      for (int64_t x0 = 0; x0 < g.width; x0 += 16) {
        const int64_t x1 = std::min(g.width, x0 + 16);
        for (int64_t c = 0; c < channels; ++c) {
          for (int64_t x = x0; x < x1; ++x) {
            image.at(n, range.begin + c, y, x) = static_cast<T>(from[(y * g.width + x) * channels + c]);
          }
        }
      }
    }
  });
}

// Products in steps of k whose part of b stays in the first-level cache.
constexpr int64_t kDepthStep = 256;

template <class A>
void multiply_panel(const Kernels<A>& kernel, int64_t rows, int64_t depth, const A* a, int64_t a_row, const A* b,
                    int64_t b_row, A* c, int64_t c_row) {
  for (int64_t k = 0; k < depth; k += kDepthStep) {
    kernel.multiply(rows, std::min(kDepthStep, depth - k), a + k, a_row, b + k * b_row, b_row, c, c_row);
  }
}

// Whether the kernels can read (or add to) the image where it is: dense channels-last pixels of the type of the sums.
template <class T>
bool is_pixels(const DeformConvGeometry& g, const View<T>& image) {
  return std::is_same_v<std::remove_const_t<T>, accumulate_t<std::remove_const_t<T>>> && image.c == 1 &&
         image.w == g.channels && image.h == g.width * g.channels;
}

// Channels of an image's copy: as many as the bound allows, one at the least.
template <class A>
int64_t slab_channels(const DeformConvGeometry& g) {
  return std::max<int64_t>(1, kSlabBytes / (std::max<int64_t>(1, g.height * g.width) * sizeof(A)));
}

}  // namespace convbody::cpu

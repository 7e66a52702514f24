// The forward pass: columns of a tile of output positions are sampled tap by tap and multiplied at once, while they
// are in the cache. Threads share the output positions of an image.

#pragma once

#include "tiles.h"

namespace convbody::cpu {

template <class T>
class Forward {
  using A = accumulate_t<T>;

 public:
  Forward(const DeformConvGeometry& geometry, const Tensor& input, const Tensor& offset, const Tensor& weight,
          const std::optional<Tensor>& bias, const std::optional<Tensor>& mask, const Tensor& output)
      : g(geometry),
        image(input),
        weights(weight),
        out(output),
        bias_data(bias ? static_cast<const T*>(bias->data_ptr()) : nullptr),
        bias_stride(bias ? bias->stride(0) : 0),
        sampler{g, View<const T>(offset), mask ? View<const T>(*mask) : View<const T>()},
        zeros(g.channels) {
    std::fill_n(zeros.data(), g.channels, A(0));
  }

  void run() {
    const int64_t panel_bytes = g.taps() * g.group_channels() * kernel.panel * static_cast<int64_t>(sizeof(A));
    const auto blocks = even_blocks(g.groups * group_panels, 2 * kWeightBytes / panel_bytes);
    for (const Range panels : blocks) {
      pack_weights(panels);
      for (int64_t n = 0; n < g.batch; ++n) {
        convolve(n, panels);
      }
    }
  }

 private:
  // Output channels of one image. Where its channels are copied in several slabs, the sums wait between the slabs for
  // a band of positions at a time.
  void convolve(int64_t n, Range panels) {
    const int64_t first_group = panels.begin / group_panels, last_group = (panels.end - 1) / group_panels;
    const Range channels{first_group * g.group_channels(), (last_group + 1) * g.group_channels()};
    const bool in_place = is_pixels(g, image);
    const auto slabs = even_blocks(channels.size(), in_place ? channels.size() : slab_channels<A>(g));
    const int64_t sums_row = panels.size() * kernel.panel + kRowPadding;
    const bool one_slab = slabs.size() == 1;
    const int64_t band = one_slab ? g.out_positions() : std::max<int64_t>(1, kSlabBytes / (sums_row * sizeof(A)));
    Buffer<A> copy(in_place ? 0 : g.height * g.width * slabs[0].size());
    Buffer<A> band_sums(one_slab ? 0 : std::min(band, g.out_positions()) * sums_row);

    for (int64_t begin = 0; begin < g.out_positions(); begin += band) {
      const Range positions{begin, std::min(g.out_positions(), begin + band)};
      for (const Range slab : slabs) {
        const Range here{channels.begin + slab.begin, channels.begin + slab.end};
        Pixels<const A> pixels;
        if (in_place) {
          pixels = {reinterpret_cast<const A*>(&image.at(n, here.begin, 0, 0)), g.channels};
        } else {
          copy_to_pixels(g, image, n, here, copy.data(), slots);
          pixels = {copy.data(), here.size()};
        }
        const bool first = slab.begin == 0, last = slab.end == channels.size();
        convolve_slab({n, panels, here, pixels, sums_row, first, last}, positions, band_sums.data());
      }
    }
  }

  struct Slab {
    int64_t n;
    Range panels, channels;
    Pixels<const A> pixels;
    int64_t sums_row;
    bool first, last;  // of the slabs whose sums make an output
  };

  void convolve_slab(const Slab& slab, Range positions, A* band_sums) {
    const auto runs = runs_of(g, slab.channels, [&](int64_t c) { return c - slab.channels.begin; });
    const int64_t columns_row = slab.channels.size() + kRowPadding;
    const int64_t row_bytes = (columns_row + slab.sums_row) * sizeof(A) + sizeof(Sample<A>);
    const int64_t rows = tile_rows(kTileBytes / row_bytes, kTileRows, kernel.rows);
    Buffer<A> columns(slots * rows * columns_row), tile_sums(band_sums ? 0 : slots * rows * slab.sums_row);
    Buffer<Sample<A>> samples(slots * rows);

    split_over_threads(divide_up(positions.size(), kernel.rows), slots, [&](int64_t slot, int64_t begin, int64_t end) {
      const int64_t last = std::min(positions.size(), end * kernel.rows);
      for (int64_t row = begin * kernel.rows; row < last; row += rows) {
        const int64_t count = std::min(rows, last - row);
        A* sums = band_sums ? band_sums + row * slab.sums_row : tile_sums.data() + slot * rows * slab.sums_row;
        if (slab.first) {
          std::fill_n(sums, count * slab.sums_row, A(0));
        }
        add_tile(slab, runs, positions.begin + row, count, columns.data() + slot * rows * columns_row, columns_row,
                 samples.data() + slot * rows, sums);
        if (slab.last) {
          store_tile(slab, positions.begin + row, count, sums);
        }
      }
    });
  }

  void add_tile(const Slab& slab, const std::vector<Run>& runs, int64_t position, int64_t count, A* columns,
                int64_t columns_row, Sample<A>* samples, A* sums) const {
    for (int64_t tap = 0; tap < g.taps(); ++tap) {
      int64_t located = -1;
      for (const Run& run : runs) {
        if (run.offset_group != located) {
          located = run.offset_group;
          sampler.locate_tap(slab.n, position, count, located, tap, samples);
        }
        kernel.sample(samples, count, {slab.pixels.data + run.column, slab.pixels.stride}, zeros.data(), run.length,
                      columns + run.column, columns_row);
      }
      for (int64_t panel = slab.panels.begin; panel < slab.panels.end; ++panel) {
        const int64_t group_begin = panel / group_panels * g.group_channels();
        const Range channels = intersection(slab.channels, {group_begin, group_begin + g.group_channels()});
        const int64_t index = panel - slab.panels.begin;
        const A* packed_tap = packed.data() + (index * g.taps() + tap) * g.group_channels() * kernel.panel;
        multiply_panel(kernel, count, channels.size(), columns + channels.begin - slab.channels.begin, columns_row,
                       packed_tap + (channels.begin - group_begin) * kernel.panel, kernel.panel,
                       sums + index * kernel.panel, slab.sums_row);
      }
    }
  }

  // Positions of an output are dense in either format, so position p lies p pixels on.
  void store_tile(const Slab& slab, int64_t position, int64_t count, const A* sums) const {
    for (int64_t panel = slab.panels.begin; panel < slab.panels.end; ++panel) {
      const A* from = sums + (panel - slab.panels.begin) * kernel.panel;
      const Range outputs = outputs_of(panel);
      T* to = &out.at(slab.n, outputs.begin, 0, 0) + position * out.w;
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t o = 0; o < outputs.size(); ++o) {
          const A bias = bias_data ? static_cast<A>(bias_data[(outputs.begin + o) * bias_stride]) : A(0);
          to[i * out.w + o * out.c] = static_cast<T>(from[i * slab.sums_row + o] + bias);
        }
      }
    }
  }

  Range outputs_of(int64_t panel) const {
    const int64_t group = panel / group_panels, within = panel % group_panels * kernel.panel;
    const int64_t begin = group * g.group_out_channels() + within;
    return {begin, begin + std::min(kernel.panel, g.group_out_channels() - within)};
  }

  // packed[panel][tap][channel of the group][output of the panel], zero where a panel has no output.
  void pack_weights(Range panels) {
    const int64_t panel_size = g.taps() * g.group_channels() * kernel.panel;
    packed = Buffer<A>(panels.size() * panel_size);
    split_over_threads(panels.size(), slots, [&](int64_t, int64_t begin, int64_t end) {
      std::fill(packed.data() + begin * panel_size, packed.data() + end * panel_size, A(0));
      for (int64_t index = begin; index < end; ++index) {
        const Range outputs = outputs_of(panels.begin + index);
        for (int64_t o = outputs.begin; o < outputs.end; ++o) {
          A* to = packed.data() + index * panel_size + (o - outputs.begin);
          for (int64_t tap = 0; tap < g.taps(); ++tap) {
            for (int64_t c = 0; c < g.group_channels(); ++c, to += kernel.panel) {
              *to = static_cast<A>(weights.at(o, c, tap / g.kernel_w, tap % g.kernel_w));
            }
          }
        }
      }
    });
  }

  const DeformConvGeometry& g;
  const View<const T> image, weights;
  const View<T> out;
  const T* bias_data;
  const int64_t bias_stride;
  const Sampler<T> sampler;
  const Kernels<A>& kernel = kernels<A>();
  const int64_t group_panels = divide_up(g.group_out_channels(), kernel.panel);
  const int64_t slots = thread_count();
  Buffer<A> zeros, packed;
};

}  // namespace convbody::cpu

// The backward pass. Channels go in blocks whose weights fit a bound; output positions go in chunks, each in three
// steps that threads share in different ways, so that no two ever add to the same place. They wait for each other
// after the first, and after the others:
//   1. over positions: the gradient of the columns (a product), the columns again (sampled), and from both the
//      gradients of offset and mask;
//   2. over channels: the columns' gradients are added to the pixels they were sampled from;
//   3. over taps and channels: the products with the columns are added to the weight's gradient.
// Every sum is made in one order whatever the number of threads: the result is always the same.

#pragma once

#include "tiles.h"

namespace convbody::cpu {

template <class T>
class Backward {
  using A = accumulate_t<T>;

 public:
  Backward(const DeformConvGeometry& geometry, const Tensor& grad, const Tensor& input, const Tensor& offset,
           const Tensor& weight, const std::optional<Tensor>& mask, const Tensor& grad_input,
           const Tensor& grad_offset, const Tensor& grad_weight, const Tensor& grad_mask)
      : g(geometry),
        image(input),
        weights(weight),
        grads(grad),
        to_image(grad_input),
        to_offset(grad_offset),
        to_weight(grad_weight),
        to_mask(mask ? View<T>(grad_mask) : View<T>()),
        sampler{g, View<const T>(offset), mask ? View<const T>(*mask) : View<const T>()},
        zeros(g.channels) {
    std::fill_n(zeros.data(), g.channels, A(0));
    std::fill_n(to_offset.data, grad_offset.numel(), T(0));
    if (mask) {
      std::fill_n(to_mask.data, grad_mask.numel(), T(0));
    }
  }

  void run() {
    const int64_t panel_bytes = g.taps() * g.group_out_channels() * kernel.panel * static_cast<int64_t>(sizeof(A));
    int64_t limit = std::min(kWeightBytes / panel_bytes, kChunkColumns / (g.taps() * kernel.panel));
    if (!(in_place && out_in_place)) {
      limit = std::min(limit, slab_channels<A>(g) / panel_channels);
    }
    for (const Range panels : even_blocks(g.groups * group_panels, limit)) {
      run_block(make_block(panels));
    }
  }

 private:
  static constexpr int64_t kChunkColumns = 1 << 13;  // of one position, over all taps
  static constexpr int64_t kLine = 64 / sizeof(A);   // values of a cache line

  struct Block {
    Range panels, channels, outputs, offset_groups;
    std::vector<Run> runs;
    int64_t columns_row, grads_row, turned_row;  // of the matrices in Scratch
    int64_t rows, chunk;                         // positions of a tile, and of a chunk: a tile for each thread
  };

  Block make_block(Range panels) const {
    Block block;
    block.panels = panels;
    block.channels = {channels_of(panels.begin).begin, channels_of(panels.end - 1).end};
    block.outputs = {group_of(panels.begin) * g.group_out_channels(),
                     (group_of(panels.end - 1) + 1) * g.group_out_channels()};
    block.offset_groups = {block.channels.begin / g.offset_group_channels(),
                           (block.channels.end - 1) / g.offset_group_channels() + 1};
    block.runs = runs_of(g, block.channels, [&](int64_t c) {
      const int64_t group = c / g.group_channels(), within = c % g.group_channels();
      const int64_t panel = group * group_panels + within / panel_channels;
      return (panel - panels.begin) * kernel.panel + within % panel_channels;
    });
    block.columns_row = panels.size() * kernel.panel + kRowPadding;
    block.grads_row = block.outputs.size() + kRowPadding;
    const int64_t row_bytes = (2 * g.taps() * block.columns_row + 2 * block.grads_row + 4) * sizeof(A) +
                              block.offset_groups.size() * g.taps() * sizeof(Sample<A>);
    block.rows = tile_rows(2 * kTileBytes / row_bytes, 2 * kTileRows, kernel.rows);
    block.chunk = slots * block.rows;
    block.turned_row = block.chunk + kRowPadding;
    return block;
  }

  struct Scratch {
    Buffer<A> packed, weight_sums;              // [tap][panel][output of the group][channel of the panel]
    Buffer<A> columns, column_grads;            // [tap][position of the chunk][panel][channel of the panel]
    Buffer<A> grads, turned_grads;              // [position of the chunk][output] and the other way round
    Buffer<Sample<A>> samples;                  // [offset group][tap][position of the chunk]
    Buffer<A> dots;                             // [position of the chunk][4]
    Buffer<A> image_copy, image_sums;           // [pixel][channel]
  };

  // Everything that the channels of one block take part in, for all images.
  void run_block(const Block& block) {
    const int64_t weight_count = g.taps() * block.panels.size() * g.group_out_channels() * kernel.panel;
    const int64_t copied = g.height * g.width * block.channels.size();
    const Scratch s{Buffer<A>(weight_count),
                    Buffer<A>(weight_count),
                    Buffer<A>(g.taps() * block.chunk * block.columns_row),
                    Buffer<A>(g.taps() * block.chunk * block.columns_row),
                    Buffer<A>(block.chunk * block.grads_row),
                    Buffer<A>(block.outputs.size() * block.turned_row),
                    Buffer<Sample<A>>(block.chunk * block.offset_groups.size() * g.taps()),
                    Buffer<A>(block.chunk * 4),
                    Buffer<A>(in_place ? 0 : copied),
                    Buffer<A>(out_in_place ? 0 : copied)};
    pack_weights(block, s.packed.data());
    std::fill_n(s.weight_sums.data(), weight_count, A(0));
    std::fill_n(s.columns.data(), g.taps() * block.chunk * block.columns_row, A(0));  // panels' padding stays zero

    for (int64_t n = 0; n < g.batch; ++n) {
      const Pixels<const A> pixels = load_pixels(block, n, s);
      const Pixels<A> sums = clear_sums(block, n, s);
      for (int64_t begin = 0; begin < g.out_positions(); begin += block.chunk) {
        const int64_t count = std::min(block.chunk, g.out_positions() - begin);
        differentiate_columns(block, n, begin, count, pixels, s);
        run_on_threads(slots, [&](int64_t slot) {
          scatter_columns(block, count, share_of(divide_up(block.channels.size(), kLine), slots, slot), sums, s);
          add_to_weight(block, count, share_of(g.taps() * block.panels.size(), slots, slot), s);
        });
      }
      if (!out_in_place) {
        copy_from_pixels(g, s.image_sums.data(), to_image, n, block.channels, slots);
      }
    }
    store_weight(block, s.weight_sums.data());
  }

  Pixels<const A> load_pixels(const Block& block, int64_t n, const Scratch& s) const {
    if (in_place) {
      return {reinterpret_cast<const A*>(&image.at(n, block.channels.begin, 0, 0)), g.channels};
    }
    copy_to_pixels(g, image, n, block.channels, s.image_copy.data(), slots);
    return {s.image_copy.data(), block.channels.size()};
  }

  Pixels<A> clear_sums(const Block& block, int64_t n, const Scratch& s) const {
    Pixels<A> sums{s.image_sums.data(), block.channels.size()};
    if (out_in_place) {
      sums = {reinterpret_cast<A*>(&to_image.at(n, block.channels.begin, 0, 0)), g.channels};
    }
    split_over_threads(g.height * g.width, slots, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t pixel = begin; pixel < end; ++pixel) {
        std::fill_n(sums.data + pixel * sums.stride, block.channels.size(), A(0));
      }
    });
    return sums;
  }

  // Step 1, a thread's share of the chunk at once.
  void differentiate_columns(const Block& block, int64_t n, int64_t position, int64_t count, Pixels<const A> pixels,
                             const Scratch& s) const {
    split_over_threads(divide_up(count, kernel.rows), slots, [&](int64_t, int64_t begin, int64_t end) {
      const Range rows{begin * kernel.rows, std::min(count, end * kernel.rows)};
      load_grads(block, n, position, rows, s);
      for (int64_t tap = 0; tap < g.taps(); ++tap) {
        A* column_grads = s.column_grads.data() + (tap * block.chunk + rows.begin) * block.columns_row;
        std::fill_n(column_grads, rows.size() * block.columns_row, A(0));
        for (int64_t panel = block.panels.begin; panel < block.panels.end; ++panel) {
          const int64_t output = group_of(panel) * g.group_out_channels() - block.outputs.begin;
          multiply_panel(kernel, rows.size(), g.group_out_channels(),
                         s.grads.data() + rows.begin * block.grads_row + output, block.grads_row,
                         s.packed.data() + weight_panel(block, tap, panel), kernel.panel,
                         column_grads + (panel - block.panels.begin) * kernel.panel, block.columns_row);
        }
        differentiate_tap(block, n, position, rows, tap, pixels, s);
      }
    });
  }

  void differentiate_tap(const Block& block, int64_t n, int64_t position, Range rows, int64_t tap,
                         Pixels<const A> pixels, const Scratch& s) const {
    const int64_t first_column = (tap * block.chunk + rows.begin) * block.columns_row;
    auto* dots = reinterpret_cast<A(*)[4]>(s.dots.data()) + rows.begin;
    for (size_t i = 0; i < block.runs.size(); ++i) {
      const Run& run = block.runs[i];
      Sample<A>* samples = tap_samples(block, run.offset_group, tap, s) + rows.begin;
      if (i == 0 || block.runs[i - 1].offset_group != run.offset_group) {
        sampler.locate_tap(n, position + rows.begin, rows.size(), run.offset_group, tap, samples);
        std::fill_n(dots[0], 4 * rows.size(), A(0));
      }
      kernel.sample_with_dots(samples, rows.size(),
                              {pixels.data + run.channel - block.channels.begin, pixels.stride}, zeros.data(),
                              run.length, s.columns.data() + first_column + run.column,
                              s.column_grads.data() + first_column + run.column, block.columns_row, dots);
      if (i + 1 == block.runs.size() || block.runs[i + 1].offset_group != run.offset_group) {
        store_tap(n, position + rows.begin, rows.size(), run.offset_group, tap, samples, dots);
      }
    }
  }

  // The gradients of offset and mask. dots are the products of the columns' gradients with the four pixels; pixels
  // outside count as zero, so that a sample outside has no gradient. Other blocks may add for the same group.
  void store_tap(int64_t n, int64_t position, int64_t count, int64_t offset_group, int64_t tap,
                 const Sample<A>* samples, const A (*dots)[4]) const {
    const int64_t channel = offset_group * g.taps() + tap;
    T* by_y = &to_offset.at(n, 2 * channel, 0, 0) + position;
    T* by_x = &to_offset.at(n, 2 * channel + 1, 0, 0) + position;
    for (int64_t i = 0; i < count; ++i) {
      const A* d = dots[i];
      const A ly = samples[i].y_fraction, lx = samples[i].x_fraction, hy = 1 - ly, hx = 1 - lx;
      by_y[i] = static_cast<T>(static_cast<A>(by_y[i]) +
                               samples[i].factor * (hx * (d[2] - d[0]) + lx * (d[3] - d[1])));
      by_x[i] = static_cast<T>(static_cast<A>(by_x[i]) +
                               samples[i].factor * (hy * (d[1] - d[0]) + ly * (d[3] - d[2])));
    }
    if (to_mask.data) {
      T* by_mask = &to_mask.at(n, channel, 0, 0) + position;
      for (int64_t i = 0; i < count; ++i) {
        const A* d = dots[i];
        const A ly = samples[i].y_fraction, lx = samples[i].x_fraction, hy = 1 - ly, hx = 1 - lx;
        by_mask[i] = static_cast<T>(static_cast<A>(by_mask[i]) + hy * (hx * d[0] + lx * d[1]) +
                                    ly * (hx * d[2] + lx * d[3]));
      }
    }
  }

  // Step 2, for some of the cache lines of channels. Tile by tile, so that the order of the additions is the same
  // whatever the size of a chunk.
  void scatter_columns(const Block& block, int64_t count, Range lines, Pixels<A> sums, const Scratch& s) const {
    const Range mine{block.channels.begin + lines.begin * kLine,
                     block.channels.begin + std::min(block.channels.size(), lines.end * kLine)};
    for (int64_t row = 0; row < count; row += block.rows) {
      for (int64_t tap = 0; tap < g.taps(); ++tap) {
        const A* column_grads = s.column_grads.data() + (tap * block.chunk + row) * block.columns_row;
        for (const Run& run : block.runs) {
          const Range part = intersection(mine, {run.channel, run.channel + run.length});
          if (part.size() > 0) {
            kernel.scatter(tap_samples(block, run.offset_group, tap, s) + row, std::min(block.rows, count - row),
                           column_grads + run.column + part.begin - run.channel, block.columns_row, part.size(),
                           {sums.data + part.begin - block.channels.begin, sums.stride});
          }
        }
      }
    }
  }

  // Step 3, for some of the panels of all taps: the gradients, transposed, times the columns.
  void add_to_weight(const Block& block, int64_t count, Range units, const Scratch& s) const {
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      const int64_t tap = unit / block.panels.size(), panel = block.panels.begin + unit % block.panels.size();
      const int64_t output = group_of(panel) * g.group_out_channels() - block.outputs.begin;
      const A* columns =
          s.columns.data() + tap * block.chunk * block.columns_row + (panel - block.panels.begin) * kernel.panel;
      multiply_panel(kernel, g.group_out_channels(), count, s.turned_grads.data() + output * block.turned_row,
                     block.turned_row, columns, block.columns_row,
                     s.weight_sums.data() + weight_panel(block, tap, panel), kernel.panel);
    }
  }

  // The output's gradients at some positions, both ways round: each product reads along its rows. Turned in blocks
  // of positions that stay in the first-level cache.
  void load_grads(const Block& block, int64_t n, int64_t position, Range rows, const Scratch& s) const {
    for (int64_t first = rows.begin; first < rows.end; first += 16) {
      const int64_t last = std::min(rows.end, first + 16);
      for (int64_t i = first; i < last; ++i) {
        const int64_t oy = (position + i) / g.out_width, ox = (position + i) % g.out_width;
        A* to = s.grads.data() + i * block.grads_row;
        for (int64_t o = 0; o < block.outputs.size(); ++o) {
          to[o] = static_cast<A>(grads.at(n, block.outputs.begin + o, oy, ox));
        }
      }
      for (int64_t o = 0; o < block.outputs.size(); ++o) {
        for (int64_t i = first; i < last; ++i) {
          s.turned_grads.data()[o * block.turned_row + i] = s.grads.data()[i * block.grads_row + o];
        }
      }
    }
  }

  void pack_weights(const Block& block, A* packed) const {
    std::fill_n(packed, g.taps() * block.panels.size() * g.group_out_channels() * kernel.panel, A(0));
    for_each_weight(block, [&](int64_t o, int64_t c, int64_t tap, int64_t at) {
      packed[at] = static_cast<A>(weights.at(o, c, tap / g.kernel_w, tap % g.kernel_w));
    });
  }

  void store_weight(const Block& block, const A* sums) const {
    for_each_weight(block, [&](int64_t o, int64_t c, int64_t tap, int64_t at) {
      to_weight.at(o, c, tap / g.kernel_w, tap % g.kernel_w) = static_cast<T>(sums[at]);
    });
  }

  // visit(output, channel of the group, tap, place in the packed weights)
  template <class Visit>
  void for_each_weight(const Block& block, const Visit& visit) const {
    split_over_threads(block.panels.size(), slots, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t panel = block.panels.begin + begin; panel < block.panels.begin + end; ++panel) {
        const Range channels = channels_of(panel);
        const int64_t group = group_of(panel);
        for (int64_t o = 0; o < g.group_out_channels(); ++o) {
          for (int64_t tap = 0; tap < g.taps(); ++tap) {
            for (int64_t c = channels.begin; c < channels.end; ++c) {
              visit(group * g.group_out_channels() + o, c % g.group_channels(), tap,
                    weight_panel(block, tap, panel) + o * kernel.panel + c - channels.begin);
            }
          }
        }
      }
    });
  }

  int64_t group_of(int64_t panel) const { return panel / group_panels; }

  Range channels_of(int64_t panel) const {
    const int64_t within = panel % group_panels * panel_channels;
    const int64_t begin = group_of(panel) * g.group_channels() + within;
    return {begin, begin + std::min(panel_channels, g.group_channels() - within)};
  }

  int64_t weight_panel(const Block& block, int64_t tap, int64_t panel) const {
    return (tap * block.panels.size() + panel - block.panels.begin) * g.group_out_channels() * kernel.panel;
  }

  Sample<A>* tap_samples(const Block& block, int64_t offset_group, int64_t tap, const Scratch& s) const {
    return s.samples.data() + ((offset_group - block.offset_groups.begin) * g.taps() + tap) * block.chunk;
  }

  const DeformConvGeometry& g;
  const View<const T> image, weights, grads;
  const View<T> to_image, to_offset, to_weight, to_mask;
  const Sampler<T> sampler;
  const Kernels<A>& kernel = kernels<A>();
  const bool in_place = is_pixels(g, image), out_in_place = is_pixels(g, to_image);
  // A panel has fewer channels than columns only where so many pixels would not fit a slab.
  const int64_t panel_channels =
      in_place && out_in_place ? kernel.panel : std::min(kernel.panel, slab_channels<A>(g));
  const int64_t group_panels = divide_up(g.group_channels(), panel_channels);
  const int64_t slots = thread_count();
  Buffer<A> zeros;
};

}  // namespace convbody::cpu

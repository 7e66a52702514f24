// A 3x3 convolution by Winograd's minimal filtering (Lavin and Gray 2015, arXiv 1509.09308, section 4): tiles of the
// input and the filters are transformed, multiplied as 36 products of matrices, and transformed back.

#pragma once

#include "pointwise.h"
#include "winograd_kernels.h"

namespace convbody::cpu {

class Winograd {
 public:
  Winograd(const FusedConvGeometry& geometry, const Fused& fused) : g(geometry), io(fused) {}

  void run() {
    std::fill_n(zeros.data(), g.channels, 0.f);
    transform_filters();
    const int64_t tile_bytes = winograd::kProducts * (in_row + out_row) * static_cast<int64_t>(sizeof(float));
    const int64_t share = divide_up(g.batch * tiles_y * tiles_x, slots);
    const auto blocks = even_blocks(g.batch * tiles_y * tiles_x, std::min(share, kBlockBytes / tile_bytes));
    const int64_t most = blocks[0].size();
    Buffer<float> inputs(slots * most * winograd::kProducts * in_row);
    Buffer<float> sums(slots * most * winograd::kProducts * out_row);
    split_over_threads(static_cast<int64_t>(blocks.size()), slots, [&](int64_t slot, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        convolve(blocks[i], inputs.data() + slot * most * winograd::kProducts * in_row,
                 sums.data() + slot * most * winograd::kProducts * out_row);
      }
    });
  }

 private:
  static constexpr int64_t kBlockBytes = 4 << 20;  // of the transformed tiles of one thread: a share of the last cache

  struct Place {
    int64_t n, y, x;  // the image, and the first output
  };

  Place place_of(int64_t tile) const {
    const int64_t n = tile / (tiles_y * tiles_x), within = tile % (tiles_y * tiles_x);
    return {n, within / tiles_x * winograd::kOut, within % tiles_x * winograd::kOut};
  }

  // Where channels of pixel (y, x) begin in images of `channels`.
  int64_t offset(int64_t n, int64_t y, int64_t x, int64_t channels) const {
    return ((n * g.height + y) * g.width + x) * channels;
  }

  void convolve(Range tiles, float* inputs, float* sums) const {
    const int64_t count = tiles.size();
    for (int64_t i = 0; i < count; ++i) {
      transform_input(place_of(tiles.begin + i), inputs + i * in_row, count * in_row);
    }
    for (int64_t product = 0; product < winograd::kProducts; ++product) {
      float* to = sums + product * count * out_row;
      std::fill_n(to, count * out_row, 0.f);
      for (int64_t panel = 0; panel < panels; ++panel) {
        multiply_panel(kernel, count, g.channels, inputs + product * count * in_row, in_row,
                       packed.data() + (product * panels + panel) * g.channels * kernel.panel, kernel.panel,
                       to + panel * kernel.panel, out_row);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      transform_output(place_of(tiles.begin + i), sums + i * out_row, count * out_row);
    }
  }

  void transform_input(Place place, float* to, int64_t plane) const {
    const float* pixels[winograd::kProducts];
    for (int64_t i = 0; i < winograd::kProducts; ++i) {
      const int64_t y = place.y - 1 + i / winograd::kIn, x = place.x - 1 + i % winograd::kIn;
      const bool inside = y >= 0 && y < g.height && x >= 0 && x < g.width;
      pixels[i] = inside ? io.images + offset(place.n, y, x, g.channels) : zeros.data();
    }
    transforms.transform_input(pixels, g.channels, to, plane);
  }

  void transform_output(Place place, const float* from, int64_t plane) const {
    constexpr int64_t count = winograd::kOut * winograd::kOut;
    float* outputs[count];
    const float* residual[count];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t y = place.y + i / winograd::kOut, x = place.x + i % winograd::kOut;
      const int64_t at = offset(place.n, y, x, g.out_channels);
      const bool inside = y < g.height && x < g.width;
      outputs[i] = inside ? io.output + at : nullptr;
      residual[i] = inside && io.residual ? io.residual + at : nullptr;
    }
    transforms.transform_output(from, plane, g.out_channels, {io.bias, io.residual ? residual : nullptr, io.relu},
                                outputs);
  }

  // packed[product][panel][channel][output of the panel]
  void transform_filters() {
    constexpr int64_t taps = winograd::kTaps * winograd::kTaps;
    const int64_t panel_size = g.channels * kernel.panel;
    split_over_threads(panels, slots, [&](int64_t, int64_t begin, int64_t end) {
      Buffer<float> filters(taps * kernel.panel);
      for (int64_t panel = begin; panel < end; ++panel) {
        for (int64_t c = 0; c < g.channels; ++c) {
          for (int64_t o = 0; o < kernel.panel; ++o) {
            const float* from = io.filters + ((panel * kernel.panel + o) * g.channels + c) * taps;
            for (int64_t tap = 0; tap < taps; ++tap) {
              filters.data()[tap * kernel.panel + o] = from[tap];
            }
          }
          transforms.transform_filters(filters.data(), kernel.panel,
                                       packed.data() + panel * panel_size + c * kernel.panel, panels * panel_size);
        }
      }
    });
  }

  const FusedConvGeometry g;
  const Fused io;
  const Kernels<float>& kernel = kernels<float>();
  const winograd::Kernels& transforms = winograd::kernels();
  const int64_t tiles_y = divide_up(g.height, winograd::kOut), tiles_x = divide_up(g.width, winograd::kOut);
  const int64_t in_row = g.channels + kRowPadding, out_row = g.out_channels + kRowPadding;
  const int64_t panels = g.out_channels / kernel.panel;
  const int64_t slots = thread_count();
  Buffer<float> zeros{g.channels}, packed{winograd::kProducts * g.channels * g.out_channels};
};

}  // namespace convbody::cpu

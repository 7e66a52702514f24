// A 1x1 convolution as a product of matrices, which begins with bias and residual and ends with the ReLU while a tile
// of the output is in the cache.

#pragma once

#include "../fused_conv.h"
#include "tiles.h"

namespace convbody::cpu {

// What a fused convolution reads and writes: dense, images with their channels last, filters (out, in, k, k).
struct Fused {
  const float* images;
  const float* filters;
  const float* bias;
  const float* residual;  // or null
  bool relu;
  float* output;
};

class Pointwise {
 public:
  Pointwise(const FusedConvGeometry& geometry, const Fused& fused) : g(geometry), io(fused) {}

  void run() {
    pack_filters();
    const int64_t rows = g.batch * g.positions();
    const int64_t room = kTileBytes / (g.channels * static_cast<int64_t>(sizeof(float)));
    const int64_t tile = tile_rows(room, kTileRows, kernel.rows);
    split_over_threads(divide_up(rows, tile), slots, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        multiply_tile({i * tile, std::min(rows, (i + 1) * tile)});
      }
    });
  }

 private:
  void multiply_tile(Range rows) const {
    const float* from = io.images + rows.begin * g.channels;
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t at = rows.begin * g.out_channels + panel * kernel.panel;
      float* to = io.output + at;
      begin_sums(rows.size(), io.residual ? io.residual + at : nullptr, io.bias + panel * kernel.panel, to);
      multiply_panel(kernel, rows.size(), g.channels, from, g.channels,
                     packed.data() + panel * g.channels * kernel.panel, kernel.panel, to, g.out_channels);
      if (io.relu) {
        cut_negative(rows.size(), to);
      }
    }
  }

  void begin_sums(int64_t rows, const float* residual, const float* bias, float* to) const {
    for (int64_t i = 0; i < rows; ++i, to += g.out_channels) {
      for (int64_t o = 0; o < kernel.panel; ++o) {
        to[o] = residual ? residual[i * g.out_channels + o] + bias[o] : bias[o];
      }
    }
  }

  void cut_negative(int64_t rows, float* to) const {
    for (int64_t i = 0; i < rows; ++i, to += g.out_channels) {
      for (int64_t o = 0; o < kernel.panel; ++o) {
        to[o] = to[o] < 0 ? 0 : to[o];
      }
    }
  }

  // packed[panel][channel][output of the panel]
  void pack_filters() {
    split_over_threads(panels, slots, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t o = begin * kernel.panel; o < end * kernel.panel; ++o) {
        float* to = packed.data() + o / kernel.panel * g.channels * kernel.panel + o % kernel.panel;
        for (int64_t c = 0; c < g.channels; ++c) {
          to[c * kernel.panel] = io.filters[o * g.channels + c];
        }
      }
    });
  }

  const FusedConvGeometry g;
  const Fused io;
  const Kernels<float>& kernel = kernels<float>();
  const int64_t panels = g.out_channels / kernel.panel;
  const int64_t slots = thread_count();
  Buffer<float> packed{g.channels * g.out_channels};
};

}  // namespace convbody::cpu

// How images are cut into tiles that stay in the cache, and what is added up over them.
//
// Half types are computed in float32. Sums over a tile are made in the type of the computation, sums over tiles in
// float64, always of the same tiles in the same order: the number of threads changes no bit.

#pragma once

#include "activated_norm_kernels.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace convbody::cpu::norm {

template <class T>
using accumulate_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline constexpr int64_t kTileValues = 1 << 14;  // half a second-level cache with room for three tensors
inline constexpr int64_t kShares = 64;           // of channels_last pixels, summed on their own: more than there are threads

// Values as the kernels take them: where they are, or a copy of another type.
template <class T>
class Values {
  using A = accumulate_t<T>;

 public:
  const A* read(const T* from, int64_t count) {
    if constexpr (std::is_same_v<T, A>) {
      return from;
    } else {
      copy_.resize(count);
      std::transform(from, from + count, copy_.data(), [](T value) { return static_cast<A>(value); });
      return copy_.data();
    }
  }

  // Where to compute what write() then brings to `to`.
  A* room(T* to, int64_t count) {
    if constexpr (std::is_same_v<T, A>) {
      return to;
    } else {
      copy_.resize(count);
      return copy_.data();
    }
  }

  void write(T* to, int64_t count) const {
    if constexpr (!std::is_same_v<T, A>) {
      std::transform(copy_.begin(), copy_.begin() + count, to, [](A value) { return static_cast<T>(value); });
    }
  }

 private:
  std::vector<A> copy_;
};

// Tiles lie dense in memory. A tile of contiguous images is of one channel, one of channels_last images of them all.
struct Tile {
  Rows rows;
  int64_t offset, channel;

  int64_t values() const { return rows.count * rows.width; }
  int64_t values_of_channel() const { return rows.each ? rows.count : rows.width; }
};

inline int64_t tile_rows(const ImageLayout& layout) {
  return std::max<int64_t>(1, kTileValues / std::max<int64_t>(1, layout.channels));
}

// Tiles of the plane of one channel of one image.
template <class Visit>
void for_each_tile_of_plane(const ImageLayout& layout, int64_t image, int64_t channel, const Visit& visit) {
  const int64_t plane = (image * layout.channels + channel) * layout.positions;
  for (int64_t i = 0; i < layout.positions; i += kTileValues) {
    visit(Tile{{1, std::min(kTileValues, layout.positions - i), false}, plane + i, channel});
  }
}

// Tiles of the pixels [begin, end) of channels_last images.
template <class Visit>
void for_each_tile_of_pixels(const ImageLayout& layout, int64_t begin, int64_t end, const Visit& visit) {
  const int64_t rows = tile_rows(layout);
  for (int64_t i = begin; i < end; i += rows) {
    visit(Tile{{std::min(rows, end - i), layout.channels, true}, i * layout.channels, 0});
  }
}

// visit(scratch, tile) for all tiles, in any order; scratch is the thread's.
template <class Scratch, class Visit>
void for_each_tile(const ImageLayout& layout, const Visit& visit) {
  const auto with_scratch = [&](auto&& loop) {
    Scratch scratch;
    loop([&](const Tile& tile) { visit(scratch, tile); });
  };
  if (layout.channels_last) {
    torch::stable::parallel_for(0, layout.batch * layout.positions, tile_rows(layout), [&](int64_t begin, int64_t end) {
      with_scratch([&](const auto& on_tile) { for_each_tile_of_pixels(layout, begin, end, on_tile); });
    });
    return;
  }
  const int64_t grain = std::max<int64_t>(1, kTileValues / std::max<int64_t>(1, layout.positions));
  torch::stable::parallel_for(0, layout.batch * layout.channels, grain, [&](int64_t begin, int64_t end) {
    with_scratch([&](const auto& on_tile) {
      for (int64_t plane = begin; plane < end; ++plane) {
        for_each_tile_of_plane(layout, plane / layout.channels, plane % layout.channels, on_tile);
      }
    });
  });
}

// Two sums per channel over some tiles, float64.
struct Sums {
  explicit Sums(int64_t channels) : first(channels), second(channels) {}
  std::vector<double> first, second;

  void add(const Sums& other, int64_t channel) {
    for (size_t i = 0; i < other.first.size(); ++i) {
      first[channel + i] += other.first[i];
      second[channel + i] += other.second[i];
    }
  }
};

// Mean and sum of squared deviations per channel over some tiles (Chan et al. 1979).
struct Moments {
  explicit Moments(int64_t channels) : count(channels), mean(channels), squares(channels) {}
  std::vector<double> count, mean, squares;

  void add(const Moments& other, int64_t channel) {
    for (size_t i = 0; i < other.count.size(); ++i) {
      add(channel + i, other.count[i], other.mean[i], other.squares[i]);
    }
  }

  void add(int64_t channel, double other_count, double other_mean, double other_squares) {
    const double all = count[channel] + other_count, delta = other_mean - mean[channel];
    squares[channel] += other_squares + delta * delta * count[channel] * (other_count / all);
    mean[channel] += delta * (other_count / all);
    count[channel] = all;
  }
};

// What add_tile(scratch, tile, total) adds up over all tiles of each channel. `total` begins at the tile's channel.
template <class Scratch, class Total, class AddTile>
Total reduce(const ImageLayout& layout, const AddTile& add_tile) {
  Total total(layout.channels);
  if (!layout.channels_last) {
    const int64_t grain = std::max<int64_t>(1, kTileValues / std::max<int64_t>(1, layout.values_of_channel()));
    torch::stable::parallel_for(0, layout.channels, grain, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      for (int64_t channel = begin; channel < end; ++channel) {
        Total own(1);
        for (int64_t image = 0; image < layout.batch; ++image) {
          for_each_tile_of_plane(
              layout, image, channel, [&](const Tile& tile) { add_tile(scratch, tile, own); });
        }
        total.add(own, channel);
      }
    });
    return total;
  }
  const int64_t pixels = layout.batch * layout.positions, rows = tile_rows(layout);
  const int64_t share = std::max<int64_t>(1, (pixels + kShares * rows - 1) / (kShares * rows)) * rows;
  const int64_t count = (pixels + share - 1) / share;
  std::vector<Total> parts(count, Total(layout.channels));
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t part = begin; part < end; ++part) {
      for_each_tile_of_pixels(layout, part * share, std::min(pixels, (part + 1) * share), [&](const Tile& tile) {
        add_tile(scratch, tile, parts[part]);
      });
    }
  });
  for (const Total& part : parts) {
    total.add(part, 0);
  }
  return total;
}

}  // namespace convbody::cpu::norm

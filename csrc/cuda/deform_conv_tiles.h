// The tiles of work that deformable convolution is cut into. Columns (samples for every tap and channel) exist in
// shared memory only, as one factor of a matrix product.
//
// Memory: input, output and their gradients are channels_last. weight is (Cout, taps, C / groups) in forward_tile and
// (groups, taps, C / groups, Cout / groups) in backward_data_tile. `wide` says that 16-byte loads are possible: that
// pointers are aligned and that runs of channels are multiples of 16 bytes.

#pragma once

#include "product.h"
#include "sampling.h"

namespace convbody::cuda {

// 128 bytes of the summed dimension at a time where it is the inner one of the tiles; half as many values where it is
// the outer one.
template <class T>
struct Tiles {
  static constexpr int SIDE = sizeof(T) == 8 ? 64 : 128;
  static constexpr int DEPTH = 128 / sizeof(T);
  static constexpr int POSITIONS = sizeof(T) == 2 ? 64 : 32;
  using Forward = ProductShape<T, SIDE, SIDE, DEPTH, false>;          // positions, out channels, channels
  using BackwardData = ProductShape<T, SIDE / 2, SIDE, DEPTH, false>;  // positions, channels, out channels
  using BackwardWeight = ProductShape<T, SIDE, SIDE, POSITIONS, true>;  // out channels, channels, positions
};

// Both factors of a product, and later, in the same place, the product.
template <class T, class S>
struct Factors {
  static constexpr int FACTORS = (S::SIZE_A + S::SIZE_B) * sizeof(T);
  static constexpr int PRODUCT = S::SIZE_OUT * sizeof(accumulate_t<T>);
  alignas(128) unsigned char memory[FACTORS > PRODUCT ? FACTORS : PRODUCT];

  CONVBODY_DEVICE T* a() { return reinterpret_cast<T*>(memory); }
  CONVBODY_DEVICE T* b() { return a() + S::SIZE_A; }
  CONVBODY_DEVICE accumulate_t<T>* out() { return reinterpret_cast<accumulate_t<T>*>(memory); }
};

// ---- forward ---------------------------------------------------------------------------------------------------

template <class T>
struct ForwardArgs {
  Shape shape;
  const T *input, *offset, *mask, *weight, *bias;  // mask and bias may be null
  T* output;
  bool wide;

  int64_t tiles() const {
    using S = typename Tiles<T>::Forward;
    return parts(shape.positions, S::M) * shape.groups * parts(shape.group_out_channels, S::N);
  }
};

template <class T>
struct ForwardShared {
  using S = typename Tiles<T>::Forward;
  Factors<T, S> factors;
  Place places[S::M];
  Sample<accumulate_t<T>> samples[S::M];
  // The tile. Here rather than in the registers of every thread, which the sums need.
  int64_t first, out, channel;  // the first position, output channel and input channel
  int positions, outs;
};

// SIDE positions by SIDE out channels of one group; the sum runs over taps, and for each over the group's channels.
template <class T, class Block>
CONVBODY_DEVICE void forward_tile(Block block, ForwardShared<T>& shared, const ForwardArgs<T>& args, int64_t tile) {
  using S = typename Tiles<T>::Forward;
  using A = accumulate_t<T>;
  constexpr int V = Vec<T>::size, RUNS = S::DEPTH / V;
  const Shape& shape = args.shape;

  block.each_thread([&](int thread) {
    if (thread == 0) {
      const int64_t out_tiles = parts(shape.group_out_channels, S::N);
      const int64_t out_in_group = tile % out_tiles * S::N;
      const int64_t group = tile / out_tiles % shape.groups;
      shared.first = tile / out_tiles / shape.groups * S::M;
      shared.out = group * shape.group_out_channels + out_in_group;
      shared.channel = group * shape.group_channels;
      shared.positions = fitting(shape.positions - shared.first, S::M);
      shared.outs = fitting(shape.group_out_channels - out_in_group, S::N);
    }
  });
  typename Block::template PerThread<Product<T, S>> product;
  block.each_thread([&](int thread) {
    block.mine(product, thread).clear();
    if (thread < shared.positions) {
      shared.places[thread] = place_of(shape, shared.first + thread);
    }
  });

  for (int64_t tap = 0; tap < shape.taps; ++tap) {
    int count;
    for (int64_t channel = 0; channel < shape.group_channels; channel += count) {  // within the group
      count = fitting(shape.run - channel % shape.run, S::DEPTH);
      if (channel == 0 || (shared.channel + channel) % shape.offset_group_channels == 0) {
        block.each_thread([&](int thread) {
          if (thread < S::M) {
            const int64_t offset_group = (shared.channel + channel) / shape.offset_group_channels;
            shared.samples[thread] =
                thread < shared.positions
                    ? sample_at(shape, args.offset, args.mask, shared.places[thread], tap, offset_group)
                    : Sample<A>();
          }
        });
      }
      block.each_thread([&](int thread) {
#pragma unroll 1
        for (int i = thread; i < S::M * RUNS; i += kThreads) {
          const int row = i / RUNS, at = i % RUNS * V;
          vec(shared.factors.a() + row * S::PITCH_A + at) = sampled_run(
              shape, args.input, shared.samples[row], shared.channel + channel + at, count - at, args.wide);
        }
#pragma unroll 2
        for (int i = thread; i < S::N * RUNS; i += kThreads) {
          const int row = i / RUNS, at = i % RUNS * V;
          const int64_t filter = ((shared.out + row) * shape.taps + tap) * shape.group_channels;
          vec(shared.factors.b() + row * S::PITCH_B + at) =
              load_run(args.weight + filter + channel + at, row < shared.outs ? count - at : 0, args.wide);
        }
      });
      block.each_thread([&](int thread) {
        block.mine(product, thread).add(shared.factors.a(), shared.factors.b(), thread);
      });
    }
  }

  block.each_thread([&](int thread) { block.mine(product, thread).store(shared.factors.out(), thread); });
  block.each_thread([&](int thread) {
    for (int i = thread; i < S::M * S::N; i += kThreads) {
      const int row = i / S::N, column = i % S::N;
      if (row < shared.positions && column < shared.outs) {
        const int64_t out = shared.out + column;
        const A sum = shared.factors.out()[row * S::PITCH_OUT + column];
        args.output[(shared.first + row) * shape.out_channels + out] =
            narrow<T>(args.bias ? sum + widen(args.bias[out]) : sum);
      }
    }
  });
}

// ---- backward: input, offset and mask --------------------------------------------------------------------------

template <class T>
struct BackwardDataArgs {
  Shape shape;
  const T *grad, *input, *offset, *mask, *weight;  // mask may be null
  accumulate_t<T>* grad_input;  // summed into by atomics, unless columns takes what belongs there
  T *grad_offset, *grad_mask;   // grad_mask may be null
  accumulate_t<T>* columns;     // null, or (last - first, taps, C): gradients of the columns before the mask
  int64_t first, last;          // positions
  bool wide;                    // of the out channels

  int64_t tiles() const {
    using S = typename Tiles<T>::BackwardData;
    return parts(last - first, S::M) * shape.taps * shape.offset_groups;
  }
};

template <class T>
struct BackwardDataShared {
  using S = typename Tiles<T>::BackwardData;
  Factors<T, S> factors;
  Sample<accumulate_t<T>> samples[S::M];
  // Per position: y, x and mask, a sum for each lane of the warp that adds them up.
  accumulate_t<T> sums[S::M][3][kWarp + 1];
};

// The gradients of the columns of SIDE / 2 positions, one tap and one deformable group, SIDE channels at a time, and
// what follows from them. Offsets and mask belong to one tile each, so their sums have a fixed order.
template <class T, class Block>
CONVBODY_DEVICE void backward_data_tile(
    Block block, BackwardDataShared<T>& shared, const BackwardDataArgs<T>& args, int64_t tile) {
  using S = typename Tiles<T>::BackwardData;
  using A = accumulate_t<T>;
  constexpr int V = Vec<T>::size, RUNS = S::DEPTH / V, WARPS = kThreads / kWarp;
  const Shape& shape = args.shape;
  const int64_t tap = tile % shape.taps;
  const int64_t offset_group = tile / shape.taps % shape.offset_groups;
  const int64_t first = args.first + tile / shape.taps / shape.offset_groups * S::M;
  const int positions = fitting(args.last - first, S::M);
  const int64_t first_channel = offset_group * shape.offset_group_channels;
  const int64_t last_channel = first_channel + shape.offset_group_channels;

  typename Block::template PerThread<Product<T, S>> product;
  block.each_thread([&](int thread) {
    if (thread < positions) {
      shared.samples[thread] =
          sample_at(shape, args.offset, args.mask, place_of(shape, first + thread), tap, offset_group);
    }
    for (int i = thread; i < S::M * 3 * (kWarp + 1); i += kThreads) {
      (&shared.sums[0][0][0])[i] = 0;
    }
  });

  int count;
  for (int64_t channel = first_channel; channel < last_channel; channel += count) {
    count = fitting(shape.run - channel % shape.run, S::N);
    const int64_t group = channel / shape.group_channels;
    block.each_thread([&](int thread) { block.mine(product, thread).clear(); });
    for (int64_t out = 0; out < shape.group_out_channels; out += S::DEPTH) {  // within the group
      const int outs = fitting(shape.group_out_channels - out, S::DEPTH);
      block.each_thread([&](int thread) {
#pragma unroll 1
        for (int i = thread; i < S::M * RUNS; i += kThreads) {
          const int row = i / RUNS, at = i % RUNS * V;
          vec(shared.factors.a() + row * S::PITCH_A + at) = load_run(
              args.grad + (first + row) * shape.out_channels + group * shape.group_out_channels + out + at,
              row < positions ? outs - at : 0, args.wide);
        }
#pragma unroll 1
        for (int i = thread; i < S::N * RUNS; i += kThreads) {
          const int row = i / RUNS, at = i % RUNS * V;
          const int64_t column = (group * shape.taps + tap) * shape.group_channels + channel % shape.group_channels + row;
          vec(shared.factors.b() + row * S::PITCH_B + at) = load_run(
              args.weight + column * shape.group_out_channels + out + at, row < count ? outs - at : 0, args.wide);
        }
      });
      block.each_thread([&](int thread) {
        block.mine(product, thread).add(shared.factors.a(), shared.factors.b(), thread);
      });
    }
    block.each_thread([&](int thread) { block.mine(product, thread).store(shared.factors.out(), thread); });

    // A warp has every eighth position, a lane every 32nd channel: neighbours read and add to neighbours.
    block.each_thread([&](int thread) {
      const int lane = thread % kWarp;
      for (int row = thread / kWarp; row < positions; row += WARPS) {
        const Sample<A> sample = shared.samples[row];
        A sums[3] = {0, 0, 0};
        for (int c = lane; c < count; c += kWarp) {
          const A slope = shared.factors.out()[row * S::PITCH_OUT + c];
          A value = 0, by_y = 0, by_x = 0;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (sample.has(i)) {
              const int64_t at = sample.pixel_at(i, shape.width) * shape.channels + channel + c;
              const A pixel = widen(args.input[at]);
              value += sample.share(i) * pixel;
              by_y += sample.by_y(i) * pixel;
              by_x += sample.by_x(i) * pixel;
              if (!args.columns) {
                atomicAdd(args.grad_input + at, slope * sample.mask * sample.share(i));
              }
            }
          }
          if (args.columns) {
            const int64_t column = (first + row - args.first) * shape.taps + tap;
            args.columns[column * shape.channels + channel + c] = slope;
          }
          sums[0] += slope * sample.mask * by_y;
          sums[1] += slope * sample.mask * by_x;
          sums[2] += slope * value;
        }
#pragma unroll
        for (int j = 0; j < 3; ++j) {
          shared.sums[row][j][lane] += sums[j];
        }
      }
    });
  }

  block.each_thread([&](int thread) {
    for (int i = thread; i < S::M * 3; i += kThreads) {
      const int row = i % S::M, j = i / S::M;
      if (row < positions) {
        A sum = 0;
        for (int lane = 0; lane < kWarp; ++lane) {
          sum += shared.sums[row][j][lane];
        }
        const Place place = place_of(shape, first + row);
        const int64_t plane = (place.image * shape.offset_groups + offset_group) * shape.taps + tap;
        if (j < 2) {
          args.grad_offset[(2 * plane + j) * shape.out_pixels + place.pixel] = narrow<T>(sum);
        } else if (args.grad_mask) {
          args.grad_mask[plane * shape.out_pixels + place.pixel] = narrow<T>(sum);
        }
      }
    }
  });
}

// ---- backward: input, in a fixed order -------------------------------------------------------------------------

template <class T>
struct GatherArgs {
  Shape shape;
  const T *offset, *mask;           // mask may be null
  const accumulate_t<T>* columns;   // (last - first, taps, C), as backward_data_tile leaves them
  accumulate_t<T>* grad_input;      // added to
  int64_t first, last;              // positions

  int64_t tiles() const {
    return shape.batch * shape.height * shape.offset_groups * parts(shape.offset_group_channels, kThreads);
  }
};

template <class T>
struct GatherShared {
  Sample<accumulate_t<T>> samples[kThreads];
  unsigned hits[kThreads / kWarp];  // bit i of word w: sample w * 32 + i touches the row
};

// One row of one image, one channel per thread, which alone adds to it, going through all samples in their order.
template <class T, class Block>
CONVBODY_DEVICE void gather_tile(Block block, GatherShared<T>& shared, const GatherArgs<T>& args, int64_t tile) {
  using A = accumulate_t<T>;
  const Shape& shape = args.shape;
  const int64_t channel_tiles = parts(shape.offset_group_channels, kThreads);
  const int64_t channel_tile = tile % channel_tiles;
  const int64_t offset_group = tile / channel_tiles % shape.offset_groups;
  const int64_t row = tile / channel_tiles / shape.offset_groups;  // through the whole batch
  const int64_t image = row / shape.height;
  const int64_t start = image * shape.out_pixels;
  const int64_t first = args.first > start ? args.first : start;
  const int64_t end = (image + 1) * shape.out_pixels;
  const int64_t last = args.last < end ? args.last : end;

  for (int64_t tap = 0; tap < shape.taps; ++tap) {
    for (int64_t base = first; base < last; base += kThreads) {
      block.each_thread([&](int thread) {
        if (thread < kThreads / kWarp) {
          shared.hits[thread] = 0;
        }
      });
      block.each_thread([&](int thread) {
        if (base + thread < last) {
          const Sample<A> sample =
              sample_at(shape, args.offset, args.mask, place_of(shape, base + thread), tap, offset_group);
          shared.samples[thread] = sample;
          bool hit = false;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            hit = hit || (sample.has(i) && sample.pixel_at(i, shape.width) / shape.width == row);
          }
          if (hit) {
            atomicOr(&shared.hits[thread / kWarp], 1u << thread % kWarp);
          }
        }
      });
      block.each_thread([&](int thread) {
        const int64_t c = channel_tile * kThreads + thread;
        if (c >= shape.offset_group_channels) {
          return;
        }
        const int64_t channel = offset_group * shape.offset_group_channels + c;
        for (int word = 0; word < kThreads / kWarp; ++word) {
          for (unsigned hits = shared.hits[word]; hits != 0; hits &= hits - 1) {
            const int at = word * kWarp + lowest_bit(hits);
            const Sample<A> sample = shared.samples[at];
            const int64_t column = (base + at - args.first) * shape.taps + tap;
            const A slope = args.columns[column * shape.channels + channel] * sample.mask;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int64_t pixel = sample.pixel_at(i, shape.width);
              if (sample.has(i) && pixel / shape.width == row) {
                args.grad_input[pixel * shape.channels + channel] += slope * sample.share(i);
              }
            }
          }
        }
      });
    }
  }
}

// ---- backward: weight ------------------------------------------------------------------------------------------

template <class T>
struct BackwardWeightArgs {
  Shape shape;
  const T *grad, *input, *offset, *mask;  // mask may be null
  accumulate_t<T>* partial;               // (splits, Cout, taps, C / groups)
  int64_t splits, split_positions;        // the positions of split i start at i * split_positions
  bool wide, wide_out;                    // of the channels and the out channels

  // Tiles of one split.
  int64_t split_tiles() const {
    using S = typename Tiles<T>::BackwardWeight;
    return parts(shape.group_out_channels, S::M) * (shape.channels / shape.run) * parts(shape.run, S::N) *
           shape.taps;
  }
  int64_t tiles() const { return splits * split_tiles(); }
};

template <class T>
struct BackwardWeightShared {
  using S = typename Tiles<T>::BackwardWeight;
  Factors<T, S> factors;
  Sample<accumulate_t<T>> samples[kThreads];
  // The tile, as in ForwardShared.
  int64_t first, last;   // positions
  int64_t out, channel;  // the first of the tile
  int64_t tap, split, offset_group;
  int outs, count;  // output channels and channels
};

// SIDE out channels by SIDE channels of one tap, summed over the positions of one split.
template <class T, class Block>
CONVBODY_DEVICE void backward_weight_tile(
    Block block, BackwardWeightShared<T>& shared, const BackwardWeightArgs<T>& args, int64_t tile) {
  using S = typename Tiles<T>::BackwardWeight;
  using A = accumulate_t<T>;
  constexpr int V = Vec<T>::size, RUNS_A = S::M / V, RUNS_B = S::N / V;
  const Shape& shape = args.shape;

  typename Block::template PerThread<Product<T, S>> product;
  block.each_thread([&](int thread) {
    block.mine(product, thread).clear();
    if (thread == 0) {
      const int64_t out_tiles = parts(shape.group_out_channels, S::M), run_tiles = parts(shape.run, S::N);
      const int64_t channel_tiles = shape.channels / shape.run * run_tiles;
      const int64_t out_in_group = tile % out_tiles * S::M;
      const int64_t channel_tile = tile / out_tiles % channel_tiles;
      const int64_t channel_in_run = channel_tile % run_tiles * S::N;
      shared.channel = channel_tile / run_tiles * shape.run + channel_in_run;
      shared.out = shared.channel / shape.group_channels * shape.group_out_channels + out_in_group;
      shared.tap = tile / out_tiles / channel_tiles % shape.taps;
      shared.split = tile / out_tiles / channel_tiles / shape.taps;
      shared.offset_group = shared.channel / shape.offset_group_channels;
      shared.outs = fitting(shape.group_out_channels - out_in_group, S::M);
      shared.count = fitting(shape.run - channel_in_run, S::N);
      shared.first = shared.split * args.split_positions;
      const int64_t last = shared.first + args.split_positions;
      shared.last = last < shape.positions ? last : shape.positions;
    }
  });

  for (int64_t base = shared.first; base < shared.last; base += kThreads) {
    block.each_thread([&](int thread) {
      shared.samples[thread] =
          base + thread < shared.last
              ? sample_at(
                    shape, args.offset, args.mask, place_of(shape, base + thread), shared.tap, shared.offset_group)
              : Sample<A>();
    });
    for (int start = 0; start < kThreads && base + start < shared.last; start += S::DEPTH) {
      block.each_thread([&](int thread) {
#pragma unroll 1
        for (int i = thread; i < S::DEPTH * RUNS_B; i += kThreads) {
          const int row = i / RUNS_B, at = i % RUNS_B * V;
          vec(shared.factors.b() + row * S::PITCH_B + at) = sampled_run(
              shape, args.input, shared.samples[start + row], shared.channel + at, shared.count - at, args.wide);
        }
#pragma unroll 1
        for (int i = thread; i < S::DEPTH * RUNS_A; i += kThreads) {
          const int row = i / RUNS_A, at = i % RUNS_A * V;
          const int64_t position = base + start + row;
          vec(shared.factors.a() + row * S::PITCH_A + at) = load_run(
              args.grad + position * shape.out_channels + shared.out + at,
              position < shared.last ? shared.outs - at : 0, args.wide_out);
        }
      });
      block.each_thread([&](int thread) {
        block.mine(product, thread).add(shared.factors.a(), shared.factors.b(), thread);
      });
    }
  }

  block.each_thread([&](int thread) { block.mine(product, thread).store(shared.factors.out(), thread); });
  block.each_thread([&](int thread) {
    for (int i = thread; i < S::M * S::N; i += kThreads) {
      const int row = i / S::N, column = i % S::N;
      if (row < shared.outs && column < shared.count) {
        const int64_t filter = (shared.split * shape.out_channels + shared.out + row) * shape.taps + shared.tap;
        const int64_t channel = shared.channel % shape.group_channels + column;
        args.partial[filter * shape.group_channels + channel] = shared.factors.out()[row * S::PITCH_OUT + column];
      }
    }
  });
}

// The gradient of the weight at `index` of (Cout, C / groups, taps): the sum of the splits, in their order.
template <class T>
CONVBODY_DEVICE void reduce_weight(const BackwardWeightArgs<T>& args, T* grad_weight, int64_t index) {
  const Shape& shape = args.shape;
  const int64_t tap = index % shape.taps;
  const int64_t channel = index / shape.taps % shape.group_channels;
  const int64_t out = index / shape.taps / shape.group_channels;
  const int64_t split_size = shape.out_channels * shape.taps * shape.group_channels;
  const int64_t from = (out * shape.taps + tap) * shape.group_channels + channel;
  accumulate_t<T> sum = 0;
  for (int64_t split = 0; split < args.splits; ++split) {
    sum += args.partial[split * split_size + from];
  }
  grad_weight[index] = narrow<T>(sum);
}

}  // namespace convbody::cuda

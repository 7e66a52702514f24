// Activated batch norm on a GPU: what a block of threads does. Like other tiles, these are compiled for the CPU too.
//
// Half types are computed in float32. Sums are of the same values in the same order at each call: no atomics.

#pragma once

#include "../activated_norm.h"
#include "block.h"

#include <cmath>
#include <cstdint>

namespace convbody::cuda::norm {

constexpr int kLanes = 32;  // channels side by side in a block that adds up channels_last images

template <class A>
struct Options {
  Activation activation;
  A slope;
  A lowest;  // of elu: what an output that has been rounded to -1 counts as
  A eps;

  CONVBODY_DEVICE A activate(A z) const {
    if (z > 0 || activation == Activation::Identity) {
      return z;
    }
    return activation == Activation::Elu ? std::expm1(z) : z * slope;
  }

  CONVBODY_DEVICE A undo(A y) const {
    if (y > 0 || activation == Activation::Identity) {
      return y;
    }
    return activation == Activation::Elu ? std::log1p(y < lowest ? lowest : y) : y / slope;
  }

  // The gradient before the activation, from the one behind it.
  CONVBODY_DEVICE A gradient(A grad, A y) const {
    if (y > 0 || activation == Activation::Identity) {
      return grad;
    }
    return activation == Activation::Elu ? grad * (y + 1) : grad * slope;
  }

  CONVBODY_DEVICE A away_from_zero(A weight) const {
    return weight < 0 ? (weight > -eps ? -eps : weight) : (weight < eps ? eps : weight);
  }

  CONVBODY_DEVICE A rstd(A var) const { return A(1) / std::sqrt(var + eps); }
};

// Division of numbers that mostly fit in 32 bits, where it is several times as fast.
CONVBODY_DEVICE int64_t divide(int64_t a, int64_t b) {
  return ((a | b) >> 32) == 0 ? static_cast<uint32_t>(a) / static_cast<uint32_t>(b) : a / b;
}

// Values that are moved at once.
template <class T, int N>
struct alignas(N * sizeof(T)) Run {
  T at[N];
};

// Images to images: op.value(channel, values) for the values of op.inputs at every place. A thread takes N values, all
// of one channel or (channels_last) of consecutive ones; 1, or as many as 16 bytes hold where that divides evenly.
template <class Op, int N>
struct Map {
  struct Shared {};
  Op op;
  ImageLayout layout;

  template <class Block>
  CONVBODY_DEVICE void operator()(const Block& block, Shared&, int64_t tile) const {
    block.each_thread([&](int thread) {
      const int64_t i = (tile * kThreads + thread) * N;
      if (i < layout.batch * layout.channels * layout.positions) {
        run(i);
      }
    });
  }

 private:
  using T = typename Op::Value;

  CONVBODY_DEVICE void run(int64_t i) const {
    Run<T, N> in[Op::kInputs], out;
    for (int k = 0; k < Op::kInputs; ++k) {
      in[k] = *reinterpret_cast<const Run<T, N>*>(op.inputs[k] + i);
    }
    const int64_t before = layout.channels_last ? i : divide(i, layout.positions);
    const int64_t first = before - divide(before, layout.channels) * layout.channels;
    auto channel = op.channel(first);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (j > 0 && layout.channels_last) {
        channel = op.channel(first + j);
      }
      accumulate_t<T> values[Op::kInputs];
      for (int k = 0; k < Op::kInputs; ++k) {
        values[k] = widen<T>(in[k].at[j]);
      }
      out.at[j] = narrow<T>(op.value(channel, values));
    }
    *reinterpret_cast<Run<T, N>*>(op.output + i) = out;
  }
};

template <class T>
struct Forward {
  using Value = T;
  using A = accumulate_t<T>;
  static constexpr int kInputs = 1;
  const T* inputs[1];
  T* output;
  const A *mean, *var, *weight, *bias;
  Options<A> options;

  struct Channel {
    A mean, scale, bias;
  };
  CONVBODY_DEVICE Channel channel(int64_t c) const {
    return {mean[c], options.away_from_zero(weight[c]) * options.rstd(var[c]), bias[c]};
  }
  CONVBODY_DEVICE A value(const Channel& c, const A (&x)[1]) const {
    return options.activate((x[0] - c.mean) * c.scale + c.bias);
  }
};

template <class T>
struct Backward {
  using Value = T;
  using A = accumulate_t<T>;
  static constexpr int kInputs = 2;
  const T* inputs[2];  // gradient and output
  T* output;
  const A *var, *weight, *bias, *mean_weight, *mean_bias;
  Options<A> options;

  struct Channel {
    A bias, scale, tilt, shift;
  };
  CONVBODY_DEVICE Channel channel(int64_t c) const {
    const A rstd = options.rstd(var[c]), scale = options.away_from_zero(weight[c]) * rstd;
    return {bias[c], scale, -rstd * mean_weight[c], -scale * mean_bias[c]};
  }
  CONVBODY_DEVICE A value(const Channel& c, const A (&in)[2]) const {
    return options.gradient(in[0], in[1]) * c.scale + (options.undo(in[1]) - c.bias) * c.tilt + c.shift;
  }
};

// Channels to states: what op.add() gathers over the values of each. Blocks of a split take every splits-th part.
template <class Op>
struct Reduce {
  using State = typename Op::State;
  struct Shared {
    State states[kThreads];
  };
  Op op;
  ImageLayout layout;
  int lanes;       // threads that read side by side
  int64_t splits;  // of the values of each channel
  int64_t chunk;   // of positions, that a row of threads reads in one go; channels_last: pixels have one each
  State* partial;  // splits x channels

  CONVBODY_HOST_DEVICE int64_t groups() const {
    return layout.channels_last ? parts(layout.channels, lanes) : layout.channels;
  }

  template <class Block>
  CONVBODY_DEVICE void operator()(const Block& block, Shared& shared, int64_t tile) const {
    const int64_t split = tile / groups(), group = tile % groups();
    block.each_thread([&](int thread) {
      State state{};
      const int64_t row = split * (kThreads / lanes) + thread / lanes, rows = splits * (kThreads / lanes);
      if (layout.channels_last) {
        add_pixels(state, group * lanes + thread % lanes, row, rows);
      } else {
        add_planes(state, group, thread % lanes, row, rows);
      }
      shared.states[thread] = state;
    });
    const int kept = layout.channels_last ? lanes : 1;
    for (int step = kThreads / 2; step >= kept; step /= 2) {
      block.each_thread([&](int thread) {
        if (thread < step) {
          shared.states[thread].merge(shared.states[thread + step]);
        }
      });
    }
    block.each_thread([&](int thread) {
      const int64_t channel = group * kept + thread;
      if (thread < kept && channel < layout.channels) {
        partial[split * layout.channels + channel] = shared.states[thread];
      }
    });
  }

 private:
  CONVBODY_DEVICE void add_pixels(State& state, int64_t channel, int64_t row, int64_t rows) const {
    if (channel < layout.channels) {
      for (int64_t pixel = row; pixel < layout.batch * layout.positions; pixel += rows) {
        op.add(state, channel, pixel * layout.channels + channel);
      }
    }
  }

  CONVBODY_DEVICE void add_planes(State& state, int64_t channel, int lane, int64_t row, int64_t rows) const {
    const int64_t chunks = parts(layout.positions, chunk);
    for (int64_t unit = row; unit < layout.batch * chunks; unit += rows) {
      const int64_t image = divide(unit, chunks), begin = (unit - image * chunks) * chunk;
      const int64_t end = begin + chunk < layout.positions ? begin + chunk : layout.positions;
      const int64_t plane = (image * layout.channels + channel) * layout.positions;
      for (int64_t i = begin + lane; i < end; i += lanes) {
        op.add(state, channel, plane + i);
      }
    }
  }
};

// Then a thread for each channel: op.finish(channel, state) with the states of all splits.
template <class Op>
struct Finish {
  using State = typename Op::State;
  struct Shared {};
  Op op;
  int64_t channels, splits;
  const State* partial;

  template <class Block>
  CONVBODY_DEVICE void operator()(const Block& block, Shared&, int64_t tile) const {
    block.each_thread([&](int thread) {
      const int64_t channel = tile * kThreads + thread;
      if (channel < channels) {
        State total{};
        for (int64_t split = 0; split < splits; ++split) {
          total.merge(partial[split * channels + channel]);
        }
        op.finish(channel, total);
      }
    });
  }
};

// Mean and squared deviations (Welford 1962, Chan et al. 1979). Values count from the first that a thread sees, so that
// a mean far from zero takes no digits from the deviations.
template <class T>
struct Statistics {
  using A = accumulate_t<T>;
  const T* input;
  A *mean, *var;

  struct State {
    A count, origin, mean, squares;
    CONVBODY_DEVICE void merge(const State& other) {
      if (count == 0) {
        *this = other;
      } else if (other.count > 0) {
        const A delta = (other.origin - origin) + (other.mean - mean), share = other.count / (count + other.count);
        mean += delta * share;
        squares += other.squares + delta * delta * count * share;
        count += other.count;
      }
    }
  };
  CONVBODY_DEVICE void add(State& state, int64_t, int64_t i) const {
    const A value = widen<T>(input[i]);
    if (state.count == 0) {
      state.origin = value;
    }
    const A x = value - state.origin, delta = x - state.mean;
    state.count += 1;
    state.mean += delta / state.count;
    state.squares += delta * (x - state.mean);
  }
  CONVBODY_DEVICE void finish(int64_t channel, const State& total) const {
    mean[channel] = total.origin + total.mean;
    var[channel] = total.squares / total.count;
  }
};

// The gradients of weight and bias.
template <class T>
struct BackwardSums {
  using A = accumulate_t<T>;
  const T *grad, *output;
  const A *weight, *bias;
  Options<A> options;
  A *grad_weight, *grad_bias;

  struct State {
    A grads, products;  // with the values before the activation, less the bias
    CONVBODY_DEVICE void merge(const State& other) {
      grads += other.grads;
      products += other.products;
    }
  };
  CONVBODY_DEVICE void add(State& state, int64_t channel, int64_t i) const {
    const A y = widen<T>(output[i]), g = options.gradient(widen<T>(grad[i]), y);
    state.grads += g;
    state.products += g * (options.undo(y) - bias[channel]);
  }
  CONVBODY_DEVICE void finish(int64_t channel, const State& total) const {
    grad_weight[channel] = total.products / options.away_from_zero(weight[channel]);
    grad_bias[channel] = total.grads;
  }
};

}  // namespace convbody::cuda::norm

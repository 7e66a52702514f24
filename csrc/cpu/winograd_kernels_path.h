// The transforms in vectors of CONVBODY_VECTOR_BYTES, in namespace CONVBODY_PATH: channels lie along the vectors.
// winograd_kernels.cpp includes this file once for each instruction set: no include guard, no includes.

namespace convbody::cpu::winograd::CONVBODY_PATH {

typedef float Vector __attribute__((vector_size(CONVBODY_VECTOR_BYTES), aligned(sizeof(float)), may_alias));
inline constexpr int64_t kLanes = CONVBODY_VECTOR_BYTES / sizeof(float);
inline constexpr float kLow = 0.70710678118654752440f, kHigh = 1.41421356237309504880f;  // the points

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector value) { *reinterpret_cast<Vector*>(p) = value; }

// One direction of each transform, from `from` at every `step` to `to` at every `step`.
inline void input_direction(const Vector* from, Vector* to, int64_t step) {
  const Vector d0 = from[0], d1 = from[step], d2 = from[2 * step], d3 = from[3 * step], d4 = from[4 * step],
               d5 = from[5 * step];
  const Vector low_even = d4 - 2.f * d2, low_odd = kLow * (d3 - 2.f * d1);
  const Vector high_even = d4 - .5f * d2, high_odd = kHigh * (d3 - .5f * d1);
  to[0] = d0 + d4 - 2.5f * d2;
  to[step] = low_even + low_odd;
  to[2 * step] = low_even - low_odd;
  to[3 * step] = high_even + high_odd;
  to[4 * step] = high_even - high_odd;
  to[5 * step] = d1 + d5 - 2.5f * d3;
}

inline void filter_direction(const Vector* from, Vector* to, int64_t step) {
  const Vector g0 = from[0], g1 = from[step], g2 = from[2 * step];
  const Vector low_even = -2.f / 3 * g0 - 1.f / 3 * g2, low_odd = kHigh / -3.f * g1;
  const Vector high_even = 1.f / 6 * g0 + 1.f / 3 * g2, high_odd = kHigh / 6.f * g1;
  to[0] = g0;
  to[step] = low_even + low_odd;
  to[2 * step] = low_even - low_odd;
  to[3 * step] = high_even + high_odd;
  to[4 * step] = high_even - high_odd;
  to[5 * step] = g2;
}

inline void output_direction(const Vector* from, Vector* to, int64_t step) {
  const Vector low_even = from[step] + from[2 * step], low_odd = from[step] - from[2 * step];
  const Vector high_even = from[3 * step] + from[4 * step], high_odd = from[3 * step] - from[4 * step];
  to[0] = from[0] + low_even + high_even;
  to[step] = kLow * low_odd + kHigh * high_odd;
  to[2 * step] = .5f * low_even + 2.f * high_even;
  to[3 * step] = .5f * kLow * low_odd + 2.f * kHigh * high_odd + from[5 * step];
}

inline void transform_input(const float* const* pixels, int64_t channels, float* to, int64_t plane) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vector tile[kProducts];
    for (int64_t i = 0; i < kProducts; ++i) {
      tile[i] = load(pixels[i] + c);
    }
    for (int64_t column = 0; column < kIn; ++column) {
      input_direction(tile + column, tile + column, kIn);
    }
    for (int64_t row = 0; row < kIn; ++row) {
      input_direction(tile + row * kIn, tile + row * kIn, 1);
    }
    for (int64_t i = 0; i < kProducts; ++i) {
      store(to + i * plane + c, tile[i]);
    }
  }
}

inline void transform_filters(const float* filters, int64_t channels, float* to, int64_t plane) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vector taps[kTaps * kTaps], tile[kProducts];
    for (int64_t i = 0; i < kTaps * kTaps; ++i) {
      taps[i] = load(filters + i * channels + c);
    }
    Vector rows[kIn * kTaps];
    for (int64_t column = 0; column < kTaps; ++column) {
      filter_direction(taps + column, rows + column, kTaps);
    }
    for (int64_t row = 0; row < kIn; ++row) {
      filter_direction(rows + row * kTaps, tile + row * kIn, 1);
    }
    for (int64_t i = 0; i < kProducts; ++i) {
      store(to + i * plane + c, tile[i]);
    }
  }
}

inline void transform_output(const float* from, int64_t plane, int64_t channels, Finish finish,
                             float* const* outputs) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vector tile[kProducts], rows[kOut * kIn], out[kOut * kOut];
    for (int64_t i = 0; i < kProducts; ++i) {
      tile[i] = load(from + i * plane + c);
    }
    for (int64_t column = 0; column < kIn; ++column) {
      output_direction(tile + column, rows + column, kIn);
    }
    for (int64_t row = 0; row < kOut; ++row) {
      output_direction(rows + row * kIn, out + row * kOut, 1);
    }
    const Vector bias = load(finish.bias + c);
    for (int64_t i = 0; i < kOut * kOut; ++i) {
      if (outputs[i]) {
        Vector value = out[i] + bias;
        if (finish.residual) {
          value += load(finish.residual[i] + c);
        }
        if (finish.relu) {
          value = value < 0.f ? Vector{} : value;
        }
        store(outputs[i] + c, value);
      }
    }
  }
}

inline constexpr Kernels table = {&transform_input, &transform_filters, &transform_output};

}  // namespace convbody::cpu::winograd::CONVBODY_PATH

// The kernels of every instruction set that this processor has, against plain loops. Values are small multiples of a
// quarter, so that every sum is exact and the order of additions does not matter. Buffers have exactly the size that
// the kernels may touch: built with AddressSanitizer, a step beyond ends the program.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../../csrc/cpu/kernels.cpp"

namespace {

using convbody::cpu::Kernels;
using convbody::cpu::Sample;

std::mt19937 generator(0);

int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }

template <class A>
std::vector<A> values(int64_t count) {
  std::vector<A> drawn(count);
  std::generate(drawn.begin(), drawn.end(), [] { return static_cast<A>(draw(-8, 8)) / 4; });
  return drawn;
}

template <class A>
void expect_equal(const std::vector<A>& a, const std::vector<A>& b, const char* path, const char* what) {
  if (a != b) {
    std::printf("%s: %s is wrong for values of %zu bytes\n", path, what, sizeof(A));
    std::exit(1);
  }
}

template <class A>
void check_multiply(const Kernels<A>& kernel, const char* path) {
  for (int64_t rows = 0; rows <= 2 * kernel.rows + 1; ++rows) {
    const int64_t depth = draw(0, 20), a_row = depth + draw(0, 3), b_row = kernel.panel + draw(0, 3),
                  c_row = kernel.panel + draw(0, 3);
    const auto a = values<A>(std::max<int64_t>(0, (rows - 1) * a_row + depth)),
               b = values<A>(std::max<int64_t>(0, (depth - 1) * b_row + kernel.panel));
    auto c = values<A>(std::max<int64_t>(0, (rows - 1) * c_row + kernel.panel)), wanted = c;
    kernel.multiply(rows, depth, a.data(), a_row, b.data(), b_row, c.data(), c_row);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t k = 0; k < depth; ++k) {
        for (int64_t j = 0; j < kernel.panel; ++j) {
          wanted[i * c_row + j] += a[i * a_row + k] * b[k * b_row + j];
        }
      }
    }
    expect_equal(c, wanted, path, "multiply");
  }
}

template <class A>
void check_samples(const Kernels<A>& kernel, const char* path, int64_t channels) {
  const int64_t pixels = 5, count = 7, stride = channels + draw(0, 3), row = channels + draw(0, 3);
  const int64_t column_count = (count - 1) * row + channels;
  auto image = values<A>((pixels - 1) * stride + channels);
  const auto grads = values<A>(column_count);
  const std::vector<A> zeros(channels, A(0));
  std::vector<Sample<A>> samples(count);
  for (auto& sample : samples) {
    sample = {};
    for (int j = 0; j < 4; ++j) {
      sample.pixel[j] = draw(-1, pixels - 1);
      sample.weight[j] = static_cast<A>(draw(0, 4)) / 4;
    }
  }

  std::vector<A> columns(column_count), again(column_count), wanted(column_count);
  std::vector<A> dots(4 * count, A(1)), wanted_dots = dots, sums = image, wanted_sums = image;
  for (int64_t i = 0; i < count; ++i) {
    for (int j = 0; j < 4; ++j) {
      if (const int64_t pixel = samples[i].pixel[j]; pixel >= 0) {
        for (int64_t c = 0; c < channels; ++c) {
          wanted[i * row + c] += samples[i].weight[j] * image[pixel * stride + c];
          wanted_dots[4 * i + j] += grads[i * row + c] * image[pixel * stride + c];
          wanted_sums[pixel * stride + c] += samples[i].weight[j] * grads[i * row + c];
        }
      }
    }
  }
  kernel.sample(samples.data(), count, {image.data(), stride}, zeros.data(), channels, columns.data(), row);
  kernel.sample_with_dots(samples.data(), count, {image.data(), stride}, zeros.data(), channels, again.data(),
                          grads.data(), row, reinterpret_cast<A(*)[4]>(dots.data()));
  kernel.scatter(samples.data(), count, grads.data(), row, channels, {sums.data(), stride});
  expect_equal(columns, wanted, path, "sample");
  expect_equal(again, wanted, path, "sample_with_dots");
  expect_equal(dots, wanted_dots, path, "sample_with_dots (dots)");
  expect_equal(sums, wanted_sums, path, "scatter");
}

template <class A>
void check(const Kernels<A>& kernel, const char* path) {
  check_multiply(kernel, path);
  for (int64_t channels = 1; channels <= 70; ++channels) {
    check_samples(kernel, path, channels);
  }
}

}  // namespace

#define CHECK(path)                                \
  check(convbody::cpu::path::table<float>, #path); \
  check(convbody::cpu::path::table<double>, #path); \
  std::puts(#path)

int main() {
  CHECK(baseline);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    CHECK(avx2);
  }
  if (__builtin_cpu_supports("avx512f")) {
    CHECK(avx512);
  }
#endif
}

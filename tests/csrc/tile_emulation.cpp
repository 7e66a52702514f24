// Runs the tiles of the CUDA kernels of deformable convolution on the CPU, thread after thread, for test_cuda_tiles.py.
//
// It reads a problem from the standard input and writes what the kernels would to the standard output: numbers are
// int64, tensors raw. Compiled with the address and undefined-behaviour sanitizers, it also finds what reads or writes
// beyond a tensor and 16-byte loads that are not aligned.

#include <array>
#include <cassert>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace emulation {
int current_thread = 0;
bool backwards = false;  // the order of the threads within a phase, on which nothing may depend
}  // namespace emulation

// The tensor cores. What a warp does together, its first lane does alone.
namespace nvcuda::wmma {
struct row_major {};
struct col_major {};
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
enum layout_t { mem_row_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
  std::array<T, M * N> values;  // row by row
};

inline bool idle() { return emulation::current_thread % 32 != 0; }

template <class F>
void fill_fragment(F& f, float value) {
  f.values.fill(value);
}

template <class T>
void check_alignment(const T* at, unsigned pitch) {
  assert(reinterpret_cast<uintptr_t>(at) % 32 == 0 && pitch * sizeof(T) % 16 == 0);
}

template <class Use, class T, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& f, const T* from, unsigned pitch) {
  if (idle()) return;
  check_alignment(from, pitch);
  for (int i = 0; i < 256; ++i) {
    const int row = i / 16, column = i % 16;
    f.values[i] = std::is_same_v<Layout, row_major> ? from[row * pitch + column] : from[column * pitch + row];
  }
}

template <class A, class B, class C>
void mma_sync(C& out, const A& a, const B& b, const C& c) {
  if (idle()) return;
  C sum = c;
  for (int i = 0; i < 256; ++i)
    for (int k = 0; k < 16; ++k)
      sum.values[i] += static_cast<float>(a.values[i / 16 * 16 + k]) * static_cast<float>(b.values[k * 16 + i % 16]);
  out = sum;
}

template <class C>
void store_matrix_sync(float* to, const C& c, unsigned pitch, layout_t) {
  if (idle()) return;
  check_alignment(to, pitch);
  for (int i = 0; i < 256; ++i) to[i / 16 * pitch + i % 16] = c.values[i];
}
}  // namespace nvcuda::wmma

template <class T>
void atomicAdd(T* at, T value) {
  *at += value;
}
inline void atomicOr(unsigned* at, unsigned bits) { *at |= bits; }

#include "../../csrc/cuda/deform_conv_tiles.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

using namespace convbody::cuda;
using torch::headeronly::BFloat16;
using torch::headeronly::Half;

namespace {

struct Block {
  template <class State>
  using PerThread = std::array<State, kThreads>;

  template <class State>
  State& mine(std::array<State, kThreads>& states, int thread) const {
    return states[thread];
  }

  template <class Phase>
  void each_thread(Phase phase) const {
    for (int i = 0; i < kThreads; ++i) {
      emulation::current_thread = emulation::backwards ? kThreads - 1 - i : i;
      phase(emulation::current_thread);
    }
  }
};

template <class Shared, class Args, class Tile>
void run(const Args& args, int64_t tiles, Tile tile) {
  // What was in shared memory before must not matter.
  std::unique_ptr<Shared> shared(new Shared);
  for (int64_t i = 0; i < tiles; ++i) {
    std::memset(static_cast<void*>(shared.get()), 0xff, sizeof(Shared));
    tile(Block(), *shared, args, i);
  }
}

int64_t read_number() {
  int64_t number;
  if (std::fread(&number, sizeof(number), 1, stdin) != 1) std::abort();
  return number;
}

// A tensor that ends where its memory ends and starts at a given distance from 16-byte alignment.
template <class T>
struct Values {
  size_t size;
  std::unique_ptr<T, void (*)(void*)> memory;
  T* data;

  explicit Values(size_t n, size_t shift = 0)
      : size(n),
        memory(static_cast<T*>(std::malloc((n + shift) * sizeof(T))), std::free),
        data(memory.get() + shift) {
    std::memset(static_cast<void*>(data), 0, n * sizeof(T));
  }
  static Values read(size_t shift) {
    Values values(read_number(), shift);
    if (std::fread(values.data, sizeof(T), values.size, stdin) != values.size) std::abort();
    return values;
  }
  void write() const { std::fwrite(data, sizeof(T), size, stdout); }
  T* or_null() const { return size ? data : nullptr; }
};

template <class T>
void solve(const Shape& shape) {
  using A = accumulate_t<T>;
  const int64_t split_positions = read_number(), slice = read_number(), shift = read_number();
  const auto grad = Values<T>::read(shift), input = Values<T>::read(shift), offset = Values<T>::read(0);
  const auto mask = Values<T>::read(0), bias = Values<T>::read(0);
  const auto weight = Values<T>::read(shift), weight_for_data = Values<T>::read(shift);
  const bool aligned = shift == 0;
  const bool wide = aligned && shape.run % Vec<T>::size == 0;
  const bool wide_out = aligned && shape.group_out_channels % Vec<T>::size == 0;

  Values<T> output(shape.positions * shape.out_channels);
  const ForwardArgs<T> forward{
      shape, input.data, offset.data, mask.or_null(), weight.data, bias.or_null(), output.data, wide};
  run<ForwardShared<T>>(forward, forward.tiles(), [](Block b, auto& s, const auto& a, int64_t i) {
    forward_tile<T>(b, s, a, i);
  });
  output.write();

  for (const bool deterministic : {false, true}) {
    Values<A> grad_input(input.size);
    Values<T> grad_offset(offset.size), grad_mask(mask.size);
    Values<A> columns(slice * shape.taps * shape.channels);
    for (int64_t first = 0; first < shape.positions; first += slice) {
      const int64_t last = first + slice < shape.positions ? first + slice : shape.positions;
      const BackwardDataArgs<T> data{
          shape, grad.data, input.data, offset.data, mask.or_null(), weight_for_data.data, grad_input.data,
          grad_offset.data, grad_mask.or_null(), deterministic ? columns.data : nullptr, first, last, wide_out};
      run<BackwardDataShared<T>>(data, data.tiles(), [](Block b, auto& s, const auto& a, int64_t i) {
        backward_data_tile<T>(b, s, a, i);
      });
      if (deterministic) {
        const GatherArgs<T> gather{
            shape, offset.data, mask.or_null(), columns.data, grad_input.data, first, last};
        run<GatherShared<T>>(gather, gather.tiles(), [](Block b, auto& s, const auto& a, int64_t i) {
          gather_tile<T>(b, s, a, i);
        });
      }
    }
    grad_input.write();
    grad_offset.write();
    grad_mask.write();
  }

  Values<T> grad_weight(weight.size);
  const int64_t splits = parts(shape.positions, split_positions);
  Values<A> partial(splits * weight.size);
  const BackwardWeightArgs<T> args{
      shape, grad.data, input.data, offset.data, mask.or_null(), partial.data, splits, split_positions, wide, wide_out};
  run<BackwardWeightShared<T>>(args, args.tiles(), [](Block b, auto& s, const auto& a, int64_t i) {
    backward_weight_tile<T>(b, s, a, i);
  });
  for (size_t i = 0; i < grad_weight.size; ++i) reduce_weight(args, grad_weight.data, i);
  grad_weight.write();
}

}  // namespace

int main() {
  const int64_t type = read_number();
  emulation::backwards = read_number();
  Shape shape{};
  for (int64_t* field :
       {&shape.batch, &shape.channels, &shape.height, &shape.width, &shape.out_channels, &shape.out_height,
        &shape.out_width, &shape.kernel_h, &shape.kernel_w, &shape.stride_h, &shape.stride_w, &shape.pad_h,
        &shape.pad_w, &shape.dilation_h, &shape.dilation_w, &shape.groups, &shape.offset_groups}) {
    *field = read_number();
  }
  shape.derive();
  switch (type) {
    case 0: solve<double>(shape); break;
    case 1: solve<float>(shape); break;
    case 2: solve<BFloat16>(shape); break;
    default: solve<Half>(shape);
  }
}

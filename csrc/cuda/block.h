// What a tile of work needs of the machine: threads, 16-byte runs of values, conversions.
//
// A tile is written once, as phases that every thread of a block goes through, with a barrier behind each. nvcc makes
// kernels of it; a C++ compiler makes loops over the threads, which is how it is tested where there is no GPU.

#pragma once

#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define CONVBODY_DEVICE __device__ __forceinline__
#define CONVBODY_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define CONVBODY_DEVICE inline
#define CONVBODY_HOST_DEVICE inline
#endif

namespace convbody::cuda {

constexpr int kThreads = 256;  // of every block
constexpr int kWarp = 32;

#ifdef __CUDACC__
struct Block {
  template <class State>
  using PerThread = State;  // what a thread keeps from phase to phase

  int thread;

  // Volatile, so that the number is read for each tile. Else the compiler computes the addresses of all phases once,
  // before the loop over tiles, and they take registers throughout it.
  CONVBODY_DEVICE Block() { asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread)); }

  template <class State>
  CONVBODY_DEVICE State& mine(State& state, int) const {
    return state;
  }

  template <class Phase>
  CONVBODY_DEVICE void each_thread(Phase phase) const {
    phase(thread);
    __syncthreads();
  }
};
#endif

// Half types are summed in float32.
template <class T>
using accumulate_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
CONVBODY_DEVICE accumulate_t<T> widen(T value) {
  return static_cast<accumulate_t<T>>(value);
}

template <class T>
CONVBODY_DEVICE T narrow(accumulate_t<T> value) {
  return static_cast<T>(value);
}

#ifdef __CUDACC__
// Not by casts, which torch's usual compiler flags take away from these types.
template <>
CONVBODY_DEVICE float widen<__half>(__half value) {
  return __half2float(value);
}

template <>
CONVBODY_DEVICE __half narrow<__half>(float value) {
  return __float2half(value);
}

template <>
CONVBODY_DEVICE float widen<__nv_bfloat16>(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

template <>
CONVBODY_DEVICE __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
  return __float2bfloat16(value);
}
#endif

// Values that are moved at once.
template <class T>
struct alignas(16) Vec {
  static constexpr int size = 16 / sizeof(T);
  T at[size];
};

template <class T>
CONVBODY_DEVICE Vec<T>& vec(T* values) {
  return *reinterpret_cast<Vec<T>*>(values);
}

template <class T>
CONVBODY_DEVICE const Vec<T>& vec(const T* values) {
  return *reinterpret_cast<const Vec<T>*>(values);
}

// `count` values and zeros behind them, of which there may be none (count <= 0). `wide` promises that the values are
// aligned to 16 bytes and that it is all of them or none.
template <class T>
CONVBODY_DEVICE Vec<T> load_run(const T* values, int count, bool wide) {
  Vec<T> run;
#pragma unroll
  for (int i = 0; i < Vec<T>::size; ++i) {
    run.at[i] = narrow<T>(0);
  }
  if (wide) {
    if (count > 0) {
      run = vec(values);
    }
  } else {
#pragma unroll
    for (int i = 0; i < Vec<T>::size; ++i) {
      if (i < count) {
        run.at[i] = values[i];
      }
    }
  }
  return run;
}

// How many of the remaining values a tile has room for.
CONVBODY_DEVICE int fitting(int64_t remaining, int room) {
  return remaining < room ? static_cast<int>(remaining) : room;
}

// How many parts of a size there are, the last maybe smaller.
CONVBODY_HOST_DEVICE int64_t parts(int64_t size, int64_t part) { return (size + part - 1) / part; }

CONVBODY_DEVICE int lowest_bit(unsigned bits) {
#ifdef __CUDACC__
  return __ffs(static_cast<int>(bits)) - 1;
#else
  return __builtin_ctz(bits);
#endif
}

}  // namespace convbody::cuda

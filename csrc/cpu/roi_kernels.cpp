// One copy of the kernels for each instruction set, and the choice among them when the program runs: the machine that
// builds the file says nothing about the one that runs it.

#include "roi_kernels.h"

#define CONVBODY_PATH baseline
#define CONVBODY_VECTOR_BYTES 16
#include "roi_kernels_path.h"
#undef CONVBODY_PATH
#undef CONVBODY_VECTOR_BYTES

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define CONVBODY_PATH avx2
#define CONVBODY_VECTOR_BYTES 32
#include "roi_kernels_path.h"
#undef CONVBODY_PATH
#undef CONVBODY_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,fma")
#endif
#define CONVBODY_PATH avx512
#define CONVBODY_VECTOR_BYTES 64
#include "roi_kernels_path.h"
#undef CONVBODY_PATH
#undef CONVBODY_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // __x86_64__

namespace convbody::cpu::roi {

template <class A>
const Kernels<A>& kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    return avx512::table<A>;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return avx2::table<A>;
  }
#endif
  return baseline::table<A>;
}

template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();

}  // namespace convbody::cpu::roi

// One copy of the kernels in CONVBODY_KERNELS for each instruction set, and the choice among them when the program runs:
// the machine that builds the file says nothing about the one that runs it. Included once by a source file, without a
// guard, after everything that the kernels include, which must not be compiled for a newer instruction set.
//
// CONVBODY_ROWS: rows of a register block, as many as leave registers for two vectors of the right-hand side and one
// factor. AVX-512 has 32 registers, AVX2 and SSE have 16; two vectors a row.

#define CONVBODY_PATH baseline
#define CONVBODY_VECTOR_BYTES 16
#define CONVBODY_ROWS 6
#include CONVBODY_KERNELS
#undef CONVBODY_PATH
#undef CONVBODY_VECTOR_BYTES
#undef CONVBODY_ROWS

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define CONVBODY_PATH avx2
#define CONVBODY_VECTOR_BYTES 32
#define CONVBODY_ROWS 6
#include CONVBODY_KERNELS
#undef CONVBODY_PATH
#undef CONVBODY_VECTOR_BYTES
#undef CONVBODY_ROWS
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
#define CONVBODY_ROWS 12
#include CONVBODY_KERNELS
#undef CONVBODY_PATH
#undef CONVBODY_VECTOR_BYTES
#undef CONVBODY_ROWS
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define CONVBODY_CHOOSE(table)                                                      \
  (__builtin_cpu_supports("avx512f")                                ? avx512::table \
   : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2::table   \
                                                                     : baseline::table)

#else

#define CONVBODY_CHOOSE(table) (baseline::table)

#endif  // __x86_64__

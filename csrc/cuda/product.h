// The product of two tiles in shared memory, summed in registers by the threads of a block.
//
// The summed dimension is either the inner one of both tiles, a[m][k] and b[n][k], or the outer one of both, a[k][m]
// and b[k][n].

#pragma once

#include "block.h"

#ifdef __CUDACC__
#include <mma.h>
#endif

namespace convbody::cuda {

// The shape of a product: M by N, DEPTH summed at a time.
template <class T, int M_, int N_, int DEPTH_, bool OUTER_>
struct ProductShape {
  static constexpr int M = M_, N = N_, DEPTH = DEPTH_;
  static constexpr bool OUTER = OUTER_;
  // Rows are 16 bytes longer than their values, which spreads them over the banks of shared memory.
  static constexpr int PITCH_A = (OUTER ? M : DEPTH) + Vec<T>::size;
  static constexpr int PITCH_B = (OUTER ? N : DEPTH) + Vec<T>::size;
  static constexpr int PITCH_OUT = N + Vec<accumulate_t<T>>::size;
  static constexpr int SIZE_A = PITCH_A * (OUTER ? DEPTH : M);
  static constexpr int SIZE_B = PITCH_B * (OUTER ? DEPTH : N);
  static constexpr int SIZE_OUT = PITCH_OUT * M;
};

// float32 and float64: every thread sums M / 16 by N / 16 values. No TF32.
template <class T, class S>
struct ScalarProduct {
  static constexpr int ROWS = S::M / 16, COLUMNS = S::N / 16;
  T sums[ROWS][COLUMNS];

  // Strips of four where strips are contiguous in shared memory; else neighbours in neighbouring threads.
  static CONVBODY_DEVICE int row(int thread, int i) {
    return S::OUTER ? i / 4 * 64 + thread / 16 * 4 + i % 4 : i * 16 + thread / 16;
  }
  static CONVBODY_DEVICE int column(int thread, int j) {
    return S::OUTER ? j / 4 * 64 + thread % 16 * 4 + j % 4 : j * 16 + thread % 16;
  }

  CONVBODY_DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        sums[i][j] = 0;
      }
    }
  }

  CONVBODY_DEVICE void add(const T* a, const T* b, int thread) {
    if constexpr (S::OUTER) {
#pragma unroll 4
      for (int k = 0; k < S::DEPTH; ++k) {
        T as[ROWS], bs[COLUMNS];
#pragma unroll
        for (int i = 0; i < ROWS; i += Vec<T>::size) {
          vec_to(as + i, a + k * S::PITCH_A + row(thread, i));
        }
#pragma unroll
        for (int j = 0; j < COLUMNS; j += Vec<T>::size) {
          vec_to(bs + j, b + k * S::PITCH_B + column(thread, j));
        }
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
          for (int j = 0; j < COLUMNS; ++j) {
            sums[i][j] += as[i] * bs[j];
          }
        }
      }
    } else {
#pragma unroll 1
      for (int k = 0; k < S::DEPTH; k += Vec<T>::size) {
        Vec<T> bs[COLUMNS];
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
          bs[j] = vec(b + column(thread, j) * S::PITCH_B + k);
        }
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
          const Vec<T> as = vec(a + row(thread, i) * S::PITCH_A + k);
#pragma unroll
          for (int e = 0; e < Vec<T>::size; ++e) {
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
              sums[i][j] += as.at[e] * bs[j].at[e];
            }
          }
        }
      }
    }
  }

  CONVBODY_DEVICE void store(T* out, int thread) const {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        out[row(thread, i) * S::PITCH_OUT + column(thread, j)] = sums[i][j];
      }
    }
  }

 private:
  static CONVBODY_DEVICE void vec_to(T* to, const T* from) {
    const Vec<T> values = vec(from);
#pragma unroll
    for (int e = 0; e < Vec<T>::size; ++e) {
      to[e] = values.at[e];
    }
  }
};

// A fragment of a tile in shared memory.
template <class Fragment, class T>
CONVBODY_DEVICE void load_fragment(Fragment& fragment, const T* from, int pitch) {
  nvcuda::wmma::load_matrix_sync(fragment, from, pitch);
}

#ifdef __CUDACC__
// bfloat16: load_matrix_sync hides from the compiler that the memory is shared, and becomes a generic load for each
// word; this becomes one matrix load (LDSM), as load_matrix_sync does for float16.
#define CONVBODY_LOAD_FRAGMENT(USE, LETTER, LAYOUT)                                                                  \
  CONVBODY_DEVICE void load_fragment(                                                                                \
      nvcuda::wmma::fragment<nvcuda::wmma::USE, 16, 16, 16, __nv_bfloat16, nvcuda::wmma::LAYOUT##_major>& fragment,  \
      const __nv_bfloat16* from, int pitch) {                                                                        \
    static_assert(sizeof(fragment.x) == 16);                                                                         \
    unsigned* const to = reinterpret_cast<unsigned*>(fragment.x);                                                    \
    asm volatile(                                                                                                    \
        "wmma.load." LETTER ".sync.aligned." #LAYOUT ".m16n16k16.shared.bf16 {%0, %1, %2, %3}, [%4], %5;"            \
        : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])                                                         \
        : "r"(static_cast<unsigned>(__cvta_generic_to_shared(from))), "r"(pitch)                                     \
        : "memory");                                                                                                 \
  }
CONVBODY_LOAD_FRAGMENT(matrix_a, "a", row)
CONVBODY_LOAD_FRAGMENT(matrix_a, "a", col)
CONVBODY_LOAD_FRAGMENT(matrix_b, "b", row)
CONVBODY_LOAD_FRAGMENT(matrix_b, "b", col)
#undef CONVBODY_LOAD_FRAGMENT
#endif

// Half types: tensor cores, summing in float32. A warp has 32 rows of the product and its share of the columns.
template <class T, class S>
struct TensorCoreProduct {
  static constexpr int SIDE = 16;  // of a fragment
  static constexpr int WARP_ROWS = S::M / 32, WARP_COLUMNS = kThreads / kWarp / WARP_ROWS;
  static constexpr int ROWS = 2, COLUMNS = S::N / WARP_COLUMNS / SIDE;
  using LayoutA = std::conditional_t<S::OUTER, nvcuda::wmma::col_major, nvcuda::wmma::row_major>;
  using LayoutB = std::conditional_t<S::OUTER, nvcuda::wmma::row_major, nvcuda::wmma::col_major>;
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, SIDE, SIDE, SIDE, float> sums[ROWS][COLUMNS];

  static CONVBODY_DEVICE int row(int thread, int i) {
    return (thread / kWarp / WARP_COLUMNS * ROWS + i) * SIDE;
  }
  static CONVBODY_DEVICE int column(int thread, int j) {
    return (thread / kWarp % WARP_COLUMNS * COLUMNS + j) * SIDE;
  }

  CONVBODY_DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        nvcuda::wmma::fill_fragment(sums[i][j], 0.0f);
      }
    }
  }

  CONVBODY_DEVICE void add(const T* a, const T* b, int thread) {
#pragma unroll
    for (int k = 0; k < S::DEPTH; k += SIDE) {
      nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, SIDE, SIDE, SIDE, T, LayoutA> as[ROWS];
#pragma unroll
      for (int i = 0; i < ROWS; ++i) {
        const int r = row(thread, i);
        load_fragment(as[i], a + (S::OUTER ? k * S::PITCH_A + r : r * S::PITCH_A + k), S::PITCH_A);
      }
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        const int c = column(thread, j);
        nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, SIDE, SIDE, SIDE, T, LayoutB> bs;
        load_fragment(bs, b + (S::OUTER ? k * S::PITCH_B + c : c * S::PITCH_B + k), S::PITCH_B);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
          nvcuda::wmma::mma_sync(sums[i][j], as[i], bs, sums[i][j]);
        }
      }
    }
  }

  CONVBODY_DEVICE void store(float* out, int thread) const {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        nvcuda::wmma::store_matrix_sync(
            out + row(thread, i) * S::PITCH_OUT + column(thread, j), sums[i][j], S::PITCH_OUT,
            nvcuda::wmma::mem_row_major);
      }
    }
  }
};

template <class T, class S>
using Product = std::conditional_t<sizeof(T) == 2, TensorCoreProduct<T, S>, ScalarProduct<T, S>>;

}  // namespace convbody::cuda

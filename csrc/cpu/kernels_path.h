// The kernels in vectors of CONVBODY_VECTOR_BYTES, in namespace CONVBODY_PATH. kernels.cpp includes this file once for
// each instruction set, after having told the compiler which one it may use: no include guard, no includes.
// Vectors are the compiler's own (GCC's and Clang's vector extension). Loops over registers must be unrolled, or the
// compiler keeps the accumulators in memory.

namespace convbody::cpu::CONVBODY_PATH {

template <class A>
struct Lanes {
  // Unaligned: rows of an image begin anywhere.
  typedef A Vector __attribute__((vector_size(CONVBODY_VECTOR_BYTES), aligned(sizeof(A)), may_alias));
  static constexpr int64_t count = CONVBODY_VECTOR_BYTES / sizeof(A);
};

template <class A>
inline typename Lanes<A>::Vector& vector_at(A* p) {
  return *reinterpret_cast<typename Lanes<A>::Vector*>(p);
}

template <class A>
inline const typename Lanes<A>::Vector& vector_at(const A* p) {
  return *reinterpret_cast<const typename Lanes<A>::Vector*>(p);
}

// Rows x two vectors of sums stay in registers while k runs.
template <class A, int Rows>
inline void multiply_rows(int64_t depth, const A* a, int64_t a_row, const A* b, int64_t b_row, A* c,
                          int64_t c_row) {
  using Vector = typename Lanes<A>::Vector;
  constexpr int64_t lanes = Lanes<A>::count;
  Vector sums[Rows][2];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    sums[i][0] = vector_at(c + i * c_row);
    sums[i][1] = vector_at(c + i * c_row + lanes);
  }
  for (int64_t k = 0; k < depth; ++k, ++a, b += b_row) {
    const Vector left = vector_at(b), right = vector_at(b + lanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const A factor = a[i * a_row];
      sums[i][0] += factor * left;
      sums[i][1] += factor * right;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    vector_at(c + i * c_row) = sums[i][0];
    vector_at(c + i * c_row + lanes) = sums[i][1];
  }
}

// What is left of the rows after the last full block.
template <class A, int Rows>
inline void multiply_rest(int64_t rows, int64_t depth, const A* a, int64_t a_row, const A* b, int64_t b_row, A* c,
                          int64_t c_row) {
  if constexpr (Rows > 0) {
    if (rows == Rows) {
      multiply_rows<A, Rows>(depth, a, a_row, b, b_row, c, c_row);
    } else {
      multiply_rest<A, Rows - 1>(rows, depth, a, a_row, b, b_row, c, c_row);
    }
  }
}

template <class A>
void multiply(int64_t rows, int64_t depth, const A* a, int64_t a_row, const A* b, int64_t b_row, A* c,
              int64_t c_row) {
  constexpr int block = CONVBODY_ROWS;
  for (; rows >= block; rows -= block, a += block * a_row, c += block * c_row) {
    multiply_rows<A, block>(depth, a, a_row, b, b_row, c, c_row);
  }
  multiply_rest<A, block - 1>(rows, depth, a, a_row, b, b_row, c, c_row);
}

template <class A>
inline const A* pixel_at(Pixels<const A> image, int64_t pixel, const A* zeros) {
  return pixel < 0 ? zeros : image.data + pixel * image.stride;
}

template <class A>
void sample(const Sample<A>* samples, int64_t count, Pixels<const A> image, const A* zeros, int64_t channels,
            A* columns, int64_t columns_row) {
  constexpr int64_t lanes = Lanes<A>::count;
  for (int64_t i = 0; i < count; ++i, columns += columns_row) {
    const Sample<A>& s = samples[i];
    const A *p0 = pixel_at(image, s.pixel[0], zeros), *p1 = pixel_at(image, s.pixel[1], zeros),
            *p2 = pixel_at(image, s.pixel[2], zeros), *p3 = pixel_at(image, s.pixel[3], zeros);
    const A w0 = s.weight[0], w1 = s.weight[1], w2 = s.weight[2], w3 = s.weight[3];
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) {
      vector_at(columns + c) =
          w0 * vector_at(p0 + c) + w1 * vector_at(p1 + c) + w2 * vector_at(p2 + c) + w3 * vector_at(p3 + c);
    }
    for (; c < channels; ++c) {
      columns[c] = w0 * p0[c] + w1 * p1[c] + w2 * p2[c] + w3 * p3[c];
    }
  }
}

template <class A>
inline A sum_of(const typename Lanes<A>::Vector& vector) {
  A sum = 0;
  for (int64_t i = 0; i < Lanes<A>::count; ++i) {
    sum += vector[i];
  }
  return sum;
}

template <class A>
void sample_with_dots(const Sample<A>* samples, int64_t count, Pixels<const A> image, const A* zeros,
                      int64_t channels, A* columns, const A* grads, int64_t columns_row, A (*dots)[4]) {
  using Vector = typename Lanes<A>::Vector;
  constexpr int64_t lanes = Lanes<A>::count;
  for (int64_t i = 0; i < count; ++i, columns += columns_row, grads += columns_row) {
    const Sample<A>& s = samples[i];
    const A *p0 = pixel_at(image, s.pixel[0], zeros), *p1 = pixel_at(image, s.pixel[1], zeros),
            *p2 = pixel_at(image, s.pixel[2], zeros), *p3 = pixel_at(image, s.pixel[3], zeros);
    const A w0 = s.weight[0], w1 = s.weight[1], w2 = s.weight[2], w3 = s.weight[3];
    Vector d0{}, d1{}, d2{}, d3{};
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) {
      const Vector v0 = vector_at(p0 + c), v1 = vector_at(p1 + c), v2 = vector_at(p2 + c), v3 = vector_at(p3 + c);
      const Vector grad = vector_at(grads + c);
      vector_at(columns + c) = w0 * v0 + w1 * v1 + w2 * v2 + w3 * v3;
      d0 += grad * v0, d1 += grad * v1, d2 += grad * v2, d3 += grad * v3;
    }
    A sums[4] = {sum_of<A>(d0), sum_of<A>(d1), sum_of<A>(d2), sum_of<A>(d3)};
    for (; c < channels; ++c) {
      columns[c] = w0 * p0[c] + w1 * p1[c] + w2 * p2[c] + w3 * p3[c];
      sums[0] += grads[c] * p0[c], sums[1] += grads[c] * p1[c];
      sums[2] += grads[c] * p2[c], sums[3] += grads[c] * p3[c];
    }
    for (int j = 0; j < 4; ++j) {
      dots[i][j] += sums[j];
    }
  }
}

template <class A>
void scatter(const Sample<A>* samples, int64_t count, const A* grads, int64_t grads_row, int64_t channels,
             Pixels<A> image) {
  constexpr int64_t lanes = Lanes<A>::count;
  for (int64_t i = 0; i < count; ++i, grads += grads_row) {
    for (int j = 0; j < 4; ++j) {
      if (samples[i].pixel[j] < 0) {
        continue;
      }
      A* to = image.data + samples[i].pixel[j] * image.stride;
      const A weight = samples[i].weight[j];
      int64_t c = 0;
      for (; c + lanes <= channels; c += lanes) {
        vector_at(to + c) += weight * vector_at(grads + c);
      }
      for (; c < channels; ++c) {
        to[c] += weight * grads[c];
      }
    }
  }
}

template <class A>
constexpr Kernels<A> table = {
    2 * Lanes<A>::count, CONVBODY_ROWS, &multiply<A>, &sample<A>, &sample_with_dots<A>, &scatter<A>};

}  // namespace convbody::cpu::CONVBODY_PATH

// The kernels in vectors of CONVBODY_VECTOR_BYTES, in namespace CONVBODY_PATH. roi_kernels.cpp includes this file once
// for each instruction set, after having told the compiler which one it may use: no include guard, no includes.
// Vectors are the compiler's own (GCC's and Clang's vector extension).

namespace convbody::cpu::roi::CONVBODY_PATH {

template <class A>
struct Lanes {
  typedef A Vector __attribute__((vector_size(CONVBODY_VECTOR_BYTES)));
  static constexpr int64_t count = CONVBODY_VECTOR_BYTES / sizeof(A);
};

template <class A>
using Vector = typename Lanes<A>::Vector;

// Vectors that are summed side by side, so that additions need not wait for each other.
constexpr int kAbreast = 8;

template <class A>
inline Vector<A> load(const A* p, int64_t count = Lanes<A>::count) {
  Vector<A> v{};
  __builtin_memcpy(&v, p, count * sizeof(A));
  return v;
}

template <class A>
inline void store(A* p, Vector<A> v, int64_t count = Lanes<A>::count) {
  __builtin_memcpy(p, &v, count * sizeof(A));
}

template <int Width, class A>
inline void combine_columns(const A* data, const Runs<A>& runs, A* to) {
  Vector<A> sums[Width] = {};
  for (int64_t run = 0; run < runs.count; ++run) {
    const A* from = data + runs.offsets[run];
    const A weight = runs.weights[run];
    for (int i = 0; i < Width; ++i) {
      sums[i] += load(from + i * Lanes<A>::count) * weight;
    }
  }
  for (int i = 0; i < Width; ++i) {
    store(to + i * Lanes<A>::count, sums[i] / runs.divisor);
  }
}

template <class A>
void combine(const A* data, Runs<A> runs, int64_t width, A* to) {
  constexpr int64_t lanes = Lanes<A>::count;
  int64_t i = 0;
  for (; i + kAbreast * lanes <= width; i += kAbreast * lanes) {
    combine_columns<kAbreast>(data + i, runs, to + i);
  }
  for (; i + 2 * lanes <= width; i += 2 * lanes) {
    combine_columns<2>(data + i, runs, to + i);
  }
  for (; i + lanes <= width; i += lanes) {
    combine_columns<1>(data + i, runs, to + i);
  }
  if (i < width) {
    Vector<A> sum{};
    for (int64_t run = 0; run < runs.count; ++run) {
      sum += load(data + runs.offsets[run] + i, width - i) * runs.weights[run];
    }
    store(to + i, sum / runs.divisor, width - i);
  }
}

template <class A>
void spread(const A* from, Runs<A> runs, int64_t width, A* data) {
  constexpr int64_t lanes = Lanes<A>::count;
  for (int64_t run = 0; run < runs.count; ++run) {
    A* to = data + runs.offsets[run];
    const A weight = runs.weights[run] / runs.divisor;
    int64_t i = 0;
    for (; i + lanes <= width; i += lanes) {
      store(to + i, load(to + i) + load(from + i) * weight);
    }
    if (i < width) {
      store(to + i, load(to + i, width - i) + load(from + i, width - i) * weight, width - i);
    }
  }
}

template <class A>
constexpr Kernels<A> table{&combine<A>, &spread<A>};

}  // namespace convbody::cpu::roi::CONVBODY_PATH

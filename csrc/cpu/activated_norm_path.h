// The kernels in vectors of CONVBODY_VECTOR_BYTES, in namespace CONVBODY_PATH. activated_norm_kernels.cpp includes this
// file once for each instruction set, after having told the compiler which one it may use: no include guard, no
// includes. Vectors are the compiler's own (GCC's and Clang's vector extension).

namespace convbody::cpu::norm::CONVBODY_PATH {

template <class A>
struct Lanes {
  typedef A Vector __attribute__((vector_size(CONVBODY_VECTOR_BYTES)));
  static constexpr int64_t count = CONVBODY_VECTOR_BYTES / sizeof(A);
};

template <class A>
using Vector = typename Lanes<A>::Vector;

// Vectors that are reduced side by side, so that additions need not wait for each other.
constexpr int kAbreast = 4;

template <class A>
struct Full {
  static Vector<A> load(const A* p) {
    Vector<A> v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
  }
  static void store(A* p, Vector<A> v) { __builtin_memcpy(p, &v, sizeof(v)); }
};

// The first values of a vector; the others are zero.
template <class A>
struct Part {
  int64_t count;
  Vector<A> load(const A* p) const {
    Vector<A> v{};
    __builtin_memcpy(&v, p, count * sizeof(A));
    return v;
  }
  void store(A* p, Vector<A> v) const { __builtin_memcpy(p, &v, count * sizeof(A)); }
};

template <class A>
inline Vector<A> broadcast(A value) {
  return Vector<A>{} + value;
}

template <class A>
struct LeakyRelu {
  A slope, inverse;
  explicit LeakyRelu(const ActivationOf<A>& a) : slope(a.slope), inverse(1 / a.slope) {}
  Vector<A> apply(Vector<A> z) const { return z > A(0) ? z : z * slope; }
  Vector<A> undo(Vector<A> y) const { return y > A(0) ? y : y * inverse; }
  Vector<A> gradient(Vector<A> grad, Vector<A> y) const { return y > A(0) ? grad : grad * slope; }
};

template <class A>
struct Elu {
  A lowest;
  explicit Elu(const ActivationOf<A>& a) : lowest(a.lowest) {}
  Vector<A> apply(Vector<A> z) const {
    for (int64_t i = 0; i < Lanes<A>::count; ++i) {
      z[i] = z[i] > 0 ? z[i] : std::expm1(z[i]);
    }
    return z;
  }
  Vector<A> undo(Vector<A> y) const {
    for (int64_t i = 0; i < Lanes<A>::count; ++i) {
      y[i] = y[i] > 0 ? y[i] : std::log1p(y[i] < lowest ? lowest : y[i]);
    }
    return y;
  }
  Vector<A> gradient(Vector<A> grad, Vector<A> y) const { return y > A(0) ? grad : grad * (y + A(1)); }
};

template <class A>
struct Identity {
  explicit Identity(const ActivationOf<A>&) {}
  Vector<A> apply(Vector<A> z) const { return z; }
  Vector<A> undo(Vector<A> y) const { return y; }
  Vector<A> gradient(Vector<A> grad, Vector<A>) const { return grad; }
};

template <class A, class Call>
inline void with_activation(const ActivationOf<A>& activation, const Call& call) {
  switch (activation.kind) {
    case Activation::LeakyRelu: return call(LeakyRelu<A>(activation));
    case Activation::Elu: return call(Elu<A>(activation));
    default: return call(Identity<A>(activation));
  }
}

// add(access, position, column, each, sums) for `Width` vectors of every row, abreast; each has `Sums` sums.
template <int Sums, int Width, class A, bool Each, class Access, class Add>
inline void reduce_columns(const Access& access, int64_t rows, int64_t width, int64_t column, const Add& add,
                           Vector<A> (&sums)[Width][Sums]) {
  constexpr std::integral_constant<bool, Each> each;
  for (int64_t row = 0; row < rows; ++row) {
#pragma GCC unroll 4
    for (int i = 0; i < Width; ++i) {
      const int64_t c = column + i * Lanes<A>::count;
      add(access, row * width + c, c, each, sums[i]);
    }
  }
}

// Sums of every column over the rows.
template <int Sums, class A, class Add>
inline void reduce_each(Rows rows, const Add& add, double* const* to) {
  constexpr int64_t lanes = Lanes<A>::count;
  const auto store = [&](const Vector<A>(&sums)[Sums], int64_t column, int64_t count) {
    for (int s = 0; s < Sums; ++s) {
      for (int64_t i = 0; i < count; ++i) {
        to[s][column + i] = sums[s][i];
      }
    }
  };
  int64_t column = 0;
  for (; column + kAbreast * lanes <= rows.width; column += kAbreast * lanes) {
    Vector<A> sums[kAbreast][Sums] = {};
    reduce_columns<Sums, kAbreast, A, true>(Full<A>(), rows.count, rows.width, column, add, sums);
    for (int i = 0; i < kAbreast; ++i) {
      store(sums[i], column + i * lanes, lanes);
    }
  }
  for (; column < rows.width; column += lanes) {
    const int64_t count = std::min(lanes, rows.width - column);
    Vector<A> sums[1][Sums] = {};
    reduce_columns<Sums, 1, A, true>(Part<A>{count}, rows.count, rows.width, column, add, sums);
    store(sums[0], column, count);
  }
}

// Sums over a single row.
template <int Sums, class A, class Add>
inline void reduce_one(int64_t width, const Add& add, double* const* to) {
  constexpr int64_t lanes = Lanes<A>::count, step = kAbreast * lanes;
  Vector<A> sums[kAbreast][Sums] = {};
  const int64_t whole = width / step * step;
  reduce_columns<Sums, kAbreast, A, false>(Full<A>(), whole / step, step, 0, add, sums);
  double totals[Sums] = {};
  for (int s = 0; s < Sums; ++s) {
    for (int i = 0; i < kAbreast; ++i) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        totals[s] += sums[i][s][lane];
      }
    }
  }
  for (int64_t i = whole; i < width; i += lanes) {
    const int64_t count = std::min(lanes, width - i);
    Vector<A> rest[Sums] = {};
    add(Part<A>{count}, i, 0, std::false_type(), rest);
    for (int s = 0; s < Sums; ++s) {
      for (int64_t lane = 0; lane < count; ++lane) {
        totals[s] += rest[s][lane];
      }
    }
  }
  for (int s = 0; s < Sums; ++s) {
    to[s][0] = totals[s];
  }
}

template <int Sums, class A, class Add>
inline void reduce(Rows rows, const Add& add, double* const* to) {
  rows.each ? reduce_each<Sums, A>(rows, add, to) : reduce_one<Sums, A>(rows.width, add, to);
}

// Parameters that are the same for all columns, or those of each.
template <class A, class Access>
inline Vector<A> parameter(const Access& access, bool each, const A* values, int64_t column) {
  return each ? access.load(values + column) : broadcast(*values);
}

// at(access, position, column, each) for every vector.
template <class A, bool Each, class At>
inline void for_each_vector(Rows rows, const At& at) {
  constexpr int64_t lanes = Lanes<A>::count;
  constexpr std::integral_constant<bool, Each> each;
  const int64_t width = rows.width;
  for (int64_t row = 0; row < rows.count; ++row) {
    int64_t column = 0;
    for (; column + lanes <= width; column += lanes) {
      at(Full<A>(), row * width + column, column, each);
    }
    if (column < width) {
      at(Part<A>{width - column}, row * width + column, column, each);
    }
  }
}

template <class A, class At>
inline void map(Rows rows, const At& at) {
  rows.each ? for_each_vector<A, true>(rows, at) : for_each_vector<A, false>(rows, at);
}

template <class A>
void sum(Rows rows, const A* x, double* to) {
  double* const sums[1] = {to};
  reduce<1, A>(
      rows,
      [=](const auto& access, int64_t position, int64_t, auto, Vector<A>(&s)[1]) {
        s[0] += access.load(x + position);
      },
      sums);
}

template <class A>
void deviations(Rows rows, const A* x, const A* mean, double* const to[2]) {
  reduce<2, A>(
      rows,
      [=](const auto& access, int64_t position, int64_t column, auto each, Vector<A>(&s)[2]) {
        const Vector<A> d = access.load(x + position) - parameter(access, each, mean, column);
        s[0] += d;
        s[1] += d * d;
      },
      to);
}

template <class A>
void backward_sums(Rows rows, const A* grad, const A* y, const A* bias, ActivationOf<A> activation,
                   double* const to[2]) {
  with_activation(activation, [&](const auto& act) {
    reduce<2, A>(
        rows,
        [=](const auto& access, int64_t position, int64_t column, auto each, Vector<A>(&s)[2]) {
          const Vector<A> out = access.load(y + position);
          const Vector<A> g = act.gradient(access.load(grad + position), out);
          s[0] += g;
          s[1] += g * (act.undo(out) - parameter(access, each, bias, column));
        },
        to);
  });
}

template <class A>
void forward(Rows rows, const A* x, ForwardParameters<A> p, ActivationOf<A> activation, A* y) {
  with_activation(activation, [&](const auto& act) {
    map<A>(rows, [=](const auto& access, int64_t position, int64_t column, auto each) {
      const Vector<A> centred = access.load(x + position) - parameter(access, each, p.mean, column);
      const Vector<A> z = centred * parameter(access, each, p.scale, column) + parameter(access, each, p.bias, column);
      access.store(y + position, act.apply(z));
    });
  });
}

template <class A>
void backward(Rows rows, const A* grad, const A* y, BackwardParameters<A> p, ActivationOf<A> activation, A* grad_x) {
  with_activation(activation, [&](const auto& act) {
    map<A>(rows, [=](const auto& access, int64_t position, int64_t column, auto each) {
      const Vector<A> out = access.load(y + position);
      const Vector<A> g = act.gradient(access.load(grad + position), out);
      const Vector<A> from_bias = act.undo(out) - parameter(access, each, p.bias, column);
      access.store(
          grad_x + position,
          g * parameter(access, each, p.scale, column) + from_bias * parameter(access, each, p.tilt, column) +
              parameter(access, each, p.shift, column));
    });
  });
}

template <class A>
constexpr Kernels<A> table{&sum<A>, &deviations<A>, &backward_sums<A>, &forward<A>, &backward<A>};

}  // namespace convbody::cpu::norm::CONVBODY_PATH

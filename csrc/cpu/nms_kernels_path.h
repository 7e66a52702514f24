// The kernels in vectors of CONVBODY_VECTOR_BYTES, in namespace CONVBODY_PATH. nms_kernels.cpp includes this file once
// for each instruction set, after having told the compiler which one it may use: no include guard, no includes.
// Vectors are the compiler's own (GCC's and Clang's vector extension).

namespace convbody::cpu::nms::CONVBODY_PATH {

template <class A>
struct Lanes {
  typedef A Vector __attribute__((vector_size(CONVBODY_VECTOR_BYTES)));
  static constexpr int64_t count = CONVBODY_VECTOR_BYTES / sizeof(A);
};

template <class A>
using Vector = typename Lanes<A>::Vector;

template <class A>
inline Vector<A> load(const A* p) {
  Vector<A> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <class A>
void suppress(Boxes<A> boxes, int64_t i, int64_t begin, int64_t end, A limit, Flag<A>* flags) {
  using Vector = CONVBODY_PATH::Vector<A>;
  constexpr int64_t lanes = Lanes<A>::count;
  static_assert(lanes <= kPadding);
  const Vector zero{};
  const Vector x1 = zero + boxes.x1[i], y1 = zero + boxes.y1[i], x2 = zero + boxes.x2[i], y2 = zero + boxes.y2[i];
  const A area = boxes.area[i];
  for (int64_t j = begin; j < end; j += lanes) {
    const Vector left = load(boxes.x1 + j), top = load(boxes.y1 + j);
    const Vector right = load(boxes.x2 + j), bottom = load(boxes.y2 + j);
    // A comparison with what is not a number is false: the operands' order says what then is taken.
    const Vector width = (right < x2 ? right : x2) - (x1 < left ? left : x1);
    const Vector height = (bottom < y2 ? bottom : y2) - (y1 < top ? top : y1);
    const Vector inter = (zero < width ? width : zero) * (zero < height ? height : zero);
    const Vector overlap = inter / (area + load(boxes.area + j) - inter);
    const CONVBODY_PATH::Vector<Flag<A>> flagged = load(flags + j) | (overlap > limit);
    __builtin_memcpy(flags + j, &flagged, sizeof(flagged));
  }
}

template <class A>
constexpr Kernels<A> table{&suppress<A>};

}  // namespace convbody::cpu::nms::CONVBODY_PATH

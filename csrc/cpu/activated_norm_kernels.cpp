#include "activated_norm_kernels.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#define CONVBODY_KERNELS "activated_norm_path.h"
#include "instruction_sets.h"

namespace convbody::cpu::norm {

template <class A>
const Kernels<A>& kernels() {
  return CONVBODY_CHOOSE(table<A>);
}

template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();

}  // namespace convbody::cpu::norm

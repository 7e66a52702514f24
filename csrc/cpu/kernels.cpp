#include "kernels.h"

#define CONVBODY_KERNELS "kernels_path.h"
#include "instruction_sets.h"

namespace convbody::cpu {

template <class A>
const Kernels<A>& kernels() {
  return CONVBODY_CHOOSE(table<A>);
}

template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();

}  // namespace convbody::cpu

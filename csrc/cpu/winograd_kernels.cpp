#include "winograd_kernels.h"

#define CONVBODY_KERNELS "winograd_kernels_path.h"
#include "instruction_sets.h"

namespace convbody::cpu::winograd {

const Kernels& kernels() { return CONVBODY_CHOOSE(table); }

}  // namespace convbody::cpu::winograd

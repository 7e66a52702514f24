// The tiles of the activated batch norm on CUDA, run on the CPU thread after thread, as operators on CPU tensors.

#include "../../csrc/cuda/activated_norm_launch.h"

namespace {

struct Block {
  template <class Phase>
  void each_thread(Phase phase) const {
    for (int thread = 0; thread < convbody::cuda::kThreads; ++thread) {
      phase(thread);
    }
  }
};

struct Launch {
  template <class Tile>
  static void run(const torch::stable::Tensor&, int64_t tiles, const Tile& tile) {
    typename Tile::Shared shared;
    for (int64_t i = 0; i < tiles; ++i) {
      tile(Block(), shared, i);
    }
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(convbody_emulated, CPU, m) {
  convbody::implement_activated_norm<convbody::cuda::norm::Kernels<Launch>>(m);
}

// Activated batch norm on CUDA.

#ifndef USE_CUDA
#define USE_CUDA  // torch declares its stream functions only then
#endif

#include "activated_norm_launch.h"

#include <torch/csrc/stable/accelerator.h>

namespace convbody::cuda::norm {
namespace {

// Blocks go on to further tiles where there are more tiles than blocks in a grid.
constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();

template <class Tile>
__global__ void __launch_bounds__(kThreads) kernel(const __grid_constant__ Tile tile, int64_t tiles) {
  __shared__ typename Tile::Shared shared;
  for (int64_t i = blockIdx.x; i < tiles; i += gridDim.x) {
    tile(Block(), shared, i);
  }
}

struct Launch {
  template <class Tile>
  static void run(const Tensor& tensor, int64_t tiles, const Tile& tile) {
    if (tiles == 0) {
      return;
    }
    const torch::stable::accelerator::DeviceGuard guard(tensor.get_device_index());
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    kernel<<<static_cast<unsigned>(std::min(tiles, kMaxBlocks)), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        tile, tiles);
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(
        error == cudaSuccess, "activated_norm: a CUDA kernel could not be launched: ", cudaGetErrorString(error));
  }
};

}  // namespace
}  // namespace convbody::cuda::norm

STABLE_TORCH_LIBRARY_IMPL(convbody, CUDA, m) {
  convbody::implement_activated_norm<convbody::cuda::norm::Kernels<convbody::cuda::norm::Launch>>(m);
}

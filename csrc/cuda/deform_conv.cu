// Deformable convolution on CUDA: implicit matrix products over columns that exist in shared memory only.

#ifndef USE_CUDA
#define USE_CUDA  // torch declares its stream functions only then
#endif

#include "../ops.h"
#include "deform_conv_tiles.h"

#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <tuple>

namespace convbody {
namespace {

using cuda::BackwardDataArgs;
using cuda::BackwardWeightArgs;
using cuda::ForwardArgs;
using cuda::GatherArgs;
using cuda::kThreads;

// Blocks go on to further tiles where there are more tiles than blocks in a grid.
constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();
// Bytes of the column gradients that the deterministic backward pass keeps at a time.
constexpr int64_t kColumnBytes = int64_t(64) << 20;
// Tiles that keep any GPU busy. The same for all, so that sums do not depend on the GPU.
constexpr int64_t kEnoughTiles = 512;

extern __shared__ __align__(128) unsigned char shared_memory[];

// Bytes of shared memory that a block may have on every device from sm_80 on.
constexpr size_t kMostShared = 99 * 1024;

// The blocks of a grid go through the tiles one by one. The bytes of shared memory are in the kernel's name, where
// scripts/gpu/kernels.py and profilers show them.
template <class Shared, class Args, void (*Tile)(cuda::Block, Shared&, const Args&, int64_t), size_t SHARED_BYTES>
__global__ void __launch_bounds__(kThreads, 2) tiles_kernel(const __grid_constant__ Args args, int64_t tiles) {
  auto& shared = *reinterpret_cast<Shared*>(shared_memory);
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    Tile(cuda::Block(), shared, args, tile);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    reduce_weight_kernel(const __grid_constant__ BackwardWeightArgs<T> args, T* grad_weight, int64_t size) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < size; i += step) {
    cuda::reduce_weight(args, grad_weight, i);
  }
}

void check(cudaError_t error, const char* kernel) {
  STD_TORCH_CHECK(
      error == cudaSuccess, "deform_conv2d: CUDA kernel ", kernel, " could not be launched: ",
      cudaGetErrorString(error));
}

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Runs `tiles` (at least one) tiles; `name` is what an error calls the kernel.
template <class Shared, class Args, void (*Tile)(cuda::Block, Shared&, const Args&, int64_t)>
void launch(const char* name, const Args& args, int64_t tiles, cudaStream_t stream) {
  static_assert(sizeof(Shared) <= kMostShared);
  const auto kernel = tiles_kernel<Shared, Args, Tile, sizeof(Shared)>;
  check(
      cudaFuncSetAttribute(
          reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared)),
      name);
  kernel<<<static_cast<unsigned>(std::min(tiles, kMaxBlocks)), kThreads, sizeof(Shared), stream>>>(args, tiles);
  check(cudaGetLastError(), name);
}

cuda::Shape shape_of(const DeformConvGeometry& g) {
  cuda::Shape shape{};
  shape.batch = g.batch, shape.channels = g.channels, shape.height = g.height, shape.width = g.width;
  shape.out_channels = g.out_channels, shape.out_height = g.out_height, shape.out_width = g.out_width;
  shape.kernel_h = g.kernel_h, shape.kernel_w = g.kernel_w;
  shape.stride_h = g.stride_h, shape.stride_w = g.stride_w;
  shape.pad_h = g.pad_h, shape.pad_w = g.pad_w;
  shape.dilation_h = g.dilation_h, shape.dilation_w = g.dilation_w;
  shape.groups = g.groups, shape.offset_groups = g.offset_groups;
  shape.derive();
  return shape;
}

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <class T>
T* data(const std::optional<Tensor>& tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}

std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(torch::stable::contiguous(*tensor)) : std::nullopt;
}

Tensor channels_last(const Tensor& tensor) {
  return torch::stable::contiguous(tensor, MemoryFormat::ChannelsLast);
}

// Whether runs of `run` values, one behind the other, can be read 16 bytes at a time.
template <class T>
bool wide(int64_t run, std::initializer_list<const Tensor*> tensors) {
  return run % cuda::Vec<T>::size == 0 && std::all_of(tensors.begin(), tensors.end(), [](const Tensor* tensor) {
           return reinterpret_cast<uintptr_t>(tensor->data_ptr()) % sizeof(cuda::Vec<T>) == 0;
         });
}

// Calls with a value of the type that kernels use.
template <class Call>
void with_type(ScalarType type, Call&& call) {
  switch (type) {
    case ScalarType::Double: return call(double());
    case ScalarType::Float: return call(float());
    case ScalarType::Half: return call(__half());
    default: return call(__nv_bfloat16());
  }
}

template <class T>
constexpr ScalarType accumulate_type =
    std::is_same_v<cuda::accumulate_t<T>, double> ? ScalarType::Double : ScalarType::Float;

Tensor empty(const std::vector<int64_t>& sizes, ScalarType type, const Tensor& like, MemoryFormat format) {
  return torch::stable::empty(sizes, type, std::nullopt, like.device(), std::nullopt, format);
}

// `tensor` as like's memory format and type want it.
Tensor in_format_of(const Tensor& like, const Tensor& tensor) {
  const auto format = memory_format_of(like);
  if (format == MemoryFormat::ChannelsLast && tensor.scalar_type() == like.scalar_type()) {
    return tensor;
  }
  Tensor copy = empty(sizes_of(tensor), like.scalar_type(), like, format);
  torch::stable::copy_(copy, tensor);
  return copy;
}

Tensor deform_conv2d(
    const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
    int64_t dilation_h, int64_t dilation_w) {
  const auto g = check_deform_conv2d(
      input, offset, weight, bias, mask, {stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w});
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  const Tensor output = empty(g.output_sizes(), input.scalar_type(), input, MemoryFormat::ChannelsLast);
  if (output.numel() > 0) {
    const Tensor images = channels_last(input), moves = torch::stable::contiguous(offset);
    const auto factors = contiguous(mask), added = contiguous(bias);
    const Tensor filters = torch::stable::contiguous(torch::stable::transpose(
        torch::stable::reshape(weight, std::vector<int64_t>{g.out_channels, g.group_channels(), g.taps()}), 1, 2));
    with_type(input.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      ForwardArgs<T> args{};
      args.shape = shape_of(g);
      args.input = data<T>(images), args.offset = data<T>(moves), args.mask = data<T>(factors);
      args.weight = data<T>(filters), args.bias = data<T>(added), args.output = data<T>(output);
      args.wide = wide<T>(args.shape.run, {&images, &filters});
      launch<cuda::ForwardShared<T>, ForwardArgs<T>, cuda::forward_tile<T>>(
          "forward_kernel", args, args.tiles(), current_stream(input));
    });
  }
  return in_format_of(input, output);
}

struct BackwardTensors {
  Tensor grad, input, offset;  // channels_last, channels_last, contiguous
  std::optional<Tensor> mask;  // contiguous
  Tensor weight;
};

// Gradients of offset, mask and, summed into what is zero, input.
template <class T>
void backward_data(
    const DeformConvGeometry& g, const BackwardTensors& from, const Tensor& grad_input, const Tensor& grad_offset,
    const std::optional<Tensor>& grad_mask, bool deterministic) {
  using A = cuda::accumulate_t<T>;
  const auto stream = current_stream(from.input);
  // (groups, taps, C / groups, Cout / groups)
  const Tensor filters = torch::stable::contiguous(torch::stable::transpose(
      torch::stable::reshape(
          from.weight, std::vector<int64_t>{g.groups, g.group_out_channels(), g.group_channels(), g.taps()}),
      1, 3));
  BackwardDataArgs<T> args{};
  args.shape = shape_of(g);
  args.grad = data<T>(from.grad), args.input = data<T>(from.input), args.offset = data<T>(from.offset);
  args.mask = data<T>(from.mask), args.weight = data<T>(filters);
  args.grad_input = data<A>(grad_input), args.grad_offset = data<T>(grad_offset), args.grad_mask = data<T>(grad_mask);
  args.wide = wide<T>(g.group_out_channels(), {&from.grad, &filters});

  const int64_t positions = g.batch * g.out_positions();
  if (!deterministic) {
    args.last = positions;
    launch<cuda::BackwardDataShared<T>, BackwardDataArgs<T>, cuda::backward_data_tile<T>>(
        "backward_data_kernel", args, args.tiles(), stream);
    return;
  }
  const int64_t position_bytes = g.taps() * g.channels * static_cast<int64_t>(sizeof(A));
  const int64_t slice = std::min(positions, std::max<int64_t>(kThreads, kColumnBytes / position_bytes));
  const Tensor columns = empty(
      {slice, g.taps(), g.channels}, accumulate_type<T>, from.input, MemoryFormat::Contiguous);
  args.columns = data<A>(columns);
  GatherArgs<T> gather{};
  gather.shape = args.shape;
  gather.offset = args.offset, gather.mask = args.mask;
  gather.columns = args.columns, gather.grad_input = args.grad_input;
  for (int64_t first = 0; first < positions; first += slice) {
    args.first = gather.first = first;
    args.last = gather.last = std::min(positions, first + slice);
    launch<cuda::BackwardDataShared<T>, BackwardDataArgs<T>, cuda::backward_data_tile<T>>(
        "backward_data_kernel", args, args.tiles(), stream);
    if (gather.tiles() > 0) {
      launch<cuda::GatherShared<T>, GatherArgs<T>, cuda::gather_tile<T>>(
          "gather_kernel", gather, gather.tiles(), stream);
    }
  }
}

template <class T>
void backward_weight(const DeformConvGeometry& g, const BackwardTensors& from, const Tensor& grad_weight) {
  using A = cuda::accumulate_t<T>;
  BackwardWeightArgs<T> args{};
  args.shape = shape_of(g);
  args.grad = data<T>(from.grad), args.input = data<T>(from.input), args.offset = data<T>(from.offset);
  args.mask = data<T>(from.mask);
  args.wide = wide<T>(args.shape.run, {&from.input});
  args.wide_out = wide<T>(g.group_out_channels(), {&from.grad});

  const int64_t positions = g.batch * g.out_positions();
  const int64_t wanted = std::max<int64_t>(1, kEnoughTiles / args.split_tiles());
  args.split_positions = cuda::parts(cuda::parts(positions, wanted), kThreads) * kThreads;
  args.splits = cuda::parts(positions, args.split_positions);
  const Tensor partial = empty(
      {args.splits, g.out_channels, g.taps(), g.group_channels()}, accumulate_type<T>, from.input,
      MemoryFormat::Contiguous);
  args.partial = data<A>(partial);

  const auto stream = current_stream(from.input);
  launch<cuda::BackwardWeightShared<T>, BackwardWeightArgs<T>, cuda::backward_weight_tile<T>>(
      "backward_weight_kernel", args, args.tiles(), stream);
  const int64_t size = grad_weight.numel();
  const auto blocks = static_cast<unsigned>(std::min(cuda::parts(size, kThreads), kMaxBlocks));
  reduce_weight_kernel<T><<<blocks, kThreads, 0, stream>>>(args, data<T>(grad_weight), size);
  check(cudaGetLastError(), "reduce_weight_kernel");
}

std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
    int64_t dilation_h, int64_t dilation_w, bool deterministic) {
  const auto g = check_deform_conv2d_backward(
      grad, input, offset, weight, mask, {stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w});
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  const auto type = input.scalar_type();
  Tensor grad_input = empty(
      sizes_of(input), type == ScalarType::Double ? type : ScalarType::Float, input, MemoryFormat::ChannelsLast);
  torch::stable::zero_(grad_input);
  const Tensor grad_offset = empty_tensor(sizes_of(offset), input, MemoryFormat::Contiguous);
  const std::optional<Tensor> grad_mask =
      mask ? std::optional<Tensor>(empty_tensor(sizes_of(*mask), input, MemoryFormat::Contiguous)) : std::nullopt;
  Tensor grad_weight = empty_tensor(sizes_of(weight), input, MemoryFormat::Contiguous);
  if (grad.numel() > 0) {
    const BackwardTensors from{
        channels_last(grad), channels_last(input), torch::stable::contiguous(offset), contiguous(mask), weight};
    with_type(type, [&](auto zero) {
      using T = decltype(zero);
      backward_data<T>(g, from, grad_input, grad_offset, grad_mask, deterministic);
      backward_weight<T>(g, from, grad_weight);
    });
  } else {
    torch::stable::zero_(grad_weight);
  }
  return {
      in_format_of(input, grad_input), grad_offset, grad_weight,
      grad_mask ? *grad_mask : empty_tensor({0}, input, MemoryFormat::Contiguous)};
}

}  // namespace
}  // namespace convbody

STABLE_TORCH_LIBRARY_IMPL(convbody, CUDA, m) {
  m.impl("deform_conv2d", TORCH_BOX(&convbody::deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&convbody::deform_conv2d_backward));
}

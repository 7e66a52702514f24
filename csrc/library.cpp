// The operators' schemas. Implementations: cpu/ and cuda/; what they mean to autograd and the compiler: backbones/ops.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(convbody, m) {
  m.def(
      "deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, "
      "int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w) -> Tensor");
  // grad_mask has no elements where there is no mask. The gradient of the bias is grad.sum((0, 2, 3)).
  m.def(
      "deform_conv2d_backward(Tensor grad, Tensor input, Tensor offset, Tensor weight, Tensor? mask, "
      "int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, bool deterministic) "
      "-> (Tensor grad_input, Tensor grad_offset, Tensor grad_weight, Tensor grad_mask)");
}

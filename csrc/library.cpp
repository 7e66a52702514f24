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

  // relu(conv2d(input, weight, bias) + residual) of stride 1, which keeps the size: 3x3 or 1x1, float32.
  m.def("fused_conv2d(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, bool relu) -> Tensor");

  // Mean and biased variance of every channel: (C,), float32, or float64 of a float64 input, as all parameters are.
  m.def("activated_norm_statistics(Tensor input) -> (Tensor mean, Tensor var)");
  // activation((input - mean) / sqrt(var + eps) * weight + bias); a weight nearer to 0 than eps acts as eps.
  m.def(
      "activated_norm(Tensor input, Tensor mean, Tensor var, Tensor weight, Tensor bias, float eps, "
      "str activation, float slope) -> Tensor");
  // The gradients of weight and bias, (2, C), from the output and its gradient.
  m.def(
      "activated_norm_sums(Tensor grad, Tensor output, Tensor weight, Tensor bias, float eps, "
      "str activation, float slope) -> Tensor");
  // The gradient of the input; means are those sums, of all processes, divided by the number of values per channel.
  m.def(
      "activated_norm_backward(Tensor grad, Tensor output, Tensor var, Tensor weight, Tensor bias, Tensor means, "
      "float eps, str activation, float slope) -> Tensor");

  // Cut-outs (K, C, pooled_height, pooled_width) of images for boxes (K, 5): index of the image, x1, y1, x2, y2.
  m.def(
      "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
      "int sampling_ratio, bool aligned) -> Tensor");
  // The gradient of the input, of the shape and in the layout that are named.
  m.def(
      "roi_align_backward(Tensor grad, Tensor rois, float spatial_scale, SymInt batch, SymInt channels, "
      "SymInt height, SymInt width, int sampling_ratio, bool aligned, bool channels_last) -> Tensor");
  // Of boxes (N, 4) that come best first, which none before in its group (all are one without groups) suppresses: bool.
  m.def("nms_keep(Tensor boxes, Tensor? groups, float threshold) -> Tensor");
}

// RoIAlign: its geometry, and the checks of the operators' arguments, before any memory is touched.

#pragma once

#include "ops.h"

namespace convbody {

struct RoIGeometry {
  int64_t batch, channels, height, width;  // of the input
  int64_t boxes, rows, columns;            // of the cut-outs
  bool channels_last;                      // the input, or its gradient

  int64_t bins() const { return rows * columns; }
  int64_t positions() const { return height * width; }
  int64_t image_values() const { return channels * positions(); }
};

// What half types are computed in, and the others as they are.
inline ScalarType wide_type(ScalarType type) { return type == ScalarType::Double ? type : ScalarType::Float; }

// Samples per bin and direction that may be asked for: each costs time, even where there is no pixel.
inline constexpr int64_t kMostSamples = 256;

inline void check_rois(const Tensor& images, const Tensor& rois, int64_t sampling_ratio) {
  const auto type = images.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Double || type == ScalarType::Float || type == ScalarType::Half ||
          type == ScalarType::BFloat16,
      "roi_align: the input is of type ", torch::headeronly::toString(type),
      " but must be float64, float32, float16 or bfloat16");
  STD_TORCH_CHECK(
      rois.dim() == 2 && rois.size(1) == 5, "roi_align: the boxes must have shape (K, 5), not ", shape_of(rois));
  STD_TORCH_CHECK(
      rois.scalar_type() == type || rois.scalar_type() == wide_type(type), "roi_align: the boxes are of type ",
      torch::headeronly::toString(rois.scalar_type()), " but must be of type ",
      torch::headeronly::toString(wide_type(type)), " or of the input's, ", torch::headeronly::toString(type));
  STD_TORCH_CHECK(rois.device() == images.device(), "roi_align: the input and the boxes are on different devices");
  STD_TORCH_CHECK(
      sampling_ratio <= kMostSamples, "roi_align: sampling_ratio is ", sampling_ratio, " but must be at most ",
      kMostSamples);
}

// Returns the layout of the input.
inline MemoryFormat check_roi_input(
    const Tensor& input, const Tensor& rois, int64_t rows, int64_t columns, int64_t sampling_ratio) {
  check_rois(input, rois, sampling_ratio);
  STD_TORCH_CHECK(
      input.dim() == 4 && (rois.size(0) == 0 || input.size(2) * input.size(3) > 0),
      "roi_align: the input must have 4 dimensions and at least one pixel, not the shape ", shape_of(input));
  STD_TORCH_CHECK(
      rows > 0 && columns > 0, "roi_align: the output size must be positive, not (", rows, ", ", columns, ")");
  return memory_format_of(input);
}

inline void check_roi_grad(
    const Tensor& grad, const Tensor& rois, int64_t batch, int64_t channels, int64_t height, int64_t width,
    int64_t sampling_ratio) {
  check_rois(grad, rois, sampling_ratio);
  STD_TORCH_CHECK(
      grad.dim() == 4 && grad.size(0) == rois.size(0) && grad.size(1) == channels,
      "roi_align: the gradient has shape ", shape_of(grad), " for boxes of shape ", shape_of(rois), " and ", channels,
      " channels");
  STD_TORCH_CHECK(
      batch >= 0 && channels >= 0 && height >= 0 && width >= 0 && (rois.size(0) == 0 || height * width > 0),
      "roi_align: there is no input of shape ", to_string({batch, channels, height, width}), " for boxes of shape ",
      shape_of(rois));
}

}  // namespace convbody

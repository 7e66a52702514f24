// The inner loops of deformable convolution on the CPU, in the widest vectors of the processor that runs them.

#pragma once

#include <cstdint>

namespace convbody::cpu {

// One bilinear sample: the four pixels around it (row by row) and the weight of each, the mask's factor included.
template <class A>
struct Sample {
  int64_t pixel[4];  // y * width + x; negative outside the image, where every value is zero
  A weight[4];
  A y_fraction, x_fraction;  // of the sample's place between its pixels
  A factor;                  // the mask's
};

// Channels-last pixels: channel c of pixel p is at data[p * stride + c].
template <class A>
struct Pixels {
  A* data;
  int64_t stride;
};

template <class A>
struct Kernels {
  int64_t panel;  // columns that multiply() makes at once; packed matrices are padded to it
  int64_t rows;   // rows that multiply() makes at once; other row counts are right but slower

  // c[i][0..panel) += sum over k of a[i][k] * b[k][0..panel): matrices by their rows, row i of a at a + i * a_row.
  // One chain of additions in the order of k, so that splitting k over several calls changes no bit.
  void (*multiply)(int64_t rows, int64_t depth, const A* a, int64_t a_row, const A* b, int64_t b_row, A* c,
                   int64_t c_row);

  // columns[i][0..channels) = the image at samples[i]; `zeros` stands in for pixels outside.
  void (*sample)(const Sample<A>* samples, int64_t count, Pixels<const A> image, const A* zeros, int64_t channels,
                 A* columns, int64_t columns_row);

  // The same, and dots[i][j] += the sum over the channels of grads[i] * pixel j of samples[i].
  void (*sample_with_dots)(const Sample<A>* samples, int64_t count, Pixels<const A> image, const A* zeros,
                           int64_t channels, A* columns, const A* grads, int64_t columns_row, A (*dots)[4]);

  // Adds weight * grads[i] to the pixels of samples[i]: the transpose of sample().
  void (*scatter)(const Sample<A>* samples, int64_t count, const A* grads, int64_t grads_row, int64_t channels,
                  Pixels<A> image);
};

// The kernels for the processor at hand; A is float or double.
template <class A>
const Kernels<A>& kernels();

}  // namespace convbody::cpu

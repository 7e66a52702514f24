// Where a deformable convolution looks, and what it sees there.
//
// Images are channels_last in memory, so that the channels of a pixel are one run. Output positions are numbered
// through the whole batch.

#pragma once

#include "block.h"

#include <cmath>
#include <numeric>

namespace convbody::cuda {

struct Shape {
  int64_t batch, channels, height, width;
  int64_t out_channels, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t groups, offset_groups;
  // What follows from these, once and for all rather than in every thread:
  int64_t taps, out_pixels, positions;
  int64_t group_channels, group_out_channels, offset_group_channels;
  // Channels that lie in one group and one deformable group together: the greatest common divisor of the two sizes.
  int64_t run;

  void derive() {
    taps = kernel_h * kernel_w;
    out_pixels = out_height * out_width;
    positions = batch * out_pixels;
    group_channels = channels / groups;
    group_out_channels = out_channels / groups;
    offset_group_channels = channels / offset_groups;
    run = std::gcd(group_channels, offset_group_channels);
  }
};

// An output position: its image, its number within the image, and the first tap of its undeformed window.
struct Place {
  int64_t image, pixel, y, x;
};

CONVBODY_DEVICE Place place_of(const Shape& shape, int64_t position) {
  Place place;
  place.image = position / shape.out_pixels;
  place.pixel = position - place.image * shape.out_pixels;
  const int64_t row = place.pixel / shape.out_width;
  place.y = row * shape.stride_h - shape.pad_h;
  place.x = (place.pixel - row * shape.out_width) * shape.stride_w - shape.pad_w;
  return place;
}

// A point between four pixels, which are numbered 0 to 3 by rows: 2 * lower + right.
template <class A>
struct Sample {
  int64_t pixel = 0;  // the upper left one, numbered through the whole batch; maybe outside the image
  int inside = 0;     // bit i: pixel i lies in the image
  A y = 0, x = 0;     // from the upper left pixel, in [0, 1)
  A mask = 0;

  CONVBODY_DEVICE bool has(int i) const { return inside >> i & 1; }
  CONVBODY_DEVICE int64_t pixel_at(int i, int64_t width) const { return pixel + (i >> 1) * width + (i & 1); }
  CONVBODY_DEVICE A share_y(int i) const { return i >> 1 ? y : 1 - y; }
  CONVBODY_DEVICE A share_x(int i) const { return i & 1 ? x : 1 - x; }
  CONVBODY_DEVICE A share(int i) const { return share_y(i) * share_x(i); }
  // Derivatives of the share.
  CONVBODY_DEVICE A by_y(int i) const { return i >> 1 ? share_x(i) : -share_x(i); }
  CONVBODY_DEVICE A by_x(int i) const { return i & 1 ? share_y(i) : -share_y(i); }
};

// offset: (N, G * taps * 2, Ho, Wo); mask: (N, G * taps, Ho, Wo) or null. Nothing is inside for a point at or below
// -1, at or above the size, or not a number.
template <class T>
CONVBODY_DEVICE Sample<accumulate_t<T>> sample_at(
    const Shape& shape, const T* offset, const T* mask, const Place& place, int64_t tap, int64_t offset_group) {
  using A = accumulate_t<T>;
  const int64_t plane = (place.image * shape.offset_groups + offset_group) * shape.taps + tap;
  const T* const move = offset + 2 * plane * shape.out_pixels + place.pixel;
  const int64_t tap_row = tap / shape.kernel_w;
  const int64_t tap_column = tap - tap_row * shape.kernel_w;
  const A y = static_cast<A>(place.y + tap_row * shape.dilation_h) + widen(move[0]);
  const A x = static_cast<A>(place.x + tap_column * shape.dilation_w) + widen(move[shape.out_pixels]);

  Sample<A> sample;
  sample.mask = mask ? widen(mask[plane * shape.out_pixels + place.pixel]) : A(1);
  if (!(y > -1 && x > -1 && y < static_cast<A>(shape.height) && x < static_cast<A>(shape.width))) {
    return sample;
  }
  const A top = floor(y), left = floor(x);
  sample.y = y - top;
  sample.x = x - left;
  const int64_t row = static_cast<int64_t>(top), column = static_cast<int64_t>(left);
  const bool rows[] = {row >= 0 && row < shape.height, row + 1 < shape.height};
  const bool columns[] = {column >= 0 && column < shape.width, column + 1 < shape.width};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sample.inside |= static_cast<int>(rows[i >> 1] && columns[i & 1]) << i;
  }
  sample.pixel = (place.image * shape.height + row) * shape.width + column;
  return sample;
}

// The run of channels that starts at `channel`, at a sample, times the mask. See load_run for count and wide.
template <class T>
CONVBODY_DEVICE Vec<T> sampled_run(
    const Shape& shape, const T* input, const Sample<accumulate_t<T>>& sample, int64_t channel, int count, bool wide) {
  using A = accumulate_t<T>;
  Vec<T> pixels[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // all loads before the first use
    const int64_t pixel = sample.pixel_at(i, shape.width);
    pixels[i] = load_run(input + pixel * shape.channels + channel, sample.has(i) ? count : 0, wide);
  }
  Vec<T> run;
#pragma unroll
  for (int e = 0; e < Vec<T>::size; ++e) {
    A sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum += sample.share(i) * widen(pixels[i].at[e]);
    }
    // Behind the run stays zero, whatever the mask.
    run.at[e] = e < count ? narrow<T>(sum * sample.mask) : narrow<T>(0);
  }
  return run;
}

}  // namespace convbody::cuda

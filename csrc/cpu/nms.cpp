// Non-maximum suppression on the CPU: threads share groups of boxes, which do not suppress each other's.

#include "../ops.h"
#include "nms_kernels.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace convbody {
namespace {

using cpu::nms::Boxes;
using cpu::nms::Flag;
using cpu::nms::kPadding;

void check_arguments(const Tensor& boxes, const std::optional<Tensor>& groups) {
  const auto type = boxes.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Double || type == ScalarType::Float, "nms: the boxes are of type ",
      torch::headeronly::toString(type), " but must be float64 or float32");
  STD_TORCH_CHECK(
      boxes.dim() == 2 && boxes.size(1) == 4, "nms: the boxes must have shape (N, 4), not ", shape_of(boxes));
  STD_TORCH_CHECK(
      !groups || (sizes_of(*groups) == std::vector<int64_t>{boxes.size(0)} &&
                  groups->scalar_type() == ScalarType::Long && groups->device() == boxes.device()),
      "nms: the groups must be int64 and have one for each box of shape ", shape_of(boxes));
}

// The boxes of a group, coordinate by coordinate.
template <class A>
class Columns {
 public:
  Columns(const A* boxes, const int64_t* members, int64_t count) : stride_(count + kPadding), values_(5 * stride_) {
    for (int64_t i = 0; i < count; ++i) {
      const A* box = boxes + 4 * members[i];
      for (int64_t side = 0; side < 4; ++side) {
        values_[side * stride_ + i] = box[side];
      }
      values_[4 * stride_ + i] = (box[2] - box[0]) * (box[3] - box[1]);
    }
  }

  Boxes<A> boxes() const { return {column(0), column(1), column(2), column(3), column(4)}; }

 private:
  const A* column(int64_t i) const { return values_.data() + i * stride_; }

  int64_t stride_;
  std::vector<A> values_;
};

// Marks what is kept of a group, whose members come best first.
template <class A>
void suppress(const A* boxes, const int64_t* members, int64_t count, A limit, bool* keep) {
  const auto& kernels = cpu::nms::kernels<A>();
  const Columns<A> columns(boxes, members, count);
  std::vector<Flag<A>> flags(count + kPadding);
  for (int64_t i = 0; i < count; ++i) {
    keep[members[i]] = flags[i] == 0;
    if (flags[i] == 0) {
      kernels.suppress(columns.boxes(), i, i + 1, count, limit, flags.data());
    }
  }
}

// The largest value of the boxes' type that is not above the threshold: no value of that type lies between them.
template <class A>
A limit_of(double threshold) {
  const A limit = static_cast<A>(threshold);
  return static_cast<double>(limit) > threshold ? std::nextafter(limit, -std::numeric_limits<A>::infinity()) : limit;
}

// Members by group, each group's in their order, and where each group ends.
std::pair<std::vector<int64_t>, std::vector<int64_t>> members_of(const int64_t* groups, int64_t count) {
  std::vector<int64_t> members(count), ends{0};
  std::iota(members.begin(), members.end(), 0);
  if (groups) {
    std::stable_sort(members.begin(), members.end(), [=](int64_t a, int64_t b) { return groups[a] < groups[b]; });
    for (int64_t i = 1; i < count; ++i) {
      if (groups[members[i]] != groups[members[i - 1]]) {
        ends.push_back(i);
      }
    }
  }
  ends.push_back(count);
  return {std::move(members), std::move(ends)};
}

template <class A>
void keep_best(const Tensor& boxes, const int64_t* groups, double threshold, bool* keep) {
  const A* values = static_cast<const A*>(boxes.data_ptr());
  const auto [members, ends] = members_of(groups, boxes.size(0));
  const int64_t* all = members.data();
  const int64_t* until = ends.data();
  torch::stable::parallel_for(0, static_cast<int64_t>(ends.size()) - 1, 1, [=](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = until[group];
      suppress(values, all + first, until[group + 1] - first, limit_of<A>(threshold), keep);
    }
  });
}

Tensor nms_keep(const Tensor& boxes, const std::optional<Tensor>& groups, double threshold) {
  check_arguments(boxes, groups);
  Tensor keep = torch::stable::empty({boxes.size(0)}, ScalarType::Bool, std::nullopt, boxes.device());
  const Tensor dense = torch::stable::contiguous(boxes);
  std::optional<Tensor> group;
  if (groups) {
    group = torch::stable::contiguous(*groups);
  }
  const int64_t* of = group ? static_cast<const int64_t*>(group->data_ptr()) : nullptr;
  bool* to = static_cast<bool*>(keep.data_ptr());
  boxes.scalar_type() == ScalarType::Double ? keep_best<double>(dense, of, threshold, to)
                                            : keep_best<float>(dense, of, threshold, to);
  return keep;
}

}  // namespace
}  // namespace convbody

STABLE_TORCH_LIBRARY_IMPL(convbody, CPU, m) { m.impl("nms_keep", TORCH_BOX(&convbody::nms_keep)); }

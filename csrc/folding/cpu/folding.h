// Statistics of where a displacement folds space.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace plasticine {

// statistics: contiguous float64 (N, 6): the number of folds (J <= 0), the number of voxels looked
// at, the least and the greatest J, the standard deviation of log(max(J, 1e-9)), and the
// non-diffeomorphic volume in voxels. A NaN Jacobian is no fold; it makes minimum, maximum and
// deviation NaN. interior leaves out the outermost layer on axes longer than 2, but for the volume,
// which is over all cells.
void folding(const Tensor& displacement, const Tensor& statistics, Scheme scheme, bool interior,
             const std::vector<double>& spacing, int threads);

}  // namespace plasticine

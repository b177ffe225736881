// Fewer page faults on large results.
#pragma once

#include "core/tensor.h"

namespace plasticine {

// Asks the system to back a contiguous result that is about to be written with pages of 2 MiB.
// Memory fresh from the system is mapped at the first touch of each page; for a field of 24 MiB
// that is 6144 faults of 4 KiB, which can take longer than filling it.
void prefer_huge_pages(const Tensor& result);

}  // namespace plasticine

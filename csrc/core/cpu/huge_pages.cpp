#include "core/cpu/huge_pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>

namespace plasticine {

void prefer_huge_pages(const Tensor& result) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kHugePage = std::uintptr_t{1} << 21;
  if (result.data == nullptr) {
    return;
  }
  std::int64_t bytes = element_size(result.dtype);
  for (int axis = 0; axis < result.ndim; ++axis) {
    bytes *= result.shape[axis];
  }
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(result.data);
  const std::uintptr_t first = (address + kHugePage - 1) & ~(kHugePage - 1);
  const std::uintptr_t last = (address + static_cast<std::uintptr_t>(bytes)) & ~(kHugePage - 1);
  if (last > first) {
    // Advice: where it is not taken, nothing is lost.
    (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#else
  (void)result;
#endif
}

}  // namespace plasticine

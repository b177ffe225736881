// A loop over independent tasks, on the given number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace plasticine {

// Calls work(task) for every task in [0, tasks). Without OpenMP, or with one task or thread, in
// order on the calling thread, which costs nothing on small inputs.
template <typename Work>
void parallel_for(std::int64_t tasks, int threads, const Work& work) {
#if defined(_OPENMP)
  const int count = static_cast<int>(std::min<std::int64_t>(tasks, threads));
  if (count > 1) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(count)
    for (std::int64_t task = 0; task < tasks; ++task) {
      work(task);
    }
    return;
  }
#else
  (void)threads;
#endif
  for (std::int64_t task = 0; task < tasks; ++task) {
    work(task);
  }
}

}  // namespace plasticine

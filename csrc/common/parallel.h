// A loop over independent tasks, on the given number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace plasticine {

// Calls work(task) for every task in [0, tasks). A thread is only worth waking for `grain` tasks;
// where that, or the build, leaves one thread, all run in order on the calling thread.
template <typename Work>
void parallel_for(std::int64_t tasks, int grain, int threads, const Work& work) {
#if defined(_OPENMP)
  const int count = static_cast<int>(std::min<std::int64_t>(tasks / grain, threads));
  if (count > 1) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(count)
    for (std::int64_t task = 0; task < tasks; ++task) {
      work(task);
    }
    return;
  }
#else
  (void)grain;
  (void)threads;
#endif
  for (std::int64_t task = 0; task < tasks; ++task) {
    work(task);
  }
}

}  // namespace plasticine

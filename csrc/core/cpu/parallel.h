// A loop over independent tasks, on the given number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/cpu/interruption.h"

namespace plasticine {

// Whether this process was forked from another without starting a program of its own. The threads
// of OpenMP do not come along, and a loop that waits for them would wait for ever.
bool is_forked();

// Calls work(task) for every task in [0, tasks). A thread is only worth waking for `grain` tasks;
// where that, the build or a fork leaves one thread, all run in order on the calling thread.
// Throws Interrupted, with tasks left undone, where the call is to end.
template <typename Work>
void parallel_for(std::int64_t tasks, int grain, int threads, const Work& work) {
#if defined(_OPENMP)
  const int count = static_cast<int>(std::min<std::int64_t>(tasks / grain, threads));
  if (count > 1 && !is_forked()) {
    InterruptibleCall* const call = InterruptibleCall::current();
#pragma omp parallel num_threads(count)
    {
      const WorkingFor scope(call);
#pragma omp for schedule(dynamic, 1)
      for (std::int64_t task = 0; task < tasks; ++task) {
        try {
          leave_if_over();
          work(task);
        } catch (const Interrupted&) {
          // No exception leaves a parallel region. Every task to come will throw, too.
        }
      }
    }
    leave_if_over();
    return;
  }
#else
  (void)grain;
  (void)threads;
#endif
  for (std::int64_t task = 0; task < tasks; ++task) {
    leave_if_over();
    work(task);
  }
}

}  // namespace plasticine

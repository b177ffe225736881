// How a native call ends early, as when the user presses Ctrl-C.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

namespace plasticine {

// Thrown out of a call that is to end.
struct Interrupted {};

class InterruptibleCall;

// Within its scope this thread works for a call, which may be null.
class WorkingFor {
 public:
  explicit WorkingFor(InterruptibleCall* call);
  ~WorkingFor();
  WorkingFor(const WorkingFor&) = delete;
  WorkingFor& operator=(const WorkingFor&) = delete;

 private:
  InterruptibleCall* const before_;
};

// One native call: now and then the thread that made it asks whether to go on.
class InterruptibleCall {
 public:
  // `ask` is called on this thread alone, and says whether the call is to end.
  explicit InterruptibleCall(bool (*ask)());

  // The call that this thread works for, or null.
  static InterruptibleCall* current();

  // Whether the call is to end; any of its threads may want to know.
  bool is_over();

 private:
  bool (*const ask_)();
  const std::thread::id owner_;
  std::chrono::steady_clock::time_point next_;
  std::atomic<bool> over_{false};
  const WorkingFor scope_;
};

// Throws Interrupted where the call that this thread works for is to end.
void leave_if_over();

}  // namespace plasticine

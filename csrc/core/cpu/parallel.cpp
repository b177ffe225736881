#include "core/cpu/parallel.h"

#include <pthread.h>

namespace plasticine {

namespace {

// How long a call goes on before it asks again: to ask may mean to wait for another thread.
constexpr std::chrono::milliseconds kBetweenQuestions(200);

thread_local InterruptibleCall* current_call = nullptr;

bool forked = false;

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

bool is_forked() { return forked; }

InterruptibleCall::InterruptibleCall(bool (*ask)())
    : ask_(ask),
      owner_(std::this_thread::get_id()),
      next_(std::chrono::steady_clock::now() + kBetweenQuestions),
      scope_(this) {}

InterruptibleCall* InterruptibleCall::current() { return current_call; }

bool InterruptibleCall::is_over() {
  const bool asks = std::this_thread::get_id() == owner_;
  if (asks && std::chrono::steady_clock::now() >= next_) {
    over_.store(over_.load() || ask_());
    next_ = std::chrono::steady_clock::now() + kBetweenQuestions;
  }
  return over_.load(std::memory_order_relaxed);
}

void leave_if_over() {
  InterruptibleCall* const call = InterruptibleCall::current();
  if (call != nullptr && call->is_over()) {
    throw Interrupted();
  }
}

WorkingFor::WorkingFor(InterruptibleCall* call) : before_(current_call) { current_call = call; }

WorkingFor::~WorkingFor() { current_call = before_; }

}  // namespace plasticine

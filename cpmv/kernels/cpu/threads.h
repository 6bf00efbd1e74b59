// A loop over parts of the work on several threads. Each takes the next part as it becomes free, and the loop ends when
// the parts that were taken are done: a thread that the system has not let run is not waited for. Where other programs
// use the cores as well, OpenMP's loops, which wait for every thread, took several times as long.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace cpmv {

// What runs on the threads of a loop; `context` and `run` are valid until `finish` returns.
struct Job {
  void (*run)(const void* context);
  const void* context;
  int helpers;  // that may join the caller
};

// One loop at a time has the helpers; false: they are taken, and the caller works alone.
bool begin_job(const Job& job);
void finish_job();

// Calls body(begin, end) until [0, count) is covered, in parts of `part`.
template <class Body>
void parallel(int threads, int64_t count, int64_t part, const Body& body) {
  struct Context {
    const Body& body;
    int64_t count, part, parts;
    mutable std::atomic<int64_t> next;
  };
  const int64_t parts = (count + part - 1) / part;
  const Context context{body, count, part, parts, {0}};
  const auto run = [](const void* from) {
    const Context& c = *static_cast<const Context*>(from);
    for (int64_t i = c.next.fetch_add(1); i < c.parts; i = c.next.fetch_add(1)) {
      c.body(i * c.part, std::min(c.count, (i + 1) * c.part));
    }
  };
  const int helpers = int(std::min<int64_t>(threads, parts)) - 1;
  const bool shared = helpers > 0 && begin_job({run, &context, helpers});
  run(&context);
  if (shared) finish_job();
}

}  // namespace cpmv

// A loop over parts of the work on several threads; each takes the next part as it becomes free, because on a machine
// that others use as well equal shares end late. OpenMP where the compiler has it: torch's own threads then.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#ifndef _OPENMP
#include <thread>
#include <vector>
#endif

namespace cpmv {

// Calls body(begin, end) until [0, count) is covered, in parts of `part`.
template <class Body>
void parallel(int threads, int64_t count, int64_t part, const Body& body) {
  const int64_t parts = (count + part - 1) / part;
  threads = int(std::max<int64_t>(1, std::min<int64_t>(threads, parts)));
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i = next.fetch_add(1); i < parts; i = next.fetch_add(1)) {
      body(i * part, std::min(count, (i + 1) * part));
    }
  };
  if (threads == 1) return work();
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  work();
#else
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  for (auto& other : others) other.join();
#endif
}

}  // namespace cpmv

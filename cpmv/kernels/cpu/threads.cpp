// The helpers of threads.h: kept for the life of the process, awake for a moment after each loop, then asleep.
#include "threads.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace cpmv {
namespace {

constexpr auto kAwake = std::chrono::microseconds(200);

struct Pool {
  std::mutex in_use;  // held by the loop that has the helpers
  std::mutex mutex;   // of all below
  std::condition_variable work, done;
  const Job* job = nullptr;
  int joined = 0, threads = 0;
  std::atomic<int> active{0};
  std::atomic<uint64_t> number{0};  // of jobs so far

  void help() {
    uint64_t seen = 0;
    for (;;) {
      const auto asleep_at = std::chrono::steady_clock::now() + kAwake;
      while (number.load() == seen && std::chrono::steady_clock::now() < asleep_at) std::this_thread::yield();
      std::unique_lock<std::mutex> lock(mutex);
      work.wait(lock, [&] { return number.load() != seen; });
      seen = number.load();
      if (!job || joined >= job->helpers) continue;
      ++joined;
      ++active;
      const Job mine = *job;
      lock.unlock();
      mine.run(mine.context);
      lock.lock();
      if (--active == 0) done.notify_one();
    }
  }
};

Pool& pool() {
  static Pool* const made = new Pool;  // never destroyed: its threads end with the process
  return *made;
}

Job current;

}  // namespace

bool begin_job(const Job& job) {
  Pool& p = pool();
  if (!p.in_use.try_lock()) return false;
  {
    std::lock_guard<std::mutex> lock(p.mutex);
    current = job;
    p.job = &current;
    p.joined = 0;
    for (; p.threads < job.helpers; ++p.threads) std::thread([&p] { p.help(); }).detach();
    ++p.number;
  }
  p.work.notify_all();
  return true;
}

void finish_job() {
  Pool& p = pool();
  {
    std::unique_lock<std::mutex> lock(p.mutex);
    p.job = nullptr;  // who comes now comes too late
    lock.unlock();
    const auto asleep_at = std::chrono::steady_clock::now() + kAwake;
    while (p.active.load() != 0 && std::chrono::steady_clock::now() < asleep_at) std::this_thread::yield();
    lock.lock();
    p.done.wait(lock, [&] { return p.active == 0; });
  }
  p.in_use.unlock();
}

}  // namespace cpmv

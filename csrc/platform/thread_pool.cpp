#include "platform/thread_pool.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>

#if defined(__linux__)
#include <sched.h>
#endif

namespace osslo {
namespace {

// Waits are short between the phases of a step (microseconds) and long between steps. Spinning
// alone starves whoever holds the other core, so the wait yields and then sleeps.
constexpr int kSpins = 4000;
constexpr int kYields = 64;

inline void pause_cpu() {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int affinity_threads() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// CPUs granted by one cgroup directory (v2 cpu.max, or v1 quota and period); 0 where unlimited.
double quota_in(const std::string& directory) {
  std::ifstream v2(directory + "/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period) {
    return quota == "max" || period <= 0 ? 0.0 : std::stod(quota) / period;
  }
  double v1_quota = 0;
  std::ifstream(directory + "/cpu.cfs_quota_us") >> v1_quota;
  std::ifstream(directory + "/cpu.cfs_period_us") >> period;
  return v1_quota > 0 && period > 0 ? v1_quota / period : 0.0;
}

// The tightest quota from this process's own cgroup up to the root.
double cgroup_quota() {
  double least = 0.0;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && controllers.find("cpu") == std::string::npos) continue;
    const std::string root =
        controllers.empty() ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controllers;
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      const double quota = quota_in(root + path);
      if (quota > 0 && (least == 0 || quota < least)) least = quota;
      if (path.empty() || path.rfind('/') == std::string::npos) break;
    }
  }
  return least;
}

}  // namespace

int usable_threads() {
  const int threads = affinity_threads();
  const double quota = cgroup_quota();
  return quota > 0 ? std::clamp(static_cast<int>(std::floor(quota)), 1, threads) : threads;
}

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
    state_.fetch_add(uint64_t{1} << 32);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::start(int tasks, const void* context, Call call) {
  context_ = context;
  call_ = call;
  tasks_ = tasks;
  next_.store(0, std::memory_order_relaxed);
  finished_.store(0, std::memory_order_relaxed);
  const uint64_t round = round_of(state_.load(std::memory_order_relaxed)) + 1;
  state_.store(round << 32 | kOpen, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    const std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  take_tasks(0);
  const auto entered =
      static_cast<uint32_t>(state_.fetch_and(~kOpen, std::memory_order_acq_rel) & kEntered);
  for (int i = 0; finished_.load(std::memory_order_acquire) < entered; ++i) {
    if (i < kSpins) {
      pause_cpu();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::take_tasks(int thread) {
  for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;)
    call_(context_, i, thread);
}

void ThreadPool::work(int thread) {
  uint64_t round = 0;
  for (;;) {
    wait_for_round_after(round);
    if (stop_.load()) return;
    if (!enter(round, &round)) continue;
    take_tasks(thread);
    finished_.fetch_add(1, std::memory_order_release);
  }
}

// Joins the present round if it is a new one and still open; `round` becomes its number.
bool ThreadPool::enter(uint64_t seen_round, uint64_t* round) {
  uint64_t state = state_.load(std::memory_order_acquire);
  for (;;) {
    *round = round_of(state);
    if (*round == seen_round || !(state & kOpen)) return false;
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) return true;
  }
}

void ThreadPool::wait_for_round_after(uint64_t round) {
  for (int i = 0; i < kSpins + kYields; ++i) {
    if (round_of(state_.load(std::memory_order_acquire)) != round) return;
    if (i < kSpins) {
      pause_cpu();
    } else {
      std::this_thread::yield();
    }
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  wake_.wait(lock, [&] { return round_of(state_.load(std::memory_order_seq_cst)) != round; });
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace osslo

// A fixed team of threads that runs one parallel loop at a time. The caller is its first member.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace osslo {

// Threads this process may usefully run: its CPU affinity, cut by the cgroup's CPU quota.
int usable_threads();

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(task, thread) for each task in [0, tasks), handed out in ascending order, and
  // returns when all are done. Which thread runs a task must not matter to the result.
  template <class Body>
  void run(int tasks, const Body& body) {
    if (tasks <= 1 || workers_.empty()) {
      for (int i = 0; i < tasks; ++i) body(i, 0);
      return;
    }
    start(tasks, &body, [](const void* context, int task, int thread) {
      (*static_cast<const Body*>(context))(task, thread);
    });
  }

 private:
  using Call = void (*)(const void* context, int task, int thread);

  void start(int tasks, const void* context, Call call);
  void take_tasks(int thread);
  void work(int thread);
  bool enter(uint64_t seen_round, uint64_t* round);
  void wait_for_round_after(uint64_t round);

  // A round is one parallel loop. `state_` holds its number, whether it is open, and how many
  // workers have entered. The caller closes the round when no task is left and waits only for
  // those who entered: a worker that another process keeps from its core holds nobody up.
  static constexpr uint64_t kOpen = uint64_t{1} << 31;
  static constexpr uint64_t kEntered = kOpen - 1;
  static uint64_t round_of(uint64_t state) { return state >> 32; }

  // Written by the caller before it opens a round; read by those who entered it.
  const void* context_ = nullptr;
  Call call_ = nullptr;
  int tasks_ = 0;
  // Each atomic that several threads write has a cache line (64 bytes) of its own.
  alignas(64) std::atomic<int> next_{0};
  alignas(64) std::atomic<uint32_t> finished_{0};
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace osslo

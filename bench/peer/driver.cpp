// Runs llama.cpp on given token ids and prints one JSON line for each measurement.
//
// Both engines of bench/peers.py and bench/agreement.py must compute the same thing: the same ids,
// no sampling that changes them, no speculation. llama.cpp's own tools draw ids of their own, hence
// this driver. It does what llama-bench does (decode, wait, clock) plus a greedy argmax over each
// row of logits, which a server would do at least.
//
// usage: driver MODEL IDS THREADS FLASH REPACK STATE_DIR JOB...
//   IDS    int32 little-endian: streams of STREAM_TOKENS ids each
//   JOB    start | prefill:N | decode:DEPTH:N | streams:S:P:N | logits:N:KV_BITS
//
// logits writes STATE_DIR/logits.f32, float32 [N, vocabulary], with K and V in 16 or 32 bits.
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "llama.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kStreamTokens = 40960;
constexpr int kBatchTokens = 2048;
constexpr int kUnmeasuredTokens = 4;  // the first steps pay for page faults and thread wake-up

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<llama_token> read_ids(const char* path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw std::runtime_error(std::string("cannot read ") + path);
  std::vector<llama_token> ids(static_cast<size_t>(file.tellg()) / sizeof(llama_token));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(ids.data()), static_cast<std::streamsize>(ids.size() * 4));
  return ids;
}

double peak_rss_gib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::atof(line.c_str() + 6) / (1 << 20);
  }
  return 0;
}

class Peer {
 public:
  Peer(const char* path, std::vector<llama_token> ids, int threads, bool flash, bool repack,
       std::string state_dir)
      : ids_(std::move(ids)), threads_(threads), flash_(flash), state_dir_(std::move(state_dir)) {
    llama_model_params params = llama_model_default_params();
    params.use_extra_bufts = repack;
    model_ = llama_model_load_from_file(path, params);
    if (model_ == nullptr) throw std::runtime_error("llama.cpp cannot load the model");
    vocab_size_ = llama_vocab_n_tokens(llama_model_get_vocab(model_));
  }
  ~Peer() {
    close();
    llama_model_free(model_);
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  void start() {
    open(512, 1);
    feed(0, 0, 1);
  }

  double prefill(int tokens) {
    open(tokens + 64, 1);
    feed(0, 0, 32);
    llama_memory_clear(llama_get_memory(context_), true);
    const auto begin = Clock::now();
    feed(0, 0, tokens);
    return seconds_since(begin);
  }

  double decode(int depth, int tokens) {
    open(depth + tokens + 64, 1);
    fill(depth);
    for (int i = 0; i < kUnmeasuredTokens; ++i) feed(0, depth + i, 1);
    const auto begin = Clock::now();
    for (int i = 0; i < tokens; ++i) feed(0, depth + kUnmeasuredTokens + i, 1);
    return seconds_since(begin);
  }

  // The whole job and its decode phase. Prompts go in together, as a server would take them.
  std::pair<double, double> streams(int count, int prompt, int tokens) {
    open(count * (prompt + tokens + 8), count);
    const auto begin = Clock::now();
    llama_batch batch = llama_batch_init(count * prompt, 0, 1);
    for (int s = 0; s < count; ++s) {
      for (int i = 0; i < prompt; ++i) add(batch, s, i, i == prompt - 1);
    }
    run(batch);
    const auto decoding = Clock::now();
    for (int i = 0; i + 1 < tokens; ++i) {
      batch.n_tokens = 0;
      for (int s = 0; s < count; ++s) add(batch, s, prompt + i, true);
      run(batch);
    }
    llama_batch_free(batch);
    return {seconds_since(begin), seconds_since(decoding)};
  }

  // The logits after every token of the first stream, for bench/agreement.py.
  void logits(int tokens, int kv_bits) {
    open(tokens + 64, 1, kv_bits == 32 ? GGML_TYPE_F32 : GGML_TYPE_F16);
    std::ofstream file(state_dir_ + "/logits.f32", std::ios::binary);
    llama_batch batch = llama_batch_init(kBatchTokens, 0, 1);
    for (int i = 0; i < tokens; i += kBatchTokens) {
      batch.n_tokens = 0;
      for (int j = i; j < std::min(tokens, i + kBatchTokens); ++j) add(batch, 0, j, true);
      run(batch);
      for (int row = 0; row < batch.n_tokens; ++row) {
        file.write(reinterpret_cast<const char*>(llama_get_logits_ith(context_, row)),
                   static_cast<std::streamsize>(vocab_size_) * 4);
      }
    }
    llama_batch_free(batch);
    if (!file.flush()) throw std::runtime_error("cannot write the logits");
  }

 private:
  void open(int context_tokens, int sequences, ggml_type kv_type = GGML_TYPE_F16) {
    close();
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>((context_tokens + 255) / 256 * 256);
    params.n_batch = kBatchTokens;  // llama.cpp's own default, as is n_ubatch's
    params.n_seq_max = static_cast<uint32_t>(sequences);
    params.n_threads = params.n_threads_batch = threads_;
    params.flash_attn_type =
        flash_ ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.type_k = params.type_v = kv_type;
    params.swa_full = false;
    params.kv_unified = sequences > 1;
    context_ = llama_init_from_model(model_, params);
    if (context_ == nullptr) throw std::runtime_error("llama.cpp cannot make a context");
  }
  void close() {
    if (context_ != nullptr) llama_free(context_);
    context_ = nullptr;
  }

  void add(llama_batch& batch, int stream, int position, bool wanted) const {
    const int row = batch.n_tokens++;
    batch.token[row] = ids_.at(static_cast<size_t>(stream) * kStreamTokens + position);
    batch.pos[row] = position;
    batch.n_seq_id[row] = 1;
    batch.seq_id[row][0] = stream;
    batch.logits[row] = wanted ? 1 : 0;
  }

  void run(const llama_batch& batch) {
    if (llama_decode(context_, batch) != 0) throw std::runtime_error("llama_decode failed");
    for (int row = 0; row < batch.n_tokens; ++row) {
      if (!batch.logits[row]) continue;
      const float* logits = llama_get_logits_ith(context_, row);
      best_ = static_cast<int>(std::max_element(logits, logits + vocab_size_) - logits);
    }
  }

  void feed(int stream, int first, int tokens) {
    llama_batch batch = llama_batch_init(kBatchTokens, 0, 1);
    for (int i = 0; i < tokens; i += kBatchTokens) {
      batch.n_tokens = 0;
      for (int j = i; j < std::min(tokens, i + kBatchTokens); ++j) {
        add(batch, stream, first + j, j == tokens - 1);
      }
      run(batch);
    }
    llama_batch_free(batch);
  }

  // Prefilling a long context takes minutes; its state is kept on disk between rounds.
  void fill(int depth) {
    if (depth == 0) return;
    const std::string path = state_dir_ + "/depth-" + std::to_string(depth) +
                             (flash_ ? "-fa1" : "-fa0") + ".state";
    struct stat found {};
    std::vector<llama_token> ids(static_cast<size_t>(depth));
    size_t count = 0;
    if (stat(path.c_str(), &found) == 0 &&
        llama_state_seq_load_file(context_, path.c_str(), 0, ids.data(), ids.size(), &count) > 0) {
      return;
    }
    llama_memory_clear(llama_get_memory(context_), true);
    feed(0, 0, depth);
    ids.assign(ids_.begin(), ids_.begin() + depth);
    llama_state_seq_save_file(context_, path.c_str(), 0, ids.data(), ids.size());
  }

  std::vector<llama_token> ids_;
  int threads_;
  bool flash_;
  std::string state_dir_;
  llama_model* model_ = nullptr;
  llama_context* context_ = nullptr;
  int vocab_size_ = 0;
  volatile int best_ = 0;  // keeps the argmax from being optimised away
};

std::vector<int> numbers(const std::string& job) {
  std::vector<int> result;
  for (size_t at = job.find(':'); at != std::string::npos; at = job.find(':', at + 1)) {
    result.push_back(std::stoi(job.substr(at + 1)));
  }
  return result;
}

void report(const std::string& job, double seconds, double decode_seconds) {
  std::printf("{\"job\": \"%s\", \"seconds\": %.6f, \"decode_seconds\": %.6f, \"rss_gib\": %.3f}\n",
              job.c_str(), seconds, decode_seconds, peak_rss_gib());
  std::fflush(stdout);
}

void measure(Peer& peer, const std::string& job) {
  const std::vector<int> n = numbers(job);
  if (job == "start") {
    peer.start();
    report(job, 0, 0);  // the caller's clock, which also saw the process begin, counts here
  } else if (job.rfind("prefill:", 0) == 0 && n.size() == 1) {
    report(job, peer.prefill(n[0]), 0);
  } else if (job.rfind("decode:", 0) == 0 && n.size() == 2) {
    const double seconds = peer.decode(n[0], n[1]);
    report(job, seconds, seconds);
  } else if (job.rfind("streams:", 0) == 0 && n.size() == 3) {
    const auto [whole, decode] = peer.streams(n[0], n[1], n[2]);
    report(job, whole, decode);
  } else if (job.rfind("logits:", 0) == 0 && n.size() == 2) {
    peer.logits(n[0], n[1]);
    report(job, 0, 0);
  } else {
    throw std::runtime_error("unknown job " + job);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 8) {
    std::fprintf(stderr, "usage: driver MODEL IDS THREADS FLASH REPACK STATE_DIR JOB...\n");
    return 2;
  }
  try {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    Peer peer(argv[1], read_ids(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]) != 0,
              std::atoi(argv[5]) != 0, argv[6]);
    for (int i = 7; i < argc; ++i) measure(peer, argv[i]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "driver: %s\n", error.what());
    return 1;
  }
  return 0;
}

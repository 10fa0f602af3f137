#include "model/weights.h"

#include <stdexcept>
#include <utility>

#include "simd/half.h"

namespace osslo {
namespace {

constexpr size_t kAlignment = 64;

size_t padded_rows(int32_t rows) {
  return static_cast<size_t>((rows + kPanelRows - 1) / kPanelRows * kPanelRows);
}

// Looks tensors up by name and checks place, kind and shape before handing out a pointer.
class Reader {
 public:
  Reader(const MappedFile& file, const std::unordered_map<std::string, TensorEntry>& tensors)
      : file_(file), tensors_(tensors) {}

  const float* vector(const std::string& name, size_t count) const {
    const TensorEntry& entry = find(name);
    const auto stored = static_cast<size_t>(entry.rows) * static_cast<size_t>(entry.columns);
    if (entry.kind != WeightKind::kF32 || stored != count || entry.bytes != count * 4)
      throw std::runtime_error("packed tensor " + name + " should hold " + std::to_string(count) +
                               " float32 values");
    return reinterpret_cast<const float*>(at(entry));
  }

  PanelMatrix matrix(const std::string& name, int32_t rows, int32_t columns, size_t copies) const {
    const TensorEntry& entry = find(name);
    const PanelMatrix m{entry.kind, rows, columns, at(entry)};
    check_shape(name, entry, rows, columns);
    if (entry.bytes != m.bytes() * copies) wrong_size(name, entry, m.bytes() * copies);
    return m;
  }

  PanelMatrix plain_rows(const std::string& name, int32_t rows, int32_t columns) const {
    const TensorEntry& entry = find(name);
    const PanelMatrix m{entry.kind, rows, columns, at(entry)};
    check_shape(name, entry, rows, columns);
    const auto cells = static_cast<size_t>(rows) * static_cast<size_t>(columns);
    const size_t blocks = static_cast<size_t>(rows) * static_cast<size_t>(m.blocks());
    const size_t expected = entry.kind == WeightKind::kQ8     ? blocks * (kBlock + 2)
                            : entry.kind == WeightKind::kBf16 ? cells * 2
                                                              : cells * 4;
    if (entry.kind == WeightKind::kMxfp4 || entry.bytes != expected)
      wrong_size(name, entry, expected);
    return m;
  }

 private:
  const TensorEntry& find(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw std::runtime_error("packed tensor " + name + " is missing");
    const TensorEntry& entry = found->second;
    if (entry.offset % kAlignment != 0 || entry.offset > file_.size() ||
        entry.bytes > file_.size() - entry.offset)
      throw std::runtime_error("packed tensor " + name + " lies outside the file");
    return entry;
  }
  const uint8_t* at(const TensorEntry& entry) const { return file_.data() + entry.offset; }

  static void check_shape(const std::string& name, const TensorEntry& entry, int32_t rows,
                          int32_t columns) {
    if (entry.rows == rows && entry.columns == columns) return;
    throw std::runtime_error("packed tensor " + name + " is [" + std::to_string(entry.rows) + ", " +
                             std::to_string(entry.columns) + "], expected [" +
                             std::to_string(rows) + ", " + std::to_string(columns) + "]");
  }
  [[noreturn]] static void wrong_size(const std::string& name, const TensorEntry& entry,
                                      size_t expected) {
    throw std::runtime_error("packed tensor " + name + " has " + std::to_string(entry.bytes) +
                             " bytes, expected " + std::to_string(expected));
  }

  const MappedFile& file_;
  const std::unordered_map<std::string, TensorEntry>& tensors_;
};

void check(const ModelShape& s) {
  const bool positive = s.hidden > 0 && s.heads > 0 && s.kv_heads > 0 && s.head_dim > 0 &&
                        s.intermediate > 0 && s.experts > 0 && s.vocab_size > 0 &&
                        s.layers() > 0 && s.experts_per_token > 0;
  if (!positive || s.heads % s.kv_heads != 0 || s.head_dim % 8 != 0 ||
      s.experts_per_token > s.experts ||
      s.inverse_frequencies.size() != static_cast<size_t>(s.head_dim / 2))
    throw std::runtime_error("model shape is inconsistent");
}

}  // namespace

Weights::Weights(const std::string& path, ModelShape shape,
                 const std::unordered_map<std::string, TensorEntry>& tensors)
    : file_(path), shape_(std::move(shape)) {
  check(shape_);
  const ModelShape& s = shape_;
  const Reader read(file_, tensors);
  const auto experts = static_cast<size_t>(s.experts);
  const auto hidden = static_cast<size_t>(s.hidden);
  for (int32_t i = 0; i < s.layers(); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    const int32_t qkv_rows = s.query_width() + 2 * s.kv_width();
    layers_.push_back({
        read.vector(at + "attention_norm", hidden),
        read.vector(at + "sinks", static_cast<size_t>(s.heads)),
        read.vector(at + "mlp_norm", hidden),
        read.matrix(at + "qkv", qkv_rows, s.hidden, 1),
        read.vector(at + "qkv_bias", padded_rows(qkv_rows)),
        read.matrix(at + "o", s.hidden, s.query_width(), 1),
        read.vector(at + "o_bias", padded_rows(s.hidden)),
        read.matrix(at + "router", s.experts, s.hidden, 1),
        read.vector(at + "router_bias", padded_rows(s.experts)),
        read.matrix(at + "gate_up", s.gate_up_rows(), s.hidden, experts),
        read.vector(at + "gate_up_bias", experts * padded_rows(s.gate_up_rows())),
        read.matrix(at + "down", s.hidden, s.intermediate, experts),
        read.vector(at + "down_bias", experts * padded_rows(s.hidden)),
    });
  }
  final_norm_ = read.vector("final_norm", hidden);
  head_ = read.matrix("head", s.vocab_size, s.hidden, 1);
  embedding_ = read.plain_rows("embedding", s.vocab_size, s.hidden);
}

PanelMatrix Weights::gate_up(const LayerWeights& layer, int32_t expert) const {
  PanelMatrix m = layer.gate_up;
  m.data += m.bytes() * static_cast<size_t>(expert);
  return m;
}

PanelMatrix Weights::down(const LayerWeights& layer, int32_t expert) const {
  PanelMatrix m = layer.down;
  m.data += m.bytes() * static_cast<size_t>(expert);
  return m;
}

const float* Weights::gate_up_bias(const LayerWeights& layer, int32_t expert) const {
  return layer.gate_up_bias + padded_rows(shape_.gate_up_rows()) * static_cast<size_t>(expert);
}

const float* Weights::down_bias(const LayerWeights& layer, int32_t expert) const {
  return layer.down_bias + padded_rows(shape_.hidden) * static_cast<size_t>(expert);
}

void Weights::embed(int32_t token, float* out) const {
  const auto row = static_cast<size_t>(token);
  const auto columns = static_cast<size_t>(shape_.hidden);
  const auto blocks = static_cast<size_t>(embedding_.blocks());
  const uint8_t* data = embedding_.data;
  if (embedding_.kind == WeightKind::kQ8) {
    const auto* values = reinterpret_cast<const int8_t*>(data) + row * blocks * kBlock;
    const auto rows = static_cast<size_t>(embedding_.rows);
    const auto* scales =
        reinterpret_cast<const uint16_t*>(data + rows * blocks * kBlock) + row * blocks;
    for (size_t i = 0; i < columns; ++i)
      out[i] = static_cast<float>(values[i]) * half_to_float(scales[i / kBlock]);
  } else if (embedding_.kind == WeightKind::kBf16) {
    const auto* values = reinterpret_cast<const uint16_t*>(data) + row * columns;
    for (size_t i = 0; i < columns; ++i) out[i] = bfloat_to_float(values[i]);
  } else {
    const auto* values = reinterpret_cast<const float*>(data) + row * columns;
    for (size_t i = 0; i < columns; ++i) out[i] = values[i];
  }
}

}  // namespace osslo

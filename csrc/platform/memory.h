// The operating system's part in memory: read-only file mappings and large zeroed regions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace osslo {

// A whole file mapped read-only; its pages are shared with every process that maps it.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);  // throws std::runtime_error
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Zeroed memory that costs nothing until touched, aligned to at least 64 bytes.
class ZeroedRegion {
 public:
  explicit ZeroedRegion(size_t bytes);  // throws std::bad_alloc
  ~ZeroedRegion();
  ZeroedRegion(const ZeroedRegion&) = delete;
  ZeroedRegion& operator=(const ZeroedRegion&) = delete;

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace osslo

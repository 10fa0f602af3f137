#include "platform/memory.h"

#include <cerrno>
#include <cstring>
#include <new>
#include <stdexcept>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace osslo {

#if defined(_WIN32)

MappedFile::MappedFile(const std::string& path) {
  const HANDLE file = CreateFileA(path.c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr,
                                  OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
  if (file == INVALID_HANDLE_VALUE) throw std::runtime_error(path + ": cannot be opened");
  LARGE_INTEGER size;
  GetFileSizeEx(file, &size);
  const HANDLE mapping = CreateFileMappingA(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
  CloseHandle(file);
  if (!mapping) throw std::runtime_error(path + ": cannot be mapped");
  data_ = static_cast<uint8_t*>(MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0));
  CloseHandle(mapping);
  if (!data_) throw std::runtime_error(path + ": cannot be mapped");
  size_ = static_cast<size_t>(size.QuadPart);
}
MappedFile::~MappedFile() { UnmapViewOfFile(data_); }

ZeroedRegion::ZeroedRegion(size_t bytes) : size_(bytes) {
  data_ = static_cast<uint8_t*>(
      VirtualAlloc(nullptr, bytes ? bytes : 1, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE));
  if (!data_) throw std::bad_alloc();
}
ZeroedRegion::~ZeroedRegion() { VirtualFree(data_, 0, MEM_RELEASE); }

#else

namespace {

// Fewer faults at the first touch, and fewer page walks where what is read lies far apart, as KV pages
// do. A file gets them where its file system has them in the cache; advice may be refused.
void ask_for_huge_pages([[maybe_unused]] void* address, [[maybe_unused]] size_t bytes) {
#if defined(MADV_HUGEPAGE)
  madvise(address, bytes, MADV_HUGEPAGE);
#endif
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw std::runtime_error(path + ": " + std::strerror(errno));
  struct stat status {};
  const bool known = fstat(file, &status) == 0 && status.st_size > 0;
  void* address = MAP_FAILED;
  if (known) {
    size_ = static_cast<size_t>(status.st_size);
    address = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file, 0);
  }
  close(file);
  if (address == MAP_FAILED) throw std::runtime_error(path + ": is empty or cannot be mapped");
  ask_for_huge_pages(address, size_);
  data_ = static_cast<uint8_t*>(address);
}
MappedFile::~MappedFile() { munmap(data_, size_); }

ZeroedRegion::ZeroedRegion(size_t bytes) : size_(bytes ? bytes : 1) {
  void* address =
      mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) throw std::bad_alloc();
  ask_for_huge_pages(address, size_);
  data_ = static_cast<uint8_t*>(address);
}
ZeroedRegion::~ZeroedRegion() { munmap(data_, size_); }

#endif

}  // namespace osslo

// Vectors whose memory outlives them. A fit takes some megabytes for a few milliseconds; given back
// to the system each time, its pages would be mapped and cleared again at every call, which costs
// more than the fit. Host only.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

namespace megascale {
inline namespace MS_ISA {

// Freed blocks of the process, by powers of two; at most kKept bytes wait here.
class Recycler {
 public:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kLeast = 0, kKept = 0;  // every block is the sanitizer's to watch
#else
  static constexpr size_t kLeast = size_t(1) << 15, kKept = size_t(1) << 26;
#endif
  static constexpr bool recycles(size_t bytes) { return bytes >= kLeast && bytes <= kKept / 2; }

  static Recycler& of_process() {
    static Recycler* const recycler = new Recycler;  // lives as long as any vector may
    return *recycler;
  }

  void* take(size_t bytes) {
    const int power = power_of(bytes);
    {
      const std::lock_guard<std::mutex> hold(lock_);
      auto& free = free_[power];
      if (!free.empty()) {
        void* const block = free.back();
        free.pop_back();
        kept_ -= size_t(1) << power;
        return block;
      }
    }
    return ::operator new(size_t(1) << power);
  }

  void give(void* block, size_t bytes) noexcept {
    const int power = power_of(bytes);
    const size_t size = size_t(1) << power;
    const std::lock_guard<std::mutex> hold(lock_);
    auto& free = free_[power];
    if (kept_ + size > kKept || free.size() == free.capacity()) return ::operator delete(block);
    free.push_back(block);
    kept_ += size;
  }

 private:
  Recycler() {
    for (auto& free : free_) free.reserve(64);  // giving back must not allocate
  }

  static int power_of(size_t bytes) {
    int power = 0;
    while ((size_t(1) << power) < bytes) ++power;
    return power;
  }

  std::mutex lock_;
  std::vector<void*> free_[64];
  size_t kept_ = 0;
};

template <class T>
struct Recycled {
  using value_type = T;
  Recycled() = default;
  template <class U>
  Recycled(const Recycled<U>&) {}

  T* allocate(size_t n) {
    const size_t bytes = n * sizeof(T);
    if (!Recycler::recycles(bytes)) return std::allocator<T>().allocate(n);
    return static_cast<T*>(Recycler::of_process().take(bytes));
  }

  void deallocate(T* at, size_t n) noexcept {
    const size_t bytes = n * sizeof(T);
    if (!Recycler::recycles(bytes)) return std::allocator<T>().deallocate(at, n);
    Recycler::of_process().give(at, bytes);
  }

  friend bool operator==(const Recycled&, const Recycled&) { return true; }
  friend bool operator!=(const Recycled&, const Recycled&) { return false; }
};

template <class T>
using Pooled = std::vector<T, Recycled<T>>;

// Leaves new elements uninitialised: every one is written before it is read.
template <class T>
struct Uninitialised : Recycled<T> {
  template <class U>
  struct rebind {
    using other = Uninitialised<U>;
  };
  Uninitialised() = default;
  template <class U>
  Uninitialised(const Uninitialised<U>&) {}
  template <class U>
  void construct(U* at) {
    ::new (static_cast<void*>(at)) U;
  }
  template <class U, class... Arguments>
  void construct(U* at, Arguments&&... arguments) {
    ::new (static_cast<void*>(at)) U(std::forward<Arguments>(arguments)...);
  }
};
template <class T>
using Column = std::vector<T, Uninitialised<T>>;

}  // namespace MS_ISA
}  // namespace megascale

// A stackful coroutine: enter() runs it until it calls leave() or its function returns.
//
// On x86-64 the switch is eight instructions; elsewhere, or with -DSHIM_UCONTEXT, it is ucontext, which is portable
// and 50 times slower, for its system calls.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

#if !defined(__x86_64__) && !defined(SHIM_UCONTEXT)
#define SHIM_UCONTEXT
#endif
#if defined(SHIM_UCONTEXT)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace shim {

class Coroutine {
 public:
  using Function = void (*)();
  static constexpr size_t kStack = 256 * 1024;  // address space; only touched pages cost memory

  Coroutine() {
    stack_ = static_cast<char*>(
        mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stack_ == MAP_FAILED) std::abort();
  }
  Coroutine(const Coroutine&) = delete;
  ~Coroutine() { munmap(stack_, kStack); }

  // The function must end by calling leave(), never by returning.
  void start(Function function) {
    function_ = function;
#if defined(SHIM_UCONTEXT)
    getcontext(&inside_);
    inside_.uc_stack.ss_sp = stack_;
    inside_.uc_stack.ss_size = kStack;
    inside_.uc_link = nullptr;
    makecontext(&inside_, &Coroutine::first_entry, 0);
#else
    auto* top = reinterpret_cast<uint64_t*>(stack_ + kStack) - 1;  // entry with rsp = 8 mod 16, as after a call
    *--top = reinterpret_cast<uint64_t>(&Coroutine::first_entry);
    for (int saved = 0; saved < 6; ++saved) *--top = 0;
    inside_ = top;
#endif
  }

  void enter() {
    current_ = this;
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, stack_, kStack);
#endif
#if defined(SHIM_UCONTEXT)
    swapcontext(&outside_, &inside_);
#else
    shim_switch_stack(&outside_, inside_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  // From within.
  void leave() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake_stack_, outside_stack_, outside_size_);
#endif
#if defined(SHIM_UCONTEXT)
    swapcontext(&inside_, &outside_);
#else
    shim_switch_stack(&inside_, outside_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack_, &outside_stack_, &outside_size_);
#endif
  }

 private:
  static void first_entry() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &current_->outside_stack_, &current_->outside_size_);
#endif
    current_->function_();
    std::abort();
  }

  static inline Coroutine* current_ = nullptr;
  char* stack_;
  Function function_ = nullptr;
#if defined(SHIM_UCONTEXT)
  ucontext_t inside_, outside_;
#else
  // Saves the callee-saved registers on this stack and its pointer in *from, then continues on the stack `to`.
  static void shim_switch_stack(void** from, void* to) __asm__("shim_switch_stack");
  void* inside_ = nullptr;
  void* outside_ = nullptr;
#endif
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack_ = nullptr;
  const void* outside_stack_ = nullptr;
  size_t outside_size_ = 0;
#endif
};

#if !defined(SHIM_UCONTEXT)
__asm__(
    ".text\n"
    ".type shim_switch_stack, @function\n"
    "shim_switch_stack:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size shim_switch_stack, .-shim_switch_stack\n");
#endif

}  // namespace shim

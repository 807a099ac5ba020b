// Loaded ahead of AddressSanitizer, whose operator new ends the process where there is no memory: this one throws what
// operator new throws. The memory is still the sanitizer's, by its malloc.
#include <cstdlib>
#include <new>

void* operator new(std::size_t size) {
  if (void* memory = std::malloc(size != 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}
void* operator new[](std::size_t size) { return operator new(size); }

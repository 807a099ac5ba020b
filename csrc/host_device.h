// One spelling of "callable from host and device", so that every formula of this folder's headers exists once.
#pragma once

#if defined(__CUDACC__)
#define MINE_FAST_HD __host__ __device__ __forceinline__
#else
// Inlined always: a loop over a call is a loop that the compiler does not vectorise.
#define MINE_FAST_HD inline __attribute__((always_inline))
#endif

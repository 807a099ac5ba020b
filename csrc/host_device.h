// One spelling of "callable from host and device", so that every formula of this folder's headers exists once.
#pragma once

#if defined(__CUDACC__)
#define MINE_FAST_HD __host__ __device__ __forceinline__
#else
#define MINE_FAST_HD inline
#endif

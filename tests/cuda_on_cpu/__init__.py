"""The CUDA kernels of csrc/cuda, compiled by g++ and run on the CPU."""

// The module mine_fast._C_cuda is empty: importing it loads the library, whose static initialisers register the CUDA
// kernels of the ops that library.cpp defines.
#include <Python.h>

PyMODINIT_FUNC PyInit__C_cuda(void) {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}

// Every op schema of mine_fast, in one block. Kernels register themselves in cpu/ and cuda/; fake kernels, autograd and
// the documented Python signatures are in mine_fast/ops/.
//
//   key     int64 [2] = (seed, offset), on the device of the data: a captured CUDA graph can advance it.
//   B, S    rows of a batch, shuffles per row. Sizes are SymInt, or a compiled graph would be made anew for each.
//   scores  joint scores first, then the marginal ones.
#include <Python.h>
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mine_fast, m) {
  // A copy of the key, and the key of the next step, offset + 1. An op, so that a compiled graph keeps the copy for its
  // backward: it would recompute a plain clone from the buffer, which has moved on by then.
  m.def("advance_key(Tensor key) -> (Tensor, Tensor)");

  // [S, B] int64: the partner of every row, or with inverse the row that has it as partner.
  m.def("shuffle_index(Tensor key, SymInt rows, SymInt shuffles, bool inverse) -> Tensor");

  // y [B, ...] -> [S, B, ...]; grad [S, B, ...] -> [B, ...].
  m.def("marginal_shuffle(Tensor y, Tensor key, SymInt shuffles) -> Tensor");
  m.def("marginal_shuffle_backward(Tensor grad, Tensor key) -> Tensor");

  // x [B, dx], y [B, dy] -> [(1 + S) * B, dx + dy]: the joint rows, then those of each shuffle.
  m.def("pair(Tensor x, Tensor y, Tensor key, SymInt shuffles) -> Tensor");
  m.def("pair_backward(Tensor grad, Tensor key, SymInt x_width, SymInt shuffles) -> (Tensor, Tensor)");

  // x_part [B, h] = x Wx^T, y_part [B, h] = y Wy^T, bias [h]
  //   -> activation(x_part + shuffled y_part + bias), [(1 + S) * B, h].
  m.def(
      "paired_first_layer(Tensor x_part, Tensor y_part, Tensor bias, Tensor key, SymInt shuffles, int activation, "
      "float slope) -> Tensor");
  m.def(
      "paired_first_layer_backward(Tensor grad, Tensor x_part, Tensor y_part, Tensor bias, Tensor key, "
      "SymInt shuffles, int activation, float slope) -> (Tensor, Tensor)");

  // scores [N + M] with N = joint_rows -> loss [], new log_ema [], (joint mean, log-mean-exp, log normaliser) [3].
  m.def("dv_term(Tensor scores, SymInt joint_rows, Tensor log_ema, float alpha, int loss) -> (Tensor, Tensor, Tensor)");
  m.def("dv_term_backward(Tensor grad, Tensor scores, SymInt joint_rows, Tensor statistics) -> Tensor");

  // dv_term of the joint pairs (i, i) and of all pairs (i, j), j != i, of a critic given by its first layer's products,
  // x_part [B, h] (with the bias) and y_part [B, h], and `later`, weight and bias of each later layer. The fourth
  // result is the gradient of the loss, [2 B h + P], of x_part, y_part and `later` one after the other; [0] if not
  // wanted.
  m.def(
      "all_pairs(Tensor x_part, Tensor y_part, Tensor[] later, int[] activations, float[] slopes, Tensor log_ema, "
      "float alpha, int loss, bool with_gradient) -> (Tensor, Tensor, Tensor, Tensor)");
  // grad * gradient; the inputs are not read, but a second derivative would be theirs, and is refused.
  m.def("all_pairs_backward(Tensor grad, Tensor gradient, Tensor[] inputs) -> Tensor");
}

// The extension module is empty: importing it loads the library, whose static initialisers register the ops.
PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}

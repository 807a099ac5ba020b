"""Where nvcc is found: the kernels compile for sm_80 and sm_90 without a warning, and no register spills.

The files with torch headers take a minute on two cores; MINE_FAST_TEST_NVCC=full compiles them too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from .shim_build import ROOT

CUDA = ROOT / "csrc" / "cuda"
ARCHITECTURES = ("80", "90")

# Every kernel once; activations by dtype so that each appears, and each way of widening and narrowing.
INSTANTIATIONS = """
#include "dv_term.cuh"
#include "marginal_shuffle.cuh"
#include "pair.cuh"
#include "paired_first_layer.cuh"

namespace mine_fast {

void copies(const void* in, const int64_t* key, void* out, int64_t* index, int64_t n, cudaStream_t stream) {
  launch_advance_key(key, index, index, stream);
  launch_shuffle_index(key, n, n, false, index, stream);
  launch_marginal_shuffle(in, key, n, n, n, out, stream);
  launch_pair(in, in, key, n, n, n, n, out, stream);
}

template <typename Scalar>
void sums(const Scalar* in, const accumulate_t<Scalar>* one, const int64_t* key, int64_t n, Scalar* out,
          double* partials, const DvSettings& settings, const DvOutputs<accumulate_t<Scalar>>& term,
          cudaStream_t stream) {
  launch_marginal_shuffle_backward(in, key, n, n, n, out, stream);
  launch_pair_backward(in, key, n, n, n, n, out, out, stream);
  launch_dv_term<Scalar>(in, one, settings, partials, term, stream);
  launch_dv_term_backward<Scalar>(one, in, one, n, n, out, stream);
}
#define SUMS(S)                                                                                                    \\
  template void sums<S>(const S*, const accumulate_t<S>*, const int64_t*, int64_t, S*, double*, const DvSettings&, \\
                        const DvOutputs<accumulate_t<S>>&, cudaStream_t);
SUMS(float) SUMS(double) SUMS(__half) SUMS(__nv_bfloat16)

template <Activation kind, typename Scalar>
void layer(const Scalar* in, const int64_t* key, int64_t n, Scalar* out, cudaStream_t stream) {
  launch_paired_first_layer<kind>(in, in, in, key, n, n, n, 0.0, out, stream);
  launch_paired_first_layer_backward<kind>(in, in, in, in, key, n, n, n, 0.0, out, out, stream);
}
#define LAYER(K, S) template void layer<Activation::K>(const S*, const int64_t*, int64_t, S*, cudaStream_t);
LAYER(kIdentity, float) LAYER(kRelu, float) LAYER(kElu, float) LAYER(kGelu, float) LAYER(kSilu, float)
LAYER(kGelu, double) LAYER(kLeakyRelu, __half) LAYER(kGeluTanh, __nv_bfloat16) LAYER(kTanh, __nv_bfloat16)

}  // namespace mine_fast
"""


@pytest.fixture(scope="module")
def nvcc() -> str:
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")):
        if home and (Path(home) / "bin" / "nvcc").exists():
            return str(Path(home) / "bin" / "nvcc")
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("nvcc is not installed (neither CUDA_HOME nor PATH has it)")
    return found


def _compile(nvcc: str, source: Path, target: Path, *flags: str) -> str:
    """Compile for every architecture at once and return ptxas's report."""
    code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    command = [nvcc, "-O3", "-std=c++17", "--threads=2", *code, "-Xptxas=-v", "-Xcompiler=-Wall,-Wextra,-fPIC"]
    command += [*flags, "-c", str(source), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True)
    report = result.stdout + result.stderr
    assert result.returncode == 0, report
    # ptxas warns of -v itself when it says "was ignored", of nothing else.
    warnings = [line for line in report.splitlines() if "warning" in line.lower()]
    assert not warnings, "\n".join(warnings)
    return report


def _check_registers(report: str) -> None:
    """Print each kernel's registers; fail on a spill."""
    spilled = []
    for block in report.split("Compiling entry function ")[1:]:
        header = re.match(r"'_ZN9mine_fast\d+(\w+_kernel)\S*' for '(sm_\d+)'", block)
        registers = re.search(r"Used (\d+) registers", block)
        assert header is not None, block
        assert registers is not None, block
        spills = max(int(n) for n in re.findall(r"(\d+) bytes spill stores", block))
        print(f"{header[2]} {header[1]}: {registers[1]} registers, {spills} bytes spilled")
        if spills:
            spilled.append(block)
    assert not spilled, "\n".join(spilled)


def test_kernels_do_not_spill(nvcc: str, tmp_path: Path) -> None:
    source = tmp_path / "instantiations.cu"
    source.write_text(INSTANTIATIONS)
    report = _compile(nvcc, source, tmp_path / "instantiations.o", f"-I{CUDA}")
    assert report.count("Compiling entry function") > 2 * 40
    _check_registers(report)


@pytest.mark.skipif(
    os.environ.get("MINE_FAST_TEST_NVCC") != "full", reason="a minute; MINE_FAST_TEST_NVCC=full runs it"
)
@pytest.mark.parametrize("source", sorted(CUDA.glob("*.cu")), ids=lambda path: path.name)
def test_every_file_compiles(nvcc: str, source: Path, tmp_path: Path) -> None:
    from torch.utils import cpp_extension

    includes = [f"-isystem={path}" for path in (*cpp_extension.include_paths(), sysconfig.get_paths()["include"])]
    defines = ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-DPy_LIMITED_API=0x030A0000"]
    # As torch compiles extensions: no operators or implicit conversions of the 16-bit types.
    defines += ["-D__CUDA_NO_HALF_OPERATORS__", "-D__CUDA_NO_HALF_CONVERSIONS__", "-D__CUDA_NO_BFLOAT16_CONVERSIONS__"]
    _check_registers(_compile(nvcc, source, tmp_path / "out.o", *defines, *includes))

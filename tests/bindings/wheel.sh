#!/bin/sh
# Builds the wheel, installs it into a fresh folder, and uses it from there: no KVOPS_LIBRARY, no
# source tree. The GPU back ends are left out: they change nothing about a wheel but its size.
#   wheel.sh PYTHON WORK                   77: scikit-build-core is not here
set -eu
python=$1 work=$2
root=$(cd "$(dirname "$0")/../.." && pwd)
"$python" -c 'import scikit_build_core' 2>/dev/null || { echo "no scikit-build-core"; exit 77; }
rm -rf "$work"
mkdir -p "$work"
# CMake's own names of the compilers: what it has compiled before is then found by ccache.
# pip of Debian 12 does not know -C, the short form of --config-settings.
CC=cc CXX=c++ "$python" -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation \
  --config-settings=cmake.define.KVOPS_CUDA=OFF --config-settings=cmake.define.KVOPS_HIP=OFF \
  --config-settings=build-dir="$work/build" -w "$work" "$root"
ls "$work"/kvops-*-py3-none-linux_*.whl
"$python" -m pip install -q --disable-pip-version-check --no-deps --no-index \
  --target "$work/site" "$work"/kvops-*.whl
unset KVOPS_LIBRARY PYTHONPATH
cd "$work"
PYTHONPATH="$work/site" "$python" - <<'END'
import os
import numpy as np
import kvops
assert os.path.dirname(kvops.library_path) == os.path.dirname(kvops.__file__), kvops.library_path
x = np.arange(8, dtype=np.float32).reshape(2, 4)
out = np.empty_like(x)
kvops.rms_norm(input=x, out=out, epsilon=1e-6)
assert np.allclose(out, x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6))
assert "1 / sqrt(sum_j" in kvops.rms_norm.__doc__
END
PYTHONPATH="$work/site" "$work/site/bin/kvops" doctor | tee doctor.txt
grep -qx "library  $work/site/kvops/libkvops.so.1" doctor.txt

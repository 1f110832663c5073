#!/bin/sh
# Installs what `make demo` or `make check` needs and does not find: Debian packages by apt, Python
# packages by pip into .venv. Where it cannot install, it says what is missing and stops.
set -eu
cd "$(dirname "$0")/.."
what=${1:-check}

packages="g++ cmake ninja-build libhwy-dev libcli11-dev python3 python3-venv"
python_packages="numpy ml_dtypes safetensors tokenizers"
if [ "$what" = check ]; then
  packages="$packages catch2 clang-format clang-tidy libclang-rt-14-dev hipcc cargo golang-go git"
  packages="$packages pkg-config binutils libomp-dev python3-torch"
  python_packages="$python_packages pytest scikit-build-core matplotlib"
fi

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }
# A tool that is there in another way, from its own toolchain say, need not come from Debian.
provided() {
  case $1 in
    cargo | cmake | hipcc | git | pkg-config) command -v "$1" >/dev/null ;;
    golang-go) command -v go >/dev/null ;;
    *) return 1 ;;
  esac
}

missing=
for p in $packages; do
  provided "$p" || installed "$p" || missing="$missing $p"
done
if [ -n "$missing" ]; then
  if ! grep -qs '^ID=debian' /etc/os-release || ! grep -qs 'VERSION_ID="12"' /etc/os-release; then
    echo "kvops: not Debian 12, so nothing is installed. Missing, by Debian's names:$missing" >&2
    exit 1
  fi
  if [ "$(id -u)" != 0 ]; then
    echo "kvops: not root. Run as root: apt-get install$missing" >&2
    exit 1
  fi
  echo "kvops: installing$missing"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # shellcheck disable=SC2086
  apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

[ -x .venv/bin/python ] || python3 -m venv .venv
has_all='import importlib.metadata as m, sys; [m.version(name) for name in sys.argv[1:]]'
# shellcheck disable=SC2086
if ! .venv/bin/python -c "$has_all" $python_packages 2>/dev/null; then
  echo "kvops: installing into .venv: $python_packages"
  .venv/bin/python -m pip install -q --disable-pip-version-check $python_packages
fi

# oneDNN, for the CPU's matrix products. Optional: without it our own product multiplies.
if [ "$(uname -m)" = x86_64 ]; then
  onednn=onednn-cpu-gomp==2023.2.0  # oneDNN 3.2, over GNU's OpenMP as we are
  if [ ! -e .venv/lib/libdnnl.so.3 ]; then
    echo "kvops: installing into .venv: $onednn"
    .venv/bin/python -m pip install -q --disable-pip-version-check $onednn ||
      echo "kvops: PyPI does not serve $onednn: products run on our own kernels" >&2
  fi
fi

if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  echo "kvops: nvcc found: the CUDA back end is built"
else
  echo "kvops: no nvcc on PATH or in /usr/local/cuda: the CUDA back end is not built"
fi

#!/bin/sh
# The installed tree, used as its users do: through CMake's package and through pkg-config.
#   run.sh INSTALLED WORK
set -eu
installed=$1 work=$2
here=$(cd "$(dirname "$0")" && pwd)
expected='  0.3651   0.7303   2.1909   2.9212
 -1.4142   0.0000   2.8284   0.0000
rms_norm: weight: shape[0] is 3, expected 4 (d, as input.shape[1])'
check() {
  got=$("$@")
  [ "$got" = "$expected" ] || { printf '%s printed:\n%s\n' "$1" "$got"; exit 1; }
}

rm -rf "$work"
cmake -S "$here" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$installed" >/dev/null
cmake --build "$work/cmake" >/dev/null
check "$work/cmake/rms_norm"

export PKG_CONFIG_PATH="$installed/lib/pkgconfig"
# shellcheck disable=SC2046
cc -std=c99 -Wall -Werror "$here/../../examples/c/rms_norm.c" -o "$work/rms_norm" \
  $(pkg-config --cflags --libs kvops)
export LD_LIBRARY_PATH="$installed/lib"
check "$work/rms_norm"

#!/bin/sh
# Rust and Go programs against the installed tree: what the shape of the ABI promises to others.
#   run.sh rust|go BUILD WORK          77: the language's tools are not here
set -eu
language=$1 build=$2 work=$3
root=$(cd "$(dirname "$0")/../.." && pwd)
case $language in rust) tool=cargo ;; go) tool=go ;; esac
command -v $tool >/dev/null || { echo "$tool is not installed"; exit 77; }
command -v pkg-config >/dev/null || { echo "pkg-config is not installed"; exit 77; }

rm -rf "$work"
cmake --install "$build" --prefix "$work/installed" >/dev/null
PKG_CONFIG_PATH=$(dirname "$(find "$work/installed" -name kvops.pc)")
export PKG_CONFIG_PATH
lib=$(pkg-config --variable=libdir kvops)
if [ "$language" = rust ]; then
  cd "$root/bindings/rust/kvops-sys"
  CARGO_TARGET_DIR="$work/target" cargo run --quiet --offline --locked --example rms_norm
else
  cd "$root/bindings/go"
  formatted=$(gofmt -l .)
  [ -z "$formatted" ] || { echo "gofmt would change $formatted"; exit 1; }
  GOCACHE="$work/cache" GOFLAGS=-mod=mod CGO_LDFLAGS="-Wl,-rpath,$lib" go run ./example
fi

#!/bin/sh
# Rust and Go programs against the installed tree: what the shape of the ABI promises to others.
#   run.sh rust|go INSTALLED WORK          77: the language's tools are not here
set -eu
language=$1 installed=$2 work=$3
root=$(cd "$(dirname "$0")/../.." && pwd)
case $language in rust) tool=cargo ;; go) tool=go ;; esac
command -v $tool >/dev/null || { echo "$tool is not installed"; exit 77; }
command -v pkg-config >/dev/null || { echo "pkg-config is not installed"; exit 77; }

rm -rf "$work"
PKG_CONFIG_PATH=$(dirname "$(find "$installed" -name kvops.pc)")
export PKG_CONFIG_PATH
if [ "$language" = rust ]; then
  cd "$root/bindings/rust/kvops-sys"
  CARGO_TARGET_DIR="$work" cargo run --quiet --offline --locked --example rms_norm
else
  cd "$root/bindings/go"
  formatted=$(gofmt -l .)
  [ -z "$formatted" ] || { echo "gofmt would change $formatted"; exit 1; }
  # GOTOOLCHAIN and GOPROXY keep a newer go from looking for another one on the net.
  lib=$(pkg-config --variable=libdir kvops)
  GOCACHE="$work" GOFLAGS=-mod=mod GOTOOLCHAIN=local GOPROXY=off CGO_LDFLAGS="-Wl,-rpath,$lib" \
    go run ./example
fi

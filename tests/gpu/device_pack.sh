#!/bin/sh
# device_pack.sh BUILD FILE.tgz: what device_check.sh needs of a build, stripped, for a machine with
# a GPU that has the source tree but no compiler: unpack there, and give the folder as BUILD.
set -eu
build=$1 file=$2 folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/tests" "$folder/bin"
cp -L "$build/libkvops.so.1" "$folder"
cp "$build/bin/kvops" "$folder/bin"
for program in golden gpu_tests proof sweep bench_calls; do
  [ ! -e "$build/tests/$program" ] || cp "$build/tests/$program" "$folder/tests"
done
strip -s "$folder"/lib* "$folder"/*/*
tar -C "$folder" -czf "$file" .
ls -l "$file"

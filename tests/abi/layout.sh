#!/bin/sh
# layout.sh PROGRAM INCLUDE: the structs are as in layout.txt, and none of a header is missing.
here=$(dirname "$0")
now=$("$1") || exit 1
bad=0
for name in $(sed -n 's/^typedef struct \(kvops_[a-z0-9_]*\) {.*/\1/p' "$2"/*.h "$2"/*/*.h); do
  echo "$now" | grep -q "^$name " || { echo "layout.c does not print $name"; bad=1; }
done
echo "$now" | diff -u "$here/layout.txt" - || {
  echo "A struct changed. Members may only be appended; then: $1 > tests/abi/layout.txt"
  bad=1
}
exit $bad

#!/bin/sh
# library.sh LIBRARY INCLUDE: what the shared library exports and needs.
# Exported = declared in the headers = symbols.txt, all at KVOPS_1.0; NEEDED and GLIBC as promised.
library=$1 include=$2 here=$(dirname "$0") bad=0
complain() { echo "$1"; bad=1; }

exported=$(nm -D --defined-only "$library" | awk '$2 != "A" {print $3}' | sort)
plain=$(echo "$exported" | sed 's/@.*//')
declared=$(cat "$include"/*.h "$include"/*/*.h | tr '\n' ' ' |
           grep -o 'KVOPS_API [a-z][^;(]*(' | grep -v __attribute__ |
           sed 's/.*\(kvops_[a-z0-9_]*\)($/\1/' | sort)
echo "$exported" | grep -v '^kvops_[a-z0-9_]*@@KVOPS_1\.0$' &&
  complain "exported with another name or version"
echo "$plain" | diff -u "$here/symbols.txt" - ||
  complain "Exports changed. Functions may only be added; then write them to tests/abi/symbols.txt"
[ "$declared" = "$plain" ] || {
  echo "$declared" | diff - "$here/symbols.txt"
  complain "declared in the headers and exported are not the same"
}
dynamic=$(readelf -d "$library")
for needed in $(echo "$dynamic" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
  case $needed in
    libc.so.6 | libm.so.6 | libgcc_s.so.1 | libgomp.so.1 | ld-linux-*) ;;
    *) complain "needs $needed" ;;
  esac
done
echo "$dynamic" | grep -q 'SONAME.*\[libkvops.so.1\]' || complain "SONAME is not libkvops.so.1"
echo "$dynamic" | grep -q 'NODELETE' || complain "may be unloaded"
echo "$dynamic" | grep -qE 'RPATH|RUNPATH' && complain "has a run path"
readelf -lW "$library" | grep GNU_STACK | grep -q E && complain "wants an executable stack"
newest=$(objdump -T "$library" | grep -o 'GLIBC_2\.[0-9.]*' | sed 's/GLIBC_//' | sort -V | tail -1)
[ "$(printf '%s\n2.34\n' "$newest" | sort -V | tail -1)" = 2.34 ] ||
  complain "needs GLIBC_$newest, newer than 2.34"
echo "$(echo "$plain" | wc -l) functions, newest symbol GLIBC_$newest"
exit $bad

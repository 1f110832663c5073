"""Does the library have kernels of every CUDA operator for every architecture asked for?

    cubins.py TABLE LIBRARY ARCHITECTURES OBJECT...

TABLE is src/ops.def; ARCHITECTURES as in CMake: "80-real,90,120-virtual"; the objects are those
of src/gpu and src/cuda, <stem>.cu.o. Reads the containers that nvcc puts into .nv_fatbin: a header,
then entries of PTX (1) or ELF (2), compressed by zstd. Prints kernels and bytes of each operator.
An operator's kernels are those of the object that defines its function and of all that this one
refers to; the swaps may do without. Every container must be in the library as it is. What a package
with all architectures will have is estimated, and must stay below 100 MB.
"""
import ctypes
import re
import struct
import subprocess
import sys
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)
PTX, ELF = 1, 2
NEEDS_NONE = {"swap_blocks", "swap_blocks_batch"}

# The release preset's seven kinds of kernels and two of PTX take 9.1 (rms_norm) to 11.6 times
# (static_scaled_int8_quant) what sm_90 takes.
RELEASE_ENTRIES, RELEASE_TIMES, MOST_BYTES = 9, 10.5, 100e6


def plain(payload, size):
    """The bytes of an entry, `size` of them when it was compressed."""
    if payload[:4] != b"\x28\xb5\x2f\xfd":
        return payload
    zstd = ctypes.CDLL("libzstd.so.1")
    zstd.ZSTD_decompress.restype = ctypes.c_size_t
    zstd.ZSTD_decompress.argtypes = [ctypes.c_void_p, ctypes.c_size_t,
                                     ctypes.c_char_p, ctypes.c_size_t]
    out = ctypes.create_string_buffer(size)
    count = zstd.ZSTD_decompress(out, size, payload, len(payload))
    if count != size:
        raise ValueError("a kernel entry cannot be decompressed")
    return out.raw


def containers(data):
    at = data.find(MAGIC)
    while at >= 0:
        _, _, header, size = struct.unpack_from("<IHHQ", data, at)
        yield data[at:at + header + size], header
        at = data.find(MAGIC, at + header + size)


def entries(container, at):
    """(PTX or ELF, architecture, kernels, bytes in the file)"""
    while at < len(container):
        kind, _, header, padded = struct.unpack_from("<HHIQ", container, at)
        compressed, = struct.unpack_from("<I", container, at + 16)
        architecture, = struct.unpack_from("<I", container, at + 28)
        size, = struct.unpack_from("<Q", container, at + 56)
        begin = at + header
        payload = container[begin:begin + (compressed or padded)]
        code = plain(payload, size)
        if kind == ELF:
            kernels = set(re.findall(rb"\x00\.nv\.constant0\.([\w$]+)", code))
        else:
            kernels = set(re.findall(rb"\.entry ([\w$]+)", code))
        yield kind, architecture, kernels, padded
        at = begin + padded


def wanted(architectures):
    """{(kind, number)} of a list as CMake has it."""
    pairs = set()
    for name in architectures.split(","):
        number, _, only = name.partition("-")
        number = int(re.match(r"\d+", number)[0])
        pairs |= {(ELF, number)} if only != "virtual" else set()
        pairs |= {(PTX, number)} if only != "real" else set()
    return pairs


class Object:
    """A compiled source: its kernels, the functions it defines and those it refers to."""

    def __init__(self, path):
        self.found, self.containers = [], []
        for container, header in containers(Path(path).read_bytes()):
            self.containers.append(container)
            self.found += entries(container, header)
        self.bytes = sum(entry[3] for entry in self.found)
        lines = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
        pairs = [line.split()[-2:] for line in lines.splitlines()]
        self.undefined = {name for kind, name in pairs if kind == "U"}
        self.defined = {name for kind, name in pairs if kind in "TWV"}


def reached(op, objects):
    """The object that defines an operator's function, and those it leads to."""
    function = "_ZN5kvops4cuda%d%sERK" % (len(op), op)
    wave = [o for o in objects if any(name.startswith(function) for name in o.defined)]
    all_of_them = list(wave)
    while wave:
        names = set().union(*(o.undefined for o in wave))
        wave = [o for o in objects if o not in all_of_them and names & o.defined]
        all_of_them += wave
    return all_of_them


def main(table, library, architectures, paths):
    ops = [name for name, cuda in
           re.findall(r"KVOPS_OP\((\w+), +\d, (\d), \d,", Path(table).read_text()) if cuda == "1"]
    code, bad, need = Path(library).read_bytes(), 0, wanted(architectures)
    objects = [Object(path) for path in paths if path.endswith(".cu.o")]
    for path, one in zip((path for path in paths if path.endswith(".cu.o")), objects):
        if any(container not in code for container in one.containers):
            print("%s: its kernels are not in %s" % (path, library))
            bad += 1
    for op in ops:
        parts, have = reached(op, objects), {}
        for kind, number, kernels, _ in (entry for part in parts for entry in part.found):
            have[kind, number] = have.get((kind, number), 0) + len(kernels)
        line = ", ".join("%s %d: %d" % ("ptx" if kind == PTX else "sm", number, count)
                         for (kind, number), count in sorted(have.items()))
        if not parts or (op not in NEEDS_NONE and not all(have.get(pair) for pair in need)):
            line += "; expected %s" % sorted(need)
            bad += 1
        size = sum(part.bytes for part in parts)
        print("%-32s %8d bytes, kernels of %s" % (op, size, line))
    total = sum(one.bytes for one in objects)
    package = len(code)
    if len(need) < RELEASE_ENTRIES:
        package += round(total * (RELEASE_TIMES / len(need) - 1))
    if package > MOST_BYTES:
        print("a package would have %d bytes" % package)
        bad += 1
    print("%d operators, %d bytes of kernels in %d, about %d in a package, %d problems" %
          (len(ops), total, len(code), package, bad))
    return 1 if bad or not ops else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4], sys.argv[4:]))

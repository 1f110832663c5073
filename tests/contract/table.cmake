# Writes a copy of src/ops.def in which every operator exists for the CPU and for CUDA, followed by
# the operators of tests/contract/test_ops.def: cmake -DFROM= -DMORE= -DTO= -P table.cmake
file(READ ${FROM} table)
file(READ ${MORE} more)
string(REGEX REPLACE "(KVOPS_OP\\([a-z0-9_]+, *)[01], [01], [01]" "\\11, 1, 0" table "${table}")
string(REGEX REPLACE "(KVOPS_SIZE\\([a-z0-9_]+, *[a-z0-9_]+, *)[01], [01], [01]" "\\11, 1, 0" table
                     "${table}")
string(REPLACE "#undef KVOPS_OP\n" "${more}#undef KVOPS_OP\n" table "${table}")
file(WRITE ${TO} "${table}")

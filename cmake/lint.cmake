# House rules, format and clang-tidy as tests. clang-tidy reads host files only: clang 14 cannot
# parse CUDA 13.
find_package(Python3 COMPONENTS Interpreter REQUIRED)
find_program(KVOPS_CLANG_FORMAT clang-format)
find_program(KVOPS_RUN_CLANG_TIDY NAMES run-clang-tidy run-clang-tidy-14)

add_test(NAME house COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/tools/house.py)
if(KVOPS_CLANG_FORMAT)
  add_test(NAME format COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/tools/house.py --format)
  set_tests_properties(format PROPERTIES LABELS lint)
endif()
set_tests_properties(house PROPERTIES LABELS lint)
if(KVOPS_RUN_CLANG_TIDY)
  # Highway's per-target code is parsed once per target: a machine of two cores takes minutes.
  add_test(NAME tidy COMMAND ${KVOPS_RUN_CLANG_TIDY} -quiet -j 2 -p ${PROJECT_BINARY_DIR}
                             "^${PROJECT_SOURCE_DIR}/(src/(core|cpu)|tools)/.*\\.cpp$")
  set_tests_properties(tidy PROPERTIES LABELS "slow;lint" TIMEOUT 1800 FAIL_REGULAR_EXPRESSION
                                       "(warning|error): ")
endif()

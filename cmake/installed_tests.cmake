# Tests over an installed copy of the library, in ${KVOPS_INSTALLED}: fixture `installed`.
set(KVOPS_INSTALLED ${PROJECT_BINARY_DIR}/installed)
add_test(NAME install COMMAND ${CMAKE_COMMAND} --install ${PROJECT_BINARY_DIR} --prefix
                              ${KVOPS_INSTALLED})
set_tests_properties(install PROPERTIES FIXTURES_SETUP installed)

add_test(NAME install.c COMMAND ${PROJECT_SOURCE_DIR}/tests/install/run.sh ${KVOPS_INSTALLED}
                                ${PROJECT_BINARY_DIR}/install_test)
set_tests_properties(install.c PROPERTIES FIXTURES_REQUIRED installed)

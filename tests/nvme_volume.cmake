# Tests: see CMakeLists.txt.

#!/bin/sh
# Builds the CPU extension with AddressSanitizer beside the source tree's own build, and runs the kernel tests with it.
# PYTHON chooses the interpreter; arguments go to pytest.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
build=${SANITIZE_BUILD:-build/sanitize}

flags="-fsanitize=address -fno-omit-frame-pointer -O1 -g"
ACT_BUILD=cpu CXXFLAGS="$flags" LDFLAGS="-fsanitize=address" \
  sh -c 'cd kernels && "$0" setup.py -q build --build-base "../$1" --build-lib "../$1/lib"' "$python" "$build"

# Python itself is not built with the sanitizer: its runtime must be loaded first, and the interpreter's leaks are not ours.
# torch.compile starts compilers and processes of its own, which would inherit the preloaded runtime: those tests stay out.
runtime=$("${CXX:-c++}" -print-file-name=libasan.so)
stdcpp=$("${CXX:-c++}" -print-file-name=libstdc++.so)
LD_PRELOAD="$runtime $stdcpp" ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$build/lib" \
  "$python" -m pytest tests/kernels -p no:cacheprovider -k "native or errors" "$@"

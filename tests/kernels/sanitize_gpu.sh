#!/bin/sh
# Runs the kernels' GPU tests under compute-sanitizer: out-of-bounds and misaligned accesses, uninitialised reads, races,
# and misuse of barriers. Needs a GPU and the CUDA toolkit's compute-sanitizer; takes minutes.
set -eu
cd "$(dirname "$0")/../.."
command -v compute-sanitizer >/dev/null || {
  echo "sanitize_gpu.sh: compute-sanitizer is not on the PATH (it comes with the CUDA toolkit)" >&2
  exit 2
}
# PyTorch's caching allocator would hide accesses beyond a tensor inside its own large blocks.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
for tool in memcheck initcheck racecheck synccheck; do
  compute-sanitizer --tool "$tool" --error-exitcode 1 --kernel-regex kns=act \
    "${PYTHON:-python}" -m pytest tests/kernels -m gpu -k "not graph and not beyond and not overlap and not launches" "$@"
done

"""What every copy of act_kernels keeps to, wherever it was built: what is left out is said, no code is claimed that is
not there, and it can be loaded under another name."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import act_kernels
from act_kernels import dispatch, native

_PACKAGE = Path(act_kernels.__file__).parent


class _CudaLibrary:
    """Stands for the CUDA library on a machine without a GPU: it tells its architectures, and nothing is launched."""

    def __init__(self, architectures: str):
        self.act_architectures = lambda: architectures.encode()


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of a compute capability, and a library that holds code for an architecture list."""

    def make(capability: tuple[int, int], architectures: str) -> torch.device:
        found = native.library
        monkeypatch.setattr(
            native, "library", lambda device: _CudaLibrary(architectures) if device == "cuda" else found(device)
        )
        monkeypatch.setattr(native, "capability", lambda device: capability)
        return torch.device("cuda", 0)

    native.lacking.cache_clear()
    dispatch._tell_once.cache_clear()
    yield make
    native.lacking.cache_clear()
    dispatch._tell_once.cache_clear()


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("8.0;9.0+PTX", (7, 5), False),
        ("8.0;9.0+PTX", (8, 0), True),
        ("8.0;9.0+PTX", (8, 9), True),  # machine code of 8.0
        ("8.0;9.0+PTX", (12, 0), True),  # PTX
        ("8.0;9.0", (10, 0), False),
        ("8.6", (8, 0), False),
        ("7.5;8.0+PTX", (9, 0), True),
        ("9.0a", (9, 0), True),
        ("9.0a+PTX", (10, 0), False),
        ("7.5 8.0, 10.0", (10, 3), True),
    ],
)
def test_a_device_is_native_only_where_the_library_has_code_for_it(gpu, architectures, capability, runs):
    device = gpu(capability, architectures)
    assert (native.lacking(device) is None) == runs
    assert (native.why_not("pgd_step", device, torch.float32) is None) == runs


def test_another_backend_is_chosen_on_a_gpu_without_code_and_the_reason_is_told_once(gpu):
    device = gpu((7, 5), "8.0;9.0+PTX")
    with pytest.warns(UserWarning, match=r"no code for compute capability 7\.5 \(it has 8\.0;9\.0\+PTX\)") as told:
        chosen = [dispatch._choose("pgd_step", device, torch.float32) for _ in range(3)]
    assert len(told) == 1
    assert set(chosen) <= {"triton", "reference"}


def _copy(folder: Path, record: dict) -> Path:
    """The package's Python files alone, with a record of its build, in a folder of another name."""
    copied = folder / "another_name"
    shutil.copytree(_PACKAGE, copied, ignore=shutil.ignore_patterns("*.so", "_build.json", "__pycache__"))
    (copied / "_build.json").write_text(json.dumps(record))
    return copied


def test_a_copy_without_libraries_says_why_once_and_runs_beside_the_package(tmp_path):
    reason = "no C++ compiler: 'c++' was not on the PATH"
    _copy(tmp_path, {"left_out": {"_cpu": reason}, "namespace": "act_kernels_of_a_test"})
    code = f"""
import sys, warnings, torch, act_kernels, another_name
assert another_name.__file__.startswith({str(tmp_path)!r})
x, grad = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for _ in range(2):
        step = another_name.pgd_step(x, grad, x, 0.1, 0.1)
        another_name.random_start(x, 0.1)
assert [str(t.message) for t in told if {reason!r} in str(t.message)] == [str(t.message) for t in told], told
assert len(told) == 1, told
assert {reason!r} in another_name.backends()["act_loss"]["cpu"]["native"]
assert torch.equal(step, act_kernels.pgd_step(x, grad, x, 0.1, 0.1))
assert torch.ops.act_kernels_of_a_test.pgd_step is not torch.ops.act_kernels.pgd_step
with another_name.use_backend("reference"):
    compiled = torch.compile(lambda: another_name.pgd_step(x, grad, x, 0.1, 0.1), fullgraph=True, backend="eager")
    assert torch.equal(compiled(), step)
"""
    path = [str(tmp_path), str(_PACKAGE.parent)]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_package_never_imports_itself_by_name():
    for path in _PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            assert not [name for name in names if name.split(".")[0] == "act_kernels"], path


def test_hugging_face_kernels_loads_the_layout_beside_the_package(tmp_path):
    kernels = pytest.importorskip("kernels")  # the repository's own folder, where Hugging Face's is not installed
    if not hasattr(kernels, "get_local_kernel"):
        pytest.skip("Hugging Face's kernels is not installed (pip install kernels)")
    sys.path.insert(0, str(_PACKAGE.parent))
    try:
        hub = pytest.importorskip("hub", reason="kernels/hub.py is in the repository alone (Python 3.11 or later)")
    finally:
        sys.path.remove(str(_PACKAGE.parent))
    package = _copy(tmp_path, {"namespace": "act_kernels_of_the_hub", "left_out": {"_cpu": "a test"}})
    (variant,) = hub.lay_out(package, tmp_path / "hub")
    assert json.loads((variant / "metadata.json").read_text())["license"] == "Apache-2.0"
    loaded = kernels.get_local_kernel(tmp_path / "hub", backend="cpu")
    x, grad = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    with loaded.use_backend("reference"):
        assert torch.equal(loaded.pgd_step(x, grad, x, 0.1, 0.1), act_kernels.pgd_step(x, grad, x, 0.1, 0.1))
    assert loaded.pgd_step is not act_kernels.pgd_step
    assert hasattr(torch.ops.act_kernels_of_the_hub, "pgd_step")

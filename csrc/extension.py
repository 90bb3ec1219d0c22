"""The build of the extension act_kernels._C, shared by the top-level setup.py and kernels/setup.py.

ACT_BUILD says what to build: `auto` (the default: as much as the machine allows; it prints what it left out and why),
`none`, `cpu`, or `cuda` (with the CPU kernels). A build that was asked for and cannot be made is an error. No GPU needs
to be present: TORCH_CUDA_ARCH_LIST chooses the architectures, by default 8.0 and 9.0 with PTX. MAX_JOBS limits the
compilers that run at a time.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

CSRC = Path(__file__).resolve().parent
_MODES = ("auto", "none", "cpu", "cuda")
_CXX_FLAGS = ["-O3", "-g0", "-fopenmp", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wno-maybe-uninitialized"]
_NVCC_FLAGS = ["-O3", "-lineinfo"]
_ARCHITECTURES = "8.0;9.0+PTX"


def extension_arguments(setup_folder: Path) -> dict:
    """Keywords for setuptools.setup(): ext_modules and cmdclass, or nothing when nothing is to be built."""
    mode = os.environ.get("ACT_BUILD", "auto")
    if mode not in _MODES:
        raise SystemExit(f"ACT_BUILD: expected one of {', '.join(_MODES)}, got {mode!r}")
    if mode == "none":
        return {}
    missing = _missing_for_cpu()
    if missing:
        return _leave_out(mode, "the native kernels", missing)
    cuda_home, missing = _cuda_home() if mode in ("auto", "cuda") else (None, None)
    if missing:
        _leave_out(mode, "the CUDA kernels", missing)
    return _describe(cuda_home, setup_folder)


def _leave_out(mode: str, what: str, missing: str) -> dict:
    if mode != "auto":
        raise SystemExit(f"ACT_BUILD={mode}: cannot build {what}: {missing}")
    print(f"act_kernels: building without {what}: {missing}")
    return {}


def _missing_for_cpu() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return "torch is not importable here (install it first, then build with pip install --no-build-isolation)"
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        return f"no C++ compiler: {compiler!r} is not on the PATH (install g++, or set CXX)"
    include = Path(sysconfig.get_paths()["include"])
    if not (include / "Python.h").exists():
        return f"no Python headers: {include / 'Python.h'} is missing (install python3-dev)"
    return None


def _cuda_home() -> tuple[Path | None, str | None]:
    """The CUDA toolkit's folder, or why there is none to build with."""
    import torch

    if torch.version.cuda is None:
        return None, "this torch was built without CUDA"
    if not list((CSRC / "cuda").glob("*.cu")):
        return None, "there are no CUDA sources"
    home = _find_toolkit()
    if home is None:
        return None, "no CUDA compiler: nvcc is neither under CUDA_HOME nor on the PATH"
    version = re.search(r"release (\d+)\.", _output(str(home / "bin" / "nvcc"), "--version"))
    wanted = torch.version.cuda.split(".")[0]
    if version is None or version[1] != wanted:
        found = version[1] if version else "of unknown version"
        return None, f"torch was built with CUDA {wanted}, and the compiler in {home} is {found}"
    return home, None


def _find_toolkit() -> Path | None:
    """CUDA_HOME where it is set; else where nvcc itself says it lives, since the one on the PATH may be a wrapper."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name):
            home = Path(os.environ[name])
            return home if (home / "bin" / "nvcc").exists() else None
    nvcc = shutil.which("nvcc")
    candidates = [Path("/usr/local/cuda")]
    if nvcc is not None:
        candidates.insert(0, Path(nvcc).resolve().parent.parent)
        top = re.search(r"^#\$ TOP=(.+)$", _output(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull), re.MULTILINE)
        if top:
            candidates.insert(0, Path(top[1]).resolve())
    return next((c for c in candidates if (c / "bin" / "nvcc").exists() and (c / "include").exists()), None)


def _output(*command: str) -> str:
    """What the command prints (nvcc --dryrun prints to stderr); empty when it cannot be run."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return result.stdout + result.stderr


def _describe(cuda_home: Path | None, setup_folder: Path) -> dict:
    if cuda_home is not None:
        os.environ["CUDA_HOME"] = str(cuda_home)  # read when cpp_extension is imported
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", _ARCHITECTURES)
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    sources = [CSRC / "bindings.cpp", *sorted((CSRC / "cpu").glob("*.cpp"))]
    options = {"extra_compile_args": {"cxx": _CXX_FLAGS, "nvcc": _NVCC_FLAGS}, "extra_link_args": ["-fopenmp"]}
    extension = CppExtension
    if cuda_home is not None:
        sources += sorted((CSRC / "cuda").glob("*.cu"))
        options |= {"define_macros": [("ACT_WITH_CUDA", None)], "include_dirs": _nvidia_includes()}
        extension = CUDAExtension
    relative = [os.path.relpath(source, setup_folder) for source in sources]
    depends = [os.path.relpath(header, setup_folder) for header in sorted(CSRC.rglob("*.h"))]
    return {
        "ext_modules": [extension("act_kernels._C", relative, depends=depends, **options)],
        "cmdclass": {"build_ext": BuildExtension},
    }


def _nvidia_includes() -> list[str]:
    """Headers that come as pip packages with torch (cuBLAS, cuSPARSE, ...); a bare toolkit may lack them."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else []
    return [str(path) for folder in folders for path in sorted(Path(folder).glob("cu[0-9]*/include"))]

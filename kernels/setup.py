"""Builds act_kernels' native libraries: `_cpu.stable.so`, and `_cuda12.stable.so` or `_cuda13.stable.so`.

They use libtorch's stable ABI alone, and nothing of Python: one build serves every torch from 2.11 on and every Python.

ACT_BUILD says what to build: `auto` (the default: as much as the machine allows; what is left out is told here, and
once more when act_kernels runs, from the record in `act_kernels/_build.json`), `none`, `cpu`, or `cuda` (with the
CPU's). A build that was asked for and cannot be made is an error. No GPU needs to be present: TORCH_CUDA_ARCH_LIST
chooses the architectures. ACT_CUDA_HOMES names the folders of several CUDA toolkits, separated by colons, for a library
of each. ACT_NAMESPACE names the ops' place in torch.ops. MAX_JOBS limits the compilers that run at a time; CXX,
CXXFLAGS and LDFLAGS are heeded.
"""

import contextlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

_HERE = Path(__file__).resolve().parent
# Beside this file in a source distribution, one folder up in the repository.
_CSRC = next(folder for folder in (_HERE / "csrc", _HERE.parent / "csrc") if folder.exists())
_MODES = ("auto", "none", "cpu", "cuda")
_DEFINES = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DTORCH_STABLE_ONLY"]  # no more of torch than 2.11 has
_CXX_FLAGS = [
    *("-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"),
    *("-ffp-contract=off", "-Wall", "-Wno-maybe-uninitialized", f"-include{_CSRC / 'ops' / 'portable.h'}"),
]
_NVCC_FLAGS = ["-std=c++17", "-O3", "-lineinfo", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
_ARCHITECTURES = "8.0;9.0+PTX"  # of a build for this machine; `make wheels` asks for more
_left_out: dict[
    str, str
] = {}  # why a library was not built, by its name; `_cuda` where its version is not known either


class CannotBuild(Exception):
    """Why a library cannot be built here."""


class Library(Extension):
    """A shared library of the package: `_cpu`, or `_cuda` and the major version of the toolkit in `cuda_home`."""

    def __init__(self, name: str, sources: list[Path], cuda_home: Path | None = None):
        super().__init__(f"act_kernels.{name}", [os.path.relpath(source, _HERE) for source in sources])
        self.cuda_home = cuda_home

    def folders(self, kind: str) -> list[Path]:
        """The toolkit's, and those of the pip packages that come with torch: a bare toolkit may lack some."""
        spec = importlib.util.find_spec("nvidia")
        packages = [Path(folder) for folder in (spec.submodule_search_locations if spec else [])]
        cuda = self.name.rpartition("_cuda")[2]
        return [*self.cuda_home.glob(kind), *(path for folder in packages for path in folder.glob(f"cu{cuda}/{kind}"))]


class BuildLibraries(build_ext):
    """Compiles with the C++ compiler and nvcc, a file a process, whatever changed since the last time."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".stable.so"  # no name of a Python module

    def build_extension(self, library: Library) -> None:
        try:
            self._build(library)
        except CannotBuild as error:
            if _mode() != "auto":
                raise SystemExit(f"act_kernels: {library.name} does not build: {error}") from None
            _leave_out(library.name.removeprefix("act_kernels."), error)
            library.optional = True  # setuptools then does not miss the file
            _write_record(Path(self.get_ext_fullpath(library.name)).parent)

    def _build(self, library: Library) -> None:
        torch_folder = Path(importlib.util.find_spec("torch").origin).parent
        scratch = Path(self.build_temp, library.name).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        includes = [str(torch_folder / "include")]
        links = [f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
        defines = [*_DEFINES, f"-DACT_NAMESPACE={_namespace()}"]
        if library.cuda_home:
            includes += [str(folder) for folder in library.folders("include")]
            folders = library.folders("lib*")
            links += ["-ltorch_cuda", *(f"-L{folder}" for folder in folders), "-lcudart"]
            defines += ["-DUSE_CUDA", f'-DACT_ARCHITECTURES="{_architectures()}"']
        headers = [f"-I{folder}" for folder in includes]
        cxx_flags = [*_CXX_FLAGS, *defines, *_words("CXXFLAGS")]
        newest_header = max(path.stat().st_mtime for path in _CSRC.rglob("*.*h"))

        def compiled(source: Path) -> str:
            target = scratch / f"{source.stem}.o"
            if not target.exists() or target.stat().st_mtime < max(source.stat().st_mtime, newest_header):
                if source.suffix == ".cu":
                    nvcc = str(library.cuda_home / "bin" / "nvcc")
                    _run([nvcc, *_NVCC_FLAGS, *_architecture_flags(), *headers, "-c", str(source), "-o", str(target)])
                else:
                    _run([*_compiler(), *cxx_flags, *headers, "-c", str(source), "-o", str(target)])
            return str(target)

        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
            objects = list(pool.map(compiled, [(_HERE / source).resolve() for source in library.sources]))
        finished = Path(self.get_ext_fullpath(library.name))
        finished.parent.mkdir(parents=True, exist_ok=True)
        _run([*_compiler(), "-shared", *objects, *links, *_words("LDFLAGS"), "-o", str(finished)])


class PackageWithRecord(build_py):
    """Adds the record of what the build leaves out; an editable install has it in the source folder."""

    def run(self) -> None:
        super().run()
        _write_record(_HERE / "act_kernels" if self.editable_mode else Path(self.build_lib, "act_kernels"))


class WheelForEveryPython(bdist_wheel):
    """The libraries know no Python: the wheel's tag names the platform alone."""

    def get_tag(self) -> tuple[str, str, str]:
        built = any(not library.optional for library in self.distribution.ext_modules)
        return "py3", "none", super().get_tag()[2] if built else "any"


class SourceWithKernels(sdist):
    """Takes the kernels' sources along, which lie beside the package's folder in the repository."""

    def _add_defaults_ext(self) -> None:
        """Not one by one: a path that leads out of the package's folder leads out of the archive's too."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        shutil.copytree(_CSRC, Path(base_dir, "csrc"), dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def _libraries() -> list[Library]:
    mode = _mode()
    if mode == "none":
        _left_out.update(dict.fromkeys(("_cpu", "_cuda"), "it was built with ACT_BUILD=none, for machines of any kind"))
        return []
    if mode == "cpu":
        _left_out["_cuda"] = "it was built with ACT_BUILD=cpu"
    libraries = []
    for name, build in {"_cpu": _cpu_libraries, "_cuda": _cuda_libraries}.items():
        if name in _left_out:
            continue
        try:
            libraries += build()
        except CannotBuild as error:
            if mode != "auto":
                raise SystemExit(f"ACT_BUILD={mode}: {error}") from None
            _leave_out(name, error)
    return libraries


def _leave_out(name: str, error: CannotBuild) -> None:
    _left_out[name] = str(error)
    print(f"act_kernels: building without {name}: {error}", file=sys.stderr)


def _write_record(package: Path) -> None:
    """What act_kernels/native.py reads to say why a library is not there."""
    package.mkdir(parents=True, exist_ok=True)
    (package / "_build.json").write_text(
        json.dumps({"namespace": _namespace(), "left_out": _left_out}, indent=1) + "\n"
    )


def _namespace() -> str:
    """Of the ops in torch.ops; a build that shall run beside others has its own."""
    return os.environ.get("ACT_NAMESPACE", "act_kernels")


def _mode() -> str:
    mode = os.environ.get("ACT_BUILD", "auto")
    if mode not in _MODES:
        raise SystemExit(f"ACT_BUILD: got {mode!r}; allowed: {', '.join(_MODES)}")
    return mode


def _cpu_libraries() -> list[Library]:
    if importlib.util.find_spec("torch") is None:
        raise CannotBuild("torch, whose headers it needs, was not importable in the build")
    compiler = _compiler()[0]
    if shutil.which(compiler) is None:
        raise CannotBuild(f"no C++ compiler: {compiler!r} was not on the PATH (install g++, or set CXX)")
    return [Library("_cpu", [_CSRC / "ops" / "cpu.cpp", *sorted((_CSRC / "cpu").glob("*.cpp"))])]


def _cuda_libraries() -> list[Library]:
    """One for each toolkit that was named; else for the toolkit of torch's own CUDA."""
    _cpu_libraries()  # the same torch and C++ compiler
    import torch

    if torch.version.cuda is None:
        raise CannotBuild("the torch of the build was one without CUDA")
    named = [Path(folder) for folder in os.environ.get("ACT_CUDA_HOMES", "").split(":") if folder]
    wanted = torch.version.cuda.split(".")[0]
    libraries = {}
    for home in named or [_find_toolkit()]:
        version = re.search(r"release (\d+)\.", _output(str(home / "bin" / "nvcc"), "--version"))
        if version is None:
            raise CannotBuild(f"no CUDA compiler in {home}")
        if not named and version[1] != wanted:
            raise CannotBuild(f"torch was built with CUDA {wanted}, and the compiler in {home} is of {version[1]}")
        sources = [_CSRC / "ops" / "cuda.cpp", *sorted((_CSRC / "cuda").glob("*.cu"))]
        libraries[version[1]] = Library(f"_cuda{version[1]}", sources, home)
    return list(libraries.values())


def _find_toolkit() -> Path:
    """CUDA_HOME where it is set; else where nvcc itself says it lives, since the one on the PATH may be a wrapper."""
    candidates = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)][:1]
    if not candidates:
        nvcc = shutil.which("nvcc")
        candidates = [Path("/usr/local/cuda")]
        if nvcc is not None:
            candidates.insert(0, Path(nvcc).resolve().parent.parent)
            top = re.search(r"^#\$ TOP=(.+)$", _output(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull), re.MULTILINE)
            if top:
                candidates.insert(0, Path(top[1]).resolve())
    for folder in candidates:
        if (folder / "bin" / "nvcc").exists() and (folder / "include").exists():
            return folder
    raise CannotBuild("no CUDA compiler: nvcc is neither under CUDA_HOME nor on the PATH")


def _architectures() -> str:
    return os.environ.get("TORCH_CUDA_ARCH_LIST") or _ARCHITECTURES


def _architecture_flags() -> list[str]:
    """nvcc's flags for an architecture list such as "8.0;9.0+PTX"."""
    flags = []
    for architecture in re.split(r"[; ,]+", _architectures()):
        number = architecture.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if architecture.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def _compiler() -> list[str]:
    return _words("CXX") or ["c++"]


def _words(variable: str) -> list[str]:
    return shlex.split(os.environ.get(variable, ""))


def _run(command: list[str]) -> None:
    print(shlex.join(command), flush=True)
    try:
        result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise CannotBuild(str(error)) from None
    print(result.stderr, end="", file=sys.stderr)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines() or ["?"]
        raise CannotBuild(f"{command[0]}: {lines[0]}")


def _output(*command: str) -> str:
    """What the command prints (nvcc --dryrun prints to stderr); empty when it cannot be run."""
    with contextlib.suppress(OSError):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        return result.stdout + result.stderr
    return ""


setup(
    ext_modules=_libraries(),
    cmdclass={
        "build_ext": BuildLibraries,
        "build_py": PackageWithRecord,
        "bdist_wheel": WheelForEveryPython,
        "sdist": SourceWithKernels,
    },
)

"""Lay out a build of act_kernels as Hugging Face's `kernels` loads it: a folder a variant, with its metadata.

    ACT_NAMESPACE=act_kernels_$(git rev-parse --short HEAD) python kernels/setup.py build --build-lib build/lib
    python kernels/hub.py build/lib/act_kernels build/hub

The variants are those that the build has libraries for (`torch-stable-abi211-cpu-x86_64-linux`, `…-cu130-…`), or
`torch-cpu`, of Python alone. Then `kernels.get_local_kernel(Path("build/hub"))` gives the module. A build whose
ACT_NAMESPACE is that of the installed package is refused: the two could not be loaded into one process.
"""

import json
import platform
import shutil
import sys
from pathlib import Path

import tomllib


def lay_out(package: Path, target: Path) -> list[Path]:
    """Copy the built package into a folder a variant under `target`/build; their folders."""
    namespace = json.loads((package / "_build.json").read_text())["namespace"]
    if namespace == "act_kernels":
        raise ValueError("ACT_NAMESPACE: got 'act_kernels'; allowed: a name of this build's own")
    general = tomllib.loads((Path(__file__).parent / "build.toml").read_text())["general"]
    system = f"{platform.machine()}-linux"
    backends = {f"torch-stable-abi211-cpu-{system}": "cpu"} if (package / "_cpu.stable.so").exists() else {}
    for library in package.glob("_cuda*.stable.so"):
        version = library.name.removeprefix("_cuda").split(".")[0]
        backends[f"torch-stable-abi211-cu{version}0-{system}"] = "cuda"
    variants = []
    for variant, backend in (backends or {"torch-cpu": "cpu"}).items():
        folder = target / "build" / variant
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(package, folder, ignore=shutil.ignore_patterns("__pycache__"))
        metadata = {
            **{key: general[key] for key in ("name", "version", "license")},
            "id": namespace,
            "python-depends": [],
            "backend": {"type": backend},
        }
        (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
        variants.append(folder)
    return variants


if __name__ == "__main__":
    for made in lay_out(Path(sys.argv[1]), Path(sys.argv[2])):
        print(made)

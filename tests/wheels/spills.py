"""What each CUDA kernel of the Linux wheel uses, from its machine code; exit code 1 where one spills registers.

    python tests/wheels/spills.py dist

Prints a Markdown row for each architecture. The figures are those of `nvcc -Xptxas -v`: stack and local memory are
where spilled registers go.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from triton import knobs

from act_kernels.build_record import FOLDER


def usage(library: Path) -> dict[str, list[dict[str, int]]]:
    """The resources of each kernel, by architecture."""
    command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(library)]
    found, architecture = {}, ""
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        architecture = (re.search(r"arch = (sm_\w+)", line) or ["", architecture])[1]
        if "REG:" in line:
            found.setdefault(architecture, []).append({key: int(n) for key, n in re.findall(r"(\w+):(\d+)", line)})
    return found


def main(arguments: list[str]) -> int:
    """The wheel in the folder that is named, or the installed copy."""
    spilled = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = FOLDER
        if arguments:
            wheel = next(Path(arguments[0]).glob("act_kernels-*x86_64.whl"))
            zipfile.ZipFile(wheel).extractall(scratch)
            folder = Path(scratch, "act_kernels")
        libraries = sorted(folder.glob("_cuda*.so"))
        if not libraries:
            print(f"no CUDA library in {folder if not arguments else wheel}", file=sys.stderr)
            return 2
        print("| library | architecture | kernels | registers, at most | spilled |\n| --- | --- | --- | --- | --- |")
        for library in libraries:
            for architecture, kernels in usage(library).items():
                spills = sum(kernel["STACK"] > 0 or kernel["LOCAL"] > 0 for kernel in kernels)
                registers = max(kernel["REG"] for kernel in kernels)
                print(f"| {library.name} | {architecture} | {len(kernels)} | {registers} | {spills} |")
                spilled += spills
    return int(spilled > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

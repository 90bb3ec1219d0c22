"""A loop on the GPU as one CUDA graph: recorded once for each shape of its inputs, then replayed by a single launch."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

WARM_UP_CALLS = 3
MAX_GRAPHS = 4


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor | None]
    output: Tensor


class GraphedLoop:
    """`loop` with the same arguments and result, replayed from a CUDA graph where its input shapes came up before.

    A shape's first call runs plainly, its second is recorded; beyond `MAX_GRAPHS` shapes every other one runs plainly.
    The result is the recording's own buffer: it stands until the next call with these shapes. What the loop reads
    beside its arguments (a model's weights) is read anew at each replay, from where it lay at the recording.
    """

    def __init__(self, loop: Callable[..., Tensor]) -> None:
        self.loop = loop
        self._seen: set[tuple] = set()
        self._recordings: dict[tuple, _Recording] = {}

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        key = tuple(None if t is None else (t.shape, t.stride(), t.dtype, t.device) for t in inputs)
        if key not in self._seen or (key not in self._recordings and len(self._recordings) == MAX_GRAPHS):
            self._seen.add(key)
            return self.loop(*inputs)
        if key not in self._recordings:
            self._recordings[key] = self._record(inputs)
        recording = self._recordings[key]
        for static, given in zip(recording.inputs, inputs, strict=True):
            if given is not None:
                static.copy_(given)
        recording.graph.replay()
        return recording.output

    def _record(self, inputs: tuple[Tensor | None, ...]) -> _Recording:
        static = [None if t is None else t.clone() for t in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # lazy set-up, such as kernels compiled at first use, must not be recorded
            for _ in range(WARM_UP_CALLS):
                self.loop(*static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.loop(*static)
        return _Recording(graph, static, output)

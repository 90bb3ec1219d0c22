"""Image files streamed through NVIDIA DALI: decoded, cropped and augmented in C++ or on the GPU, ahead of the step.

On the CPU DALI decodes and PyTorch resizes, whose kernel for uint8 takes a seventh of the time of DALI's.

Every random choice (order, crop, flip, RandAugment's operations) is drawn here, by (seed, epoch, place), and fed to
DALI, whose own operators are all deterministic. So an epoch is a full shuffle, a position is all that a checkpoint
needs, and the batches do not depend on DALI's version or on the number of ranks that share a global batch.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from act_engine.data.contract import Batch
from act_engine.data.crops import CROP_DRAWS, centre_crops, random_resized_crops
from act_engine.data.draws import uniforms
from act_engine.data.files import ImageFiles
from act_engine.data.headers import BadImage
from act_engine.data.identity import identity_of
from act_engine.data.order import OrderedLoader
from act_engine.data.repairs import Repairs

PREFETCH = 2  # batches decoded ahead
READ_AHEAD = 2  # batches of encoded images read ahead of the decoder
MADE_AHEAD = 2  # batches resized before they are asked for
RAND_AUGMENT_OPERATIONS, RAND_AUGMENT_MAGNITUDE, RAND_AUGMENT_BINS = 2, 9, 31  # the usual ImageNet setting
# Room that a GPU's decoding buffers are given from the start, so that no image of ImageNet makes them grow during
# training: bytes a thread for its largest one, as long as all threads of a process stay within a budget.
DEVICE_BUFFER, HOST_BUFFER = 211_025_920, 140_544_512
DEVICE_BUDGET, HOST_BUDGET = 2**30, 2**29
HOST_BUFFERS = 2  # a thread, pinned
PREALLOCATED = {"preallocate_width_hint": 5980, "preallocate_height_hint": 6430}


class DaliLoader(OrderedLoader):
    """Batches of `files` as uint8 images `[B, 3, image_size, image_size]`, channels_last, on `device`.

    Train: a random resized crop, decoded as a region, and a flip; `augment="randaugment"` adds RandAugment (2
    operations, magnitude 9 of 31); `"none"` shows the evaluation's view instead. `train_sizes` are the image sizes
    before, between and after the epochs `train_size_epochs` (empty: `image_size` throughout). On a GPU it decodes
    there, unless `decode` is "cpu". Test: the shorter side resized to `eval_resize`, centre crop, always decoded on the
    CPU, so that an evaluation does not depend on the machine. `bad_images`: what an image does that cannot be decoded:
    "error" ends the epoch, "skip" has another shown in its place.
    """

    def __init__(
        self,
        files: ImageFiles,
        batch_size: int,
        *,
        image_size: int,
        eval_resize: int,
        augment: str = "none",
        train_sizes: Sequence[int] = (),
        train_size_epochs: Sequence[int] = (),
        workers: int = 2,
        device: str | torch.device = "cpu",
        bad_images: str = "error",
        decode: str = "auto",
        classes: Sequence[str] | None = None,
        **order: Any,
    ) -> None:
        mixture = order.get("mixture")
        super().__init__(len(files) - (mixture.extra if mixture else 0), batch_size, **order)
        self.files = files
        self.classes = classes
        self.image_size = image_size
        self.eval_resize = eval_resize
        self.augment = augment
        self.train_sizes = train_sizes or (image_size,)
        self.train_size_epochs = train_size_epochs
        self.device = torch.device(device)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="read-images")
        self._feed: Iterator[list[Any]] = iter(())
        self._repairs = Repairs(files, replace=bad_images == "skip", undecodable=undecodable)
        on_gpu = self.device.type == "cuda" and augment != "none" and decode != "cpu"
        self._resized_here = not on_gpu and augment != "randaugment"
        build = _decoding_pipeline if self._resized_here else _train_pipeline
        self._build = partial(
            build,
            lambda: next(self._feed),
            augment=augment,
            batch_size=batch_size,
            num_threads=workers,
            device_id=torch.empty(0, device=self.device).get_device() if on_gpu else None,
            prefetch_queue_depth=PREFETCH,
        )
        self._pipeline = self._build()
        # On the CPU a thread of its own makes batches ahead; on a GPU DALI does, on the caller's stream.
        self._maker = None if on_gpu else ThreadPoolExecutor(1, thread_name_prefix="make-batches")

    def identity(self) -> dict[str, Any]:
        return identity_of(self.files.labels, self.classes, self.files.content())

    @property
    def replaced(self) -> dict[str, str]:
        """The images that turned out unusable in this loader's hands and were replaced by others, and why."""
        return self._repairs.replaced_names

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        order = self.positions(epoch)
        if self._maker is None:
            self._begin(epoch, order, first_step)
        else:  # after what an unfinished epoch still has made
            self._maker.submit(self._begin, epoch, order, first_step).result()
        steps = range(first_step, len(self))
        for images, labels in made_ahead(self._maker, lambda step: self._make(epoch, order, step), steps):
            if self.device.type == "cuda":
                labels = labels.pin_memory()  # so that the copy does not wait for the step under way
            yield Batch(
                images.to(self.device, non_blocking=True),
                labels.to(self.device, non_blocking=True),
            )

    def size_at(self, epoch: int) -> int:
        """Return the image size of pass `epoch`."""
        return self.train_sizes[bisect_right(self.train_size_epochs, epoch)]

    def _begin(self, epoch: int, order: np.ndarray, first_step: int) -> None:
        self._drain()
        self._feed = self._inputs(epoch, order, first_step)

    def _make(self, epoch: int, order: np.ndarray, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of a step; where one cannot be decoded, it is seen to and the step made once more."""
        stream = torch.cuda.current_stream(self.device) if self._pipeline.device_id is not None else None
        while True:
            try:
                images, *views = self._pipeline.run(stream)
                break
            except (RuntimeError, OSError, BadImage) as error:
                under_way = range(step, min(step + PREFETCH + READ_AHEAD + 1, len(self)))
                chosen = np.concatenate([order[self.span(ahead)] for ahead in under_way])
                if not self._repairs.see_to(chosen):
                    raise
                del error
                self._pipeline = self._build()  # a pipeline that has failed is of no use any more
                self._feed = self._inputs(epoch, order, step)
        batch = self._resized(images, *views) if self._resized_here else torch.from_dlpack(images.as_tensor())
        labels = self.files.labels[self._repairs.shown(order[self.span(step)])].astype(np.int64)
        return batch.permute(0, 3, 1, 2), torch.from_numpy(labels)

    def _resized(self, images: Any, *view: Any) -> torch.Tensor:
        """Resize CPU images of any size, flip them, and show them from a corner on: `[B, height, width, 3]` uint8."""
        sizes, flips, corners = (np.asarray(t.as_tensor()).tolist() for t in view)
        height, width = [self.image_size] * 2 if self.augment == "none" else sizes[0]
        batch = torch.empty(len(sizes), height, width, 3, dtype=torch.uint8)

        def show(index: int) -> None:
            image = torch.from_dlpack(images[index]).unsqueeze(0).permute(0, 3, 1, 2)  # channels_last, which is fast
            image = F.interpolate(image, sizes[index], mode="bilinear", antialias=True)[0]
            top, left = corners[index]
            image = (image.flip(2) if flips[index] else image)[:, top : top + height, left : left + width]
            batch[index].copy_(image.permute(1, 2, 0))

        list(self._pool.map(show, range(len(sizes))))
        return batch

    def _inputs(self, epoch: int, order: np.ndarray, first_step: int) -> Iterator[list[Any]]:
        """Yield what the pipeline is fed for each step, while the next steps' files are being read."""
        reading: deque[tuple[int, np.ndarray, Iterator[bytes]]] = deque()
        steps = iter(range(first_step, len(self)))
        while True:
            while len(reading) <= READ_AHEAD and (step := next(steps, None)) is not None:
                shown = self._repairs.shown(order[self.span(step)])
                reading.append((step, shown, self._pool.map(self._repairs.read, shown)))
            if not reading:
                return
            step, shown, encoded = reading.popleft()
            sizes = self.files.sizes[shown]
            geometry = self._centre(sizes) if self.augment == "none" else self._draw(epoch, step, sizes)
            yield [[np.frombuffer(image, np.uint8) for image in encoded], *geometry]

    def _centre(self, sizes: np.ndarray) -> list[np.ndarray]:
        """The whole image, the size to resize it to, no flip, and where the central crop begins."""
        resized, corners = centre_crops(sizes, self.eval_resize, self.image_size)
        whole = np.hstack([np.zeros_like(sizes), sizes]).astype(np.int32)
        return [whole, resized, np.zeros(len(sizes), np.int32), corners]

    def _draw(self, epoch: int, step: int, sizes: np.ndarray) -> list[np.ndarray]:
        """Region to decode, size, flip, and what the pipeline takes beyond these, for each image of our part.

        The draws belong to an image's place in the epoch's global order, so they do not depend on how ranks share it,
        and cost what our own images cost.
        """
        span = self.span(step)
        count = CROP_DRAWS + 1 + 2 * RAND_AUGMENT_OPERATIONS
        drawn = uniforms(self.key(epoch, stream=1), np.arange(span.start, span.stop), count)
        crop, flip, operations, signs = np.split(
            drawn, [CROP_DRAWS, CROP_DRAWS + 1, CROP_DRAWS + 1 + RAND_AUGMENT_OPERATIONS], axis=1
        )
        shape = np.full((self.batch_size, 2), self.size_at(epoch), np.int32)
        view = [random_resized_crops(crop, sizes), shape, (flip[:, 0] < 0.5).astype(np.int32)]
        if self._resized_here:
            return [*view, np.zeros_like(shape)]
        if self.augment != "randaugment":
            return view
        return [*view, operations.astype(np.float32), (signs < 0.5).astype(np.int32)]

    def _drain(self) -> None:
        """Take the batches that an unfinished epoch left in the pipeline out of it."""
        self._feed = iter(())
        while True:
            try:
                self._pipeline.run()
            except StopIteration:
                self._pipeline.reset()
                return


def made_ahead(maker: ThreadPoolExecutor | None, make: Callable[[int], Any], steps: Sequence[int]) -> Iterator[Any]:
    """Yield `make(step)` for each step, in order; with a `maker` (one thread) the next ones are made meanwhile."""
    if maker is None:
        yield from map(make, steps)
        return
    waiting: deque[Future[Any]] = deque()
    left = iter(steps)
    try:
        while True:
            while len(waiting) < MADE_AHEAD and (step := next(left, None)) is not None:
                waiting.append(maker.submit(make, step))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)


def undecodable(content: Sequence[bytes]) -> list[int]:
    """The indices of the encoded images that DALI cannot decode, found by halves."""
    if not content or _decodes(content):
        return []
    if len(content) == 1:
        return [0]
    half = len(content) // 2
    return undecodable(content[:half]) + [half + index for index in undecodable(content[half:])]


def _decodes(content: Sequence[bytes]) -> bool:
    fn, types, pipeline_def = _import_dali()

    @pipeline_def(batch_size=len(content), num_threads=1, device_id=None)
    def pipeline() -> Any:
        encoded = fn.external_source(lambda: [np.frombuffer(image, np.uint8) for image in content], dtype=types.UINT8)
        return fn.decoders.image(encoded, adjust_orientation=False)

    try:
        pipeline().run()
    except RuntimeError:
        return False
    return True


def _decoding_pipeline(source: Any, *, augment: str, **options: Any) -> Any:
    """Decoded regions, of different sizes; and what the source says of how to show them, as it came."""
    fn, types, pipeline_def = _import_dali()

    @pipeline_def(**options)
    def pipeline() -> Any:
        encoded, region, *view = fn.external_source(
            source, num_outputs=5, dtype=[types.UINT8, *[types.INT32] * 4], ndim=[1, 1, 1, 0, 1]
        )
        return _decoded_region(fn, encoded, region), *view

    return pipeline()


def _train_pipeline(source: Any, *, augment: str, **options: Any) -> Any:
    fn, types, pipeline_def = _import_dali()
    rand_augment = augment == "randaugment"

    @pipeline_def(enable_conditionals=rand_augment, **options)
    def pipeline() -> Any:
        dtypes = [types.UINT8, *[types.INT32] * 3, types.FLOAT, types.INT32]
        dimensions = [1, 1, 1, 0, 1, 1]
        count = 6 if rand_augment else 4
        encoded, region, size, flip, *draws = fn.external_source(
            source, num_outputs=count, dtype=dtypes[:count], ndim=dimensions[:count]
        )
        on_gpu = options["device_id"] is not None
        options_there = {"device": "mixed", **decoder_memory(options["num_threads"])} if on_gpu else {}
        images = _decoded_region(fn, encoded, region, **options_there)
        size = fn.cast(size, dtype=types.FLOAT)
        images = fn.resize_crop_mirror(
            images, size=size, crop=size, mirror=flip, interp_type=types.INTERP_LINEAR, antialias=True
        )
        return _rand_augment(images, *draws) if rand_augment else images

    return pipeline()


def decoder_memory(threads: int) -> dict[str, int]:
    """DALI's options for the buffers that it decodes into on a GPU, of so many threads a process."""
    return {
        "device_memory_padding": min(DEVICE_BUFFER, DEVICE_BUDGET // threads),
        "host_memory_padding": min(HOST_BUFFER, HOST_BUDGET // (HOST_BUFFERS * threads)),
        **PREALLOCATED,
    }


def _decoded_region(fn: Any, encoded: Any, region: Any, **options: Any) -> Any:
    """RGB images; orientation marks are left aside, as torchvision does, and as the sizes in the headers are meant."""
    return fn.decoders.image_slice(
        encoded, region[0:2], region[2:4], axis_names="HW", adjust_orientation=False, **options
    )


def _rand_augment(images: Any, operations: Any, signs: Any) -> Any:
    """Apply RandAugment (Cubuk et al., 2020) with DALI's operations, chosen by `operations` in [0, 1) and `signs`."""
    from nvidia.dali import fn, types
    from nvidia.dali.auto_aug.core import select, signed_bin
    from nvidia.dali.auto_aug.rand_augment import get_rand_augment_suite

    suite = get_rand_augment_suite()
    chosen = fn.cast(operations * len(suite), dtype=types.INT32)
    bins = signed_bin(RAND_AUGMENT_MAGNITUDE, random_sign=signs)
    with warnings.catch_warnings(record=True):  # DALI's suite uses names that DALI itself has deprecated, and shows it
        for number in range(RAND_AUGMENT_OPERATIONS):
            images = select(
                suite,
                chosen[number],
                data=images,
                magnitude_bin=bins[number],
                num_magnitude_bins=RAND_AUGMENT_BINS,
                fill_value=128,
                interp_type=None,
            )
    return images


def _import_dali() -> tuple[Any, Any, Any]:
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError:
        raise ValueError(
            'data.name: reading image files needs NVIDIA DALI: pip install "act-engine[imagenet]"'
        ) from None
    return fn, types, pipeline_def


def decoded(files: ImageFiles, *, image_size: int, workers: int) -> np.ndarray:
    """Decode all of `files` into memory, `[N, image_size, image_size, 3]` uint8, as the evaluation would show them."""
    loader = DaliLoader(files, 256, image_size=image_size, eval_resize=image_size, workers=workers, shuffle=False)
    return np.concatenate([batch.images.permute(0, 2, 3, 1).numpy() for batch in loader.epoch(0)])

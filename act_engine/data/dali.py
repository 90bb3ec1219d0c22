"""Image files streamed through NVIDIA DALI: decoded, cropped and augmented in C++ or on the GPU, ahead of the step.

On the CPU DALI decodes and PyTorch resizes, whose kernel for uint8 takes a seventh of the time of DALI's.

Every random choice (order, crop, flip, RandAugment's operations) is drawn here, by (seed, epoch, step), and fed to
DALI, whose own operators are all deterministic. So an epoch is a full shuffle, a position is all that a checkpoint
needs, and the batches do not depend on DALI's version or on the number of ranks that share a global batch.
"""

from __future__ import annotations

import io
import warnings
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from act_engine.data.contract import Batch
from act_engine.data.crops import centre_crops, random_resized_crops
from act_engine.data.files import ImageFiles
from act_engine.data.order import OrderedLoader

PREFETCH = 2  # batches decoded ahead
READ_AHEAD = 2  # batches of encoded images read ahead of the decoder
RAND_AUGMENT_OPERATIONS, RAND_AUGMENT_MAGNITUDE, RAND_AUGMENT_BINS = 2, 9, 31  # the usual ImageNet setting
# room that decoding buffers are given from the start, so that no image of ImageNet makes them grow during training
DECODER_MEMORY = {
    "device_memory_padding": 211025920,
    "host_memory_padding": 140544512,
    "preallocate_width_hint": 5980,
    "preallocate_height_hint": 6430,
}


class DaliLoader(OrderedLoader):
    """Batches of `files` as uint8 images `[B, 3, image_size, image_size]`, channels_last, on `device`.

    Train: a random resized crop, decoded as a region, and a flip; `augment="randaugment"` adds RandAugment (2
    operations, magnitude 9 of 31); `"none"` shows the evaluation's view instead. `train_sizes` are the image sizes
    before, between and after the epochs `train_size_epochs` (empty: `image_size` throughout). On a GPU it decodes
    there. Test: the shorter side resized to `eval_resize`, centre crop, always decoded on the CPU, so that an
    evaluation does not depend on the machine.
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
        **order: Any,
    ) -> None:
        super().__init__(len(files), batch_size, **order)
        self.files = files
        self.image_size = image_size
        self.eval_resize = eval_resize
        self.augment = augment
        self.train_sizes = train_sizes or (image_size,)
        self.train_size_epochs = train_size_epochs
        self.device = torch.device(device)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="read-images")
        self._feed: Iterator[list[Any]] = iter(())
        on_gpu = self.device.type == "cuda" and augment != "none"
        self._resized_here = not on_gpu and augment != "randaugment"
        build = _decoding_pipeline if self._resized_here else _train_pipeline
        device_id = torch.empty(0, device=self.device).get_device() if on_gpu else None
        self._pipeline = build(
            lambda: next(self._feed),
            augment=augment,
            batch_size=batch_size,
            num_threads=workers,
            device_id=device_id,
            prefetch_queue_depth=PREFETCH,
        )

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        order = self.positions(epoch)
        self._drain()
        self._feed = self._inputs(epoch, order, first_step)
        for step in range(first_step, len(self)):
            chosen = order[self.span(step)]
            labels = torch.from_numpy(self.files.labels[chosen])
            if self.device.type == "cuda":
                labels = labels.pin_memory()  # so that the copy does not wait for the step under way
            yield Batch(self._next_images(chosen), labels.to(self.device, non_blocking=True))

    def size_at(self, epoch: int) -> int:
        """Return the image size of pass `epoch`."""
        return self.train_sizes[bisect_right(self.train_size_epochs, epoch)]

    def _next_images(self, chosen: np.ndarray) -> torch.Tensor:
        stream = torch.cuda.current_stream(self.device) if self._pipeline.device_id is not None else None
        try:
            images, *views = self._pipeline.run(stream)
        except RuntimeError as error:
            undecodable = self._undecodable(chosen)
            if undecodable is None:
                raise
            raise ValueError(f"data.path: {undecodable}; repair or remove it") from error
        batch = self._resized(images, *views) if self._resized_here else torch.from_dlpack(images.as_tensor())
        return batch.permute(0, 3, 1, 2).to(self.device, non_blocking=True)

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
        reading: deque[tuple[int, Iterator[bytes]]] = deque()
        steps = iter(range(first_step, len(self)))
        while True:
            while len(reading) <= READ_AHEAD and (step := next(steps, None)) is not None:
                reading.append((step, self._pool.map(self.files.read, order[self.span(step)])))
            if not reading:
                return
            step, encoded = reading.popleft()
            sizes = self.files.sizes[order[self.span(step)]]
            geometry = self._centre(sizes) if self.augment == "none" else self._draw(epoch, step, order)
            yield [[np.frombuffer(image, np.uint8) for image in encoded], *geometry]

    def _centre(self, sizes: np.ndarray) -> list[np.ndarray]:
        """The whole image, the size to resize it to, no flip, and where the central crop begins."""
        resized, corners = centre_crops(sizes, self.eval_resize, self.image_size)
        whole = np.hstack([np.zeros_like(sizes), sizes]).astype(np.int32)
        return [whole, resized, np.zeros(len(sizes), np.int32), corners]

    def _draw(self, epoch: int, step: int, order: np.ndarray) -> list[np.ndarray]:
        """Region to decode, size, flip, and what the pipeline takes beyond these, for each image of our part.

        Drawn for the whole global batch, so that the draws do not depend on how ranks share it.
        """
        count = self.batch_size * self.world_size
        together = order[step * count : (step + 1) * count]
        random = self.random(epoch, stream=1, step=step)
        ours = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        crops = random_resized_crops(random, self.files.sizes[together])[ours]
        flips = random.integers(0, 2, count, dtype=np.int32)[ours]
        sizes = np.full((self.batch_size, 2), self.size_at(epoch), np.int32)
        view = [crops, sizes, flips]
        if self._resized_here:
            return [*view, np.zeros_like(sizes)]
        if self.augment != "randaugment":
            return view
        operations = random.random((count, RAND_AUGMENT_OPERATIONS), dtype=np.float32)[ours]
        signs = random.integers(0, 2, (count, RAND_AUGMENT_OPERATIONS), dtype=np.int32)[ours]
        return [*view, operations, signs]

    def _drain(self) -> None:
        """Take the batches that an unfinished epoch left in the pipeline out of it."""
        self._feed = iter(())
        while True:
            try:
                self._pipeline.run()
            except StopIteration:
                self._pipeline.reset()
                return

    def _undecodable(self, chosen: np.ndarray) -> str | None:
        """Return a line naming the first of the images that PIL cannot decode either, which DALI does not name."""
        from PIL import Image

        for index in chosen:
            try:
                Image.open(io.BytesIO(self.files.read(index).tobytes())).load()
            except (OSError, SyntaxError, ValueError) as problem:
                return f"{self.files.names[index]} cannot be decoded ({problem})"
        return None


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
        options_there = {"device": "mixed", **DECODER_MEMORY} if on_gpu else {}
        images = _decoded_region(fn, encoded, region, **options_there)
        size = fn.cast(size, dtype=types.FLOAT)
        images = fn.resize_crop_mirror(
            images, size=size, crop=size, mirror=flip, interp_type=types.INTERP_LINEAR, antialias=True
        )
        return _rand_augment(images, *draws) if rand_augment else images

    return pipeline()


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

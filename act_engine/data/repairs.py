"""Images that turn out to be damaged when they are read: named, or replaced by others; or decoded in another way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from act_engine.data.files import ImageFiles, ppm_of
from act_engine.data.headers import BadImage

MOST_TRIES = 100  # neighbours that are tried in a damaged image's place

logger = logging.getLogger(__name__)


class Repairs:
    """What is known of images of `files` that cannot be read or decoded as the others are.

    An image that PIL decodes and DALI does not is read with PIL's pixels. One that PIL cannot decode either is an
    error, or with `replace` the next image that is whole is shown in its place. `undecodable` says which encoded images
    DALI refuses.
    """

    def __init__(
        self, files: ImageFiles, *, replace: bool, undecodable: Callable[[Sequence[bytes]], list[int]]
    ) -> None:
        self._files, self._replace, self._undecodable = files, replace, undecodable
        self._substitutes: dict[int, int] = {}
        self._by_pil: set[int] = set()
        self.replaced_names: dict[str, str] = {}

    def shown(self, indices: np.ndarray) -> np.ndarray:
        """The images that are shown in the places of `indices`."""
        if not self._substitutes:
            return indices
        return np.array([self._substitutes.get(int(index), int(index)) for index in indices], np.int64)

    def read(self, index: int) -> bytes:
        """Encoded bytes of image `index` that DALI decodes; OSError or BadImage where there are none."""
        content = self._files.read(index)
        return ppm_of(content) if int(index) in self._by_pil else content

    def see_to(self, indices: np.ndarray) -> bool:
        """Find those of the images that cannot be decoded, after something failed; whether there were any.

        Raises:
            ValueError: one cannot be decoded at all, and is not to be replaced; it is named.
        """
        found = False
        whole: list[int] = []
        for index in map(int, np.unique(self.shown(indices))):
            problem = self._problem(index)
            if problem is None:
                whole.append(index)
            else:
                found = True
                self._give_up(index, problem)
        refused = [whole[number] for number in self._undecodable([self.read(index) for index in whole])]
        new = [index for index in refused if index not in self._by_pil]
        self._by_pil.update(new)
        return found or bool(new)

    def _problem(self, index: int) -> str | None:
        try:
            ppm_of(self._files.read(index))
        except (OSError, BadImage) as problem:
            return getattr(problem, "strerror", None) or str(problem)
        return None

    def _give_up(self, index: int, problem: str) -> None:
        name = self._files.name(index)
        if not self._replace:
            raise ValueError(
                f"data.path: {name}: {problem}; repair or remove it, or have such images replaced with "
                "--data.bad_images skip"
            )
        count = len(self._files)
        tried = ((index + step) % count for step in range(1, min(count, MOST_TRIES)))
        other = next((near for near in tried if near not in self._substitutes and self._problem(near) is None), None)
        if other is None:
            raise ValueError(f"data.path: {name}: {problem}; nor can the images after it be read")
        self._substitutes[index] = other
        for earlier, substitute in self._substitutes.items():
            if substitute == index:
                self._substitutes[earlier] = other
        self.replaced_names[name] = problem
        logger.warning(
            "data.bad_images: %s: %s; %s is shown in its place (%d replaced so far)",
            name,
            problem,
            self._files.name(other),
            len(self.replaced_names),
        )

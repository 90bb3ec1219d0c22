"""Label extra images with a model: ``python -m act_engine.pseudo_label extra.npz --weights natural.safetensors``.

The labels go into a file beside the images, where ``data.extra`` finds them.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from act_engine.config.command_line import own_arguments, read_options, user_errors


@dataclass(frozen=True)
class Arguments:
    """Write the most likely class of each image of an .npz file into FILE.labels.npy, for training with data.extra.

    The model should be the best one at hand on clean images: a natural one.
    """

    images: str | None = field(default=None, metadata={"positional": True})
    """File with the array image, [N, H, W, C] uint8."""
    weights: str | None = None
    """safetensors file with its architecture in the header, such as a run's natural.safetensors."""
    factory: str | None = None
    """Whose model of your own it is: package.module:factory; null: the one that the header names."""
    batch_size: int = 500
    """Images at a time, 1 or more."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""
    progress: Literal["auto", "bar", "lines", "none"] = "auto"
    """How far it is: a bar for a terminal, lines for a file, none; auto: as standard error is a terminal or none."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    with user_errors():
        options = read_options(Arguments, sys.argv[1:] if argv is None else argv, "python -m act_engine.pseudo_label")
        given = own_arguments(Arguments, options)
        if given.images is None:
            raise ValueError("IMAGES: the file of the images is missing, such as extra.npz")
        if given.weights is None:
            raise ValueError("--weights: got None; allowed: a safetensors file, such as runs/c10/natural.safetensors")
        if given.batch_size < 1:
            raise ValueError(f"--batch_size: got {given.batch_size}; allowed: 1 or more")
        # After the arguments: a typo need not wait for torch.
        from act_engine.data.extra import unlabelled, write_labels
        from act_engine.evaluation.pseudo_labels import predicted
        from act_engine.models import load_model
        from act_engine.progress import progress
        from act_engine.runs.environment import pick_device

        device = pick_device(given.device)
        images = unlabelled(given.images)
        model = load_model(given.weights, factory=given.factory, device=device)
        with progress(given.progress, len(images), unit="image", what="labelling", shown=True) as shown:
            labels = predicted(model, images, batch_size=given.batch_size, device=device, on_batch=shown.advance)
        print(f"{len(labels):,} labels in {write_labels(given.images, labels)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

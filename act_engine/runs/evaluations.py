"""What was measured of a run: a file for each evaluation, side by side; evaluation.json is the newest full one."""

from pathlib import Path
from typing import Any

from act_engine.runs.folder import evaluation_file, write_json
from act_engine.runs.reading import read_json

FOLDER = "evaluations"


def keep(folder: Path, evaluation: dict[str, Any], checkpoint: str = "best") -> Path:
    """Write an evaluation into ``evaluations/`` under its own name, and make it the run's, unless that one is fuller.

    The run's is ``evaluation.json``, or ``evaluation.CHECKPOINT.json`` for other weights than the best. It is fuller if
    it is of the same weights and has more images, or has an attack where this one has none. An evaluation of another
    test set (``data_path``) becomes ``evaluation_TESTSET.json`` instead. Returns the file under its own name.

    Raises:
        OSError: a file could not be written.
    """
    file = folder / FOLDER / f"{name_of(evaluation, checkpoint)}.json"
    file.parent.mkdir(exist_ok=True)
    write_json(file, evaluation)
    place = folder / evaluation_file(checkpoint)
    if "data_path" in evaluation:
        place = place.with_name(f"{place.stem}_{Path(evaluation['data_path']).resolve().stem}.json")
    now = read_evaluation(place)
    if now is None or not _same_weights(now, evaluation) or _size(now) <= _size(evaluation):
        write_json(place, evaluation)
    return file


def name_of(evaluation: dict[str, Any], checkpoint: str = "best") -> str:
    """The name of an evaluation: attack, norm, eps, loss, images, such as ``pgd-100x5-linf-0.1500-ce-500``.

    PGD's steps and restarts stand behind its name, AutoAttack's version. What is not usual follows: the targets, kinds
    of corruption, further test sets, the run whose model a transfer came from, another test set, and the weights where
    they are not the best.
    """
    attack = evaluation["attack"]
    if attack is None:
        parts = ["clean"]
    else:
        pgd = attack["name"] == "pgd"
        how = f"{attack['steps']}x{attack['restarts']}" if pgd else attack["version"]
        parts = [attack["name"], how, attack["norm"], f"{attack['eps']:.4f}"]
        if pgd:
            parts += [attack["loss"], f"targets-{attack['targets']}" if attack.get("targets") else ""]
    parts.append(str(evaluation["samples"]))
    parts.append("among-present" if evaluation.get("settings", {}).get("among") == "present" else "")
    kinds = {kind for model in evaluation["models"].values() for kind in model.get("corruptions", ())}
    parts.append(f"corruptions-{len(kinds)}" if kinds else "")
    parts += [f"also-{name}" for name in evaluation.get("also", ())]
    for word, key in (("from", "source"), ("on", "data_path")):
        if evaluation.get(key):
            parts.append(f"{word}-{Path(evaluation[key]).resolve().stem}")
    if checkpoint != "best":
        parts.append(checkpoint)
    return "-".join(part for part in parts if part)


def evaluations(folder: Path, checkpoint: str = "best") -> list[dict[str, Any]]:
    """Every evaluation of the weights that the run's own evaluation is of, that one first, then by name.

    What cannot be read is passed over; none if the run has no evaluation of its own.
    """
    first = read_evaluation(folder / evaluation_file(checkpoint))
    if first is None:
        return []
    others = (read_evaluation(file) for file in sorted((folder / FOLDER).glob("*.json")))
    return [first, *(e for e in others if e is not None and e != first and _same_weights(e, first))]


def read_evaluation(file: Path) -> dict[str, Any] | None:
    """The evaluation in a file; None if it is not there, torn, or no evaluation."""
    try:
        found = read_json(file, ("models", "attack", "samples"))
    except ValueError:
        return None
    kinds = {"models": dict, "attack": dict | None, "samples": int, "weights": dict}
    return found if all(isinstance(found.get(key, {}), kind) for key, kind in kinds.items()) else None


def _size(evaluation: dict[str, Any]) -> tuple[bool, int]:
    return evaluation["attack"] is not None, evaluation["samples"]


def _same_weights(evaluation: dict[str, Any], other: dict[str, Any]) -> bool:
    mine, theirs = evaluation.get("weights", {}), other.get("weights", {})
    shared = mine.keys() & theirs.keys()
    return bool(shared) and all(mine[name] == theirs[name] for name in shared)

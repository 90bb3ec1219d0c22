"""Every strategy, world size and accumulation is the same training: against one process on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("deepspeed")

from worlds import (
    CASES,
    HYBRID,
    LAYERS,
    MEMORY,
    RECOMPUTED,
    RESUMED,
    SAVED_AT,
    SELECTING,
    SHARDED,
    SMALL,
    WIDTH,
    WORLDS,
)

from act_engine.planning.memory import training_memory
from act_engine.training.checkpoint import verify

ITERATIONS, PARAMETERS, GROUPS = 3, 6, 3  # of the attack; of the model; its two blocks and what is left of it
RUNS = [(size, case) for size in sorted(WORLDS) for case in {**CASES, **{2: RECOMPUTED, 4: HYBRID}.get(size, {})}]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    command = [sys.executable, str(Path(__file__).with_name("worlds.py")), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-5000:]
    return {"folder": folder, **{size: torch.load(folder / f"world-{size}.pt") for size in WORLDS}}


def assert_same_training(result, reference, steps=slice(None)):
    """float32: sums in another order differ by 1e-7 of their size, and five smooth steps let that grow a little."""
    torch.testing.assert_close(result["losses"], reference["losses"][steps], rtol=0, atol=1e-5)
    for name, expected in reference["states"].items():
        state = result["states"][name]
        assert state.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(state[key], value, rtol=0, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(("size", "case"), RUNS)
def test_losses_weights_momentum_and_average_are_those_of_one_process(worlds, size, case):
    assert_same_training(worlds[size][case], worlds[1]["single/1"])


def test_the_comparison_can_fail(worlds):
    """The steps change the weights, and clipping and the average are at work."""
    states = worlds[1]["single/1"]["states"]
    assert (states["robust"]["model.fc.weight"] - states["robust"]["ema.fc.weight"]).abs().max() > 1e-3
    assert not any(key.startswith("ema.") for key in states["natural"])
    assert (worlds[1]["single/1"]["losses"][0] - worlds[1]["single/1"]["losses"][-1]).abs().min() > 1e-3


@pytest.mark.parametrize(("size", "case"), RUNS)
def test_collectives_during_an_attack(worlds, size, case):
    """None without sharded weights. ZeRO-3 gathers each parameter once an attack, whatever its steps; layer by layer it
    gathers in every iteration (here the small model at once), after broadcasts that check the order of the layers in
    its first passes. FSDP gathers in the same way, a block at a time. Nothing
    is ever reduced."""
    counts = worlds[size][case]["collectives"]
    assert len(counts) == 5 * int(case[-1])
    if case.startswith("zero3-layers-"):
        assert all(count.keys() <= {"_allgather_base_", "broadcast_"} for count in counts)  # twice, at most, a pass
        return
    if case.startswith("fsdp") and size > 1:
        forward_and_backward = GROUPS + GROUPS - 1  # the last group stays gathered in between
        gathers = ITERATIONS * forward_and_backward if "layers" in case else GROUPS
        assert all(count == {"_allgather_base_": gathers} for count in counts)
        return
    if "zero3" not in case or size == 1:
        assert all(not count.keys() - {"broadcast_"} for count in counts)
        assert "layers" in case or not any(counts)
    elif "layers" in case:
        assert all(count.keys() <= {"_allgather_base_", "broadcast_"} for count in counts)
        assert counts[-1] == {"_allgather_base_": ITERATIONS}
    else:
        assert all(count == {"_allgather_base_": PARAMETERS} for count in counts)


@pytest.mark.parametrize(("size", "case"), [(size, case) for size, cases in RESUMED.items() for case in cases])
def test_a_zero2_run_of_two_processes_goes_on_anywhere(worlds, size, case):
    assert_same_training(worlds[size][f"saved/{case}"], worlds[1]["adamw"], slice(SAVED_AT, None))


@pytest.mark.parametrize(("size", "case"), [(size, case) for size, cases in SHARDED.items() for case in cases])
def test_so_does_one_of_fsdp_that_wrote_its_checkpoint_in_parts(worlds, size, case):
    assert_same_training(worlds[size][f"shards/{case}"], worlds[1]["adamw"], slice(SAVED_AT, None))


def test_a_part_that_cannot_be_written_is_every_ranks_error_and_leaves_the_checkpoint_before(worlds):
    one, other = worlds[2]["shards/fault"]
    assert one == other
    assert one.startswith(f"['step-{SAVED_AT}'] failed=True: checkpoint step-{SAVED_AT + 1} could not be written: ")
    assert one.endswith("'nowhere/file' (on rank 1); the older ones are intact")


def test_each_process_of_fsdp_writes_its_part_and_nothing_that_executes(worlds):
    folder = worlds["folder"] / "shards" / "checkpoints" / f"step-{SAVED_AT}"
    files = sorted(path.name for path in folder.iterdir())
    assert [name.split("-")[0] for name in files] == ["manifest.json", "shard", "shard", "state.json"]
    assert verify(folder) is None
    small, large = sorted(path.stat().st_size for path in folder.glob("shard-*"))
    assert large < 1.5 * small
    (folder / files[1]).write_bytes(b"")
    assert "corrupt" in verify(folder)


@pytest.mark.parametrize("size", sorted(WORLDS))
@pytest.mark.parametrize("case", MEMORY)
def test_memory_is_as_predicted(worlds, size, case):
    settings = {"zero_stage": 0, **MEMORY[case]}
    predicted = training_memory([WIDTH**2, WIDTH] * LAYERS, world_size=size, bucket=SMALL, live=SMALL, **settings)
    assert worlds[size][f"memory/{case}"] == pytest.approx(predicted.total, rel=0.1)


def test_memory_falls_with_the_world_as_zero_promises(worlds):
    measured = {case: [worlds[size][f"memory/{case}"] for size in (1, 2, 4)] for case in MEMORY}
    assert measured["ddp"][0] == measured["ddp"][2]
    assert measured["zero3"][0] / measured["zero3"][2] > 3.5
    assert measured["zero1"][2] > measured["zero2"][2] > measured["zero3"][2]


def test_evaluation_is_exact_at_any_world_size(worlds):
    reference = worlds[1]["evaluation"]
    assert reference["samples"] == 500
    assert 0 < reference["models"]["robust"]["robust_accuracy"] < reference["models"]["robust"]["clean_accuracy"]
    for size in WORLDS:
        assert worlds[size]["evaluation"] == reference


@pytest.mark.parametrize("strategy", SELECTING)
def test_two_processes_export_the_best_and_the_last_and_a_killed_run_goes_on_to_the_same(worlds, strategy):
    whole, killed = worlds[2][f"selecting/{strategy}"], worlds[2][f"selecting/{strategy}/killed"]
    curve, chosen = whole["curve"], whole["selection"]
    best = max(curve, key=curve.get)
    _, second, _, end = curve
    assert best <= second  # what was unlearnt after the second epoch is not exported
    assert curve[end] < curve[best] / 2
    since = (end - best) // (second // 2)
    assert chosen == {"step": best, "accuracy": curve[best], "since": since, "images": 100, "last_step": end}
    assert whole["models"].keys() == {"robust", "natural", "last.robust"}
    assert whole["models"]["last.robust"]["clean_accuracy"] < whole["models"]["robust"]["clean_accuracy"] / 2
    for place, states in (("", whole["best"]), ("last.", whole["last"])):
        for name, state in states.items():
            exported = whole["exported"][f"{place}{name}.safetensors"]
            assert all(torch.equal(exported[key], value) for key, value in state.items()), f"{place}{name}"
    assert killed["curve"] == curve
    assert killed["selection"] == chosen
    for file, state in whole["exported"].items():
        assert all(torch.equal(killed["exported"][file][key], value) for key, value in state.items()), file

"""What the official packages read of a run: wait-server, wait-epochs N, or check RUN. The server is MLFLOW_TRACKING_URI's."""

import csv
import math
import pathlib
import sys
import time

import mlflow
from mlflow.exceptions import MlflowException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EXPERIMENT = "tracked"
# Seconds for what a slow machine may take; a broken one takes longer.
PATIENCE = 180


def tracked_run(client):
    """The only run of the experiment, or None while there is none."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    assert len(runs) <= 1, f"{len(runs)} runs of one training"
    return runs[0] if runs else None


def wait_for(what, holds):
    last = None
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if holds():
                return
        except MlflowException as error:
            last = error
        time.sleep(0.5)
    sys.exit(f"waited {PATIENCE} s for {what}: {last}")


def wait_server():
    client = mlflow.MlflowClient()
    wait_for("the server", lambda: client.search_experiments() is not None)


def wait_epochs(count):
    client = mlflow.MlflowClient()

    def there():
        run = tracked_run(client)
        return run and len(client.get_metric_history(run.info.run_id, "train/box_loss")) >= count

    wait_for(f"{count} epochs", there)


def table(run):
    """Columns of results.csv as steps and values, without those that count."""
    with open(run / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {}
    for name in rows[0]:
        if name not in ("epoch", "time"):
            columns[name] = [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]
    assert columns and all(columns.values()), columns
    return columns


def same(found, expected, what, relative):
    assert [step for step, _ in found] == [step for step, _ in expected], f"{what}: steps {found} and not {expected}"
    for (step, value), (_, wanted) in zip(found, expected):
        # The table has six digits after the point.
        assert math.isclose(value, wanted, rel_tol=relative, abs_tol=6e-7), f"{what} in epoch {step}: {value}, {wanted}"


def check(run):
    columns = table(run)
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = set(events.Tags()["scalars"])
    assert set(columns) <= tags, f"TensorBoard misses {set(columns) - tags}"
    for name, expected in columns.items():
        same([(event.step, event.value) for event in events.Scalars(name)], expected, f"TensorBoard: {name}", 1e-6)
    steps = events.Scalars("step/loss")
    epochs = max(step for step, _ in columns["train/box_loss"])
    assert [event.step for event in steps] == list(range(len(steps))) and len(steps) % epochs == 0, len(steps)
    assert {"step/lr", "step/images_per_second", "step/box_loss"} <= tags, tags

    client = mlflow.MlflowClient()
    found = tracked_run(client)
    assert found.info.status == "FINISHED", found.info.status
    assert found.data.params["epochs"] == str(epochs) and found.data.params["batch.target"] == "16", found.data.params
    for name, expected in columns.items():
        key = name.replace("(", "").replace(")", "")
        history = client.get_metric_history(found.info.run_id, key)
        same([(metric.step, metric.value) for metric in history], expected, f"MLflow: {key}", 1e-6)
    print(f"{len(columns)} columns of {epochs} epochs: TensorBoard and MLflow have each value once")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["wait-server"]:
            wait_server()
        case ["wait-epochs", count]:
            wait_epochs(int(count))
        case ["check", run]:
            check(pathlib.Path(run))
        case _:
            sys.exit(__doc__)

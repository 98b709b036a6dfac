"""Made the files beside it with the trackers' own writers, whose versions `versions.txt` names.

    pip install wandb trackio mlflow-skinny sqlalchemy alembic tensorboard torch   (0.5 GB: why the files are kept)
    python tests/data/trackers/make.py FOLDER

Each holds the same run, `grpo-a`: 40 steps; the reward rises, the trusted metric falls from step 21 on.
"""

import math
import os
import sys
from importlib.metadata import version
from pathlib import Path

OUT = Path(sys.argv[1])
os.environ |= {
    "WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_ALLOW_FILE_STORE": "true",
    "TRACKIO_DIR": str(OUT / "trackio"),
}  # fmt: skip


def rows():
    for step in range(1, 41):
        fall = max(0, step - 20) * 0.02
        yield (
            step,
            {
                "train/reward": 0.1 + 0.01 * step + 0.02 * math.sin(7 * step),
                "train/rewards/gold/mean": 0.5 - fall + 0.02 * math.sin(5 * step),
                "train/kl": 0.001 * step,
            },
        )


def of_wandb():
    import wandb

    settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off")
    run = wandb.init(project="loop", name="grpo-a", dir=OUT, settings=settings)
    for step, values in rows():
        run.log({**values, "train/global_step": step})
    run.finish()


def of_trackio():
    import trackio

    trackio.init(project="loop", name="grpo-a", embed=False)
    for step, values in rows():
        trackio.log(values, step=step)
    trackio.finish()


def of_mlflow(uri):
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("loop")
    with mlflow.start_run(run_name="grpo-a"):
        for step, values in rows():
            mlflow.log_metrics(values, step=step)


def of_tensorboard():
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(OUT / "tensorboard" / "grpo-a")
    for step, values in rows():
        for name, value in values.items():
            writer.add_scalar(name, value, step)
    writer.close()


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    makers = {
        "wandb": of_wandb, "trackio": of_trackio, "mlflow-skinny": lambda: of_mlflow(f"file:{OUT}/mlruns"),
        "sqlalchemy": lambda: of_mlflow(f"sqlite:///{OUT}/mlflow.db"), "torch": of_tensorboard,
    }  # fmt: skip
    for name in sys.argv[2:] or makers:
        makers[name]()
        print(name, version(name))

"""Foresight inside TRL's trainers: `FPOReward` in `reward_funcs` and `callbacks`, `CollapseMonitor` in `callbacks`."""

from foresighted.integrations.monitoring.monitor import Symptom
from foresighted.integrations.trl.config import FPOConfig
from foresighted.integrations.trl.monitor import CollapseMonitor
from foresighted.integrations.trl.reward import FPOReward
from foresighted.labels.queue import FileQueue, LabelQueue, Question

__all__ = ["CollapseMonitor", "FPOConfig", "FPOReward", "FileQueue", "LabelQueue", "Question", "Symptom"]

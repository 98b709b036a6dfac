"""Foresight inside OpenRLHF: the executor for a file that `--train.agent_func_path` names."""

from foresighted.integrations.openrlhf.executor import agent_executor

__all__ = ["agent_executor"]

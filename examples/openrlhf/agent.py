"""OpenRLHF asks this file for its rewards: --train.agent_func_path agent.py"""

from foresighted.integrations.openrlhf import agent_executor

AgentExecutor = agent_executor("rewards")

"""One owner of a reward model that keeps learning, for engines that train a policy elsewhere: neither Ray nor HTTP."""

from foresighted.integrations.owner.answer import Answer, GroupIncomplete
from foresighted.integrations.owner.config import OwnerConfig
from foresighted.integrations.owner.owner import RewardOwner

__all__ = ["Answer", "GroupIncomplete", "OwnerConfig", "RewardOwner"]

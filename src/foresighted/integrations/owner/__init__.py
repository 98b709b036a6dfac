"""One owner of a reward model that keeps learning, for engines that train a policy elsewhere: neither Ray nor HTTP."""

from typing import TYPE_CHECKING, Any

from foresighted.integrations.owner.answer import Answer, GroupIncomplete
from foresighted.integrations.owner.config import OwnerConfig

if TYPE_CHECKING:
    from foresighted.integrations.owner.owner import RewardOwner

__all__ = ["Answer", "GroupIncomplete", "OwnerConfig", "RewardOwner"]


def __getattr__(name: str) -> Any:
    """Load the owner, and torch with it, where it is first asked for."""
    if name == "RewardOwner":
        from foresighted.integrations.owner.owner import RewardOwner

        return RewardOwner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What is sent to a server and what comes back, as its OpenAPI says it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from foresighted.types import Text

Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Place = Annotated[int, Field(ge=0, lt=1 << 16)]
Size = Annotated[int, Field(ge=1, lt=1 << 16)]
Step = Annotated[int, Field(ge=0, lt=1 << 62)]


class Said(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: str
    content: str | list[dict[str, Any]] | None = None


Message = Annotated[str, StringConstraints(max_length=1 << 22)] | Annotated[list[Said], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Asked(_Strict):
    run: Name = Field(default="http", description="whose group it is")
    group: Name = Field(description="name of the group, which no other group of the run has")
    prompt: Message = Field(description="text, or messages of a conversation")
    step: Step | None = Field(default=None, description="the trainer's")
    evaluation: bool = Field(default=False, description="the bare reward; nothing is held, labelled or learnt")
    references: list[Message] | None = Field(
        default=None, max_length=64, description="responses of the frozen policy to the prompt"
    )


class GroupRequest(_Asked):
    """A whole group; of one response where references of its prompt are known."""

    responses: list[Message] = Field(min_length=1, max_length=4096)


class MemberRequest(_Asked):
    """One response of a group, which waits for the others."""

    response: Message
    member: Place = Field(description="place of the response in its group, from 0")
    size: Size = Field(description="responses of the group")


class Paid(BaseModel):
    """What a response is paid, and why."""

    reward: float = Field(description="what the policy is paid: score - penalty")
    score: float = Field(description="what the reward model says")
    penalty: float = Field(description="what was taken off for the response's influence on the reward model")
    influence: float = Field(description="-penalty: what training on the response would do to its own reward")
    version: int = Field(description="of the reward model")
    foresight: bool = Field(description="false where the bare reward was paid")


class ScoreResponse(BaseModel):
    """One entry a response, in order."""

    answers: list[Paid]


class OpenRLHFRequest(BaseModel):
    """What OpenRLHF sends: `query` is prompt and response in one text."""

    model_config = ConfigDict(strict=True)

    query: list[Message] = Field(max_length=4096)
    prompts: list[Message] = Field(default_factory=list, max_length=4096)
    labels: list[Any] = Field(default_factory=list, max_length=4096)


class OpenRLHFResponse(BaseModel):
    """What OpenRLHF reads."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class Feedback(_Strict):
    """A person's answer to one question of the queue."""

    id: Name = Field(description="of the question, as it stands in questions.jsonl")
    label: float | None = Field(ge=0, le=1, description="preference for first over second; null: skipped")
    by: str = Field(default="", max_length=256, description="who says so")


class FeedbackRequest(_Strict):
    """Answers to questions of the queue."""

    labels: list[Feedback] = Field(min_length=1, max_length=4096)


class FeedbackResponse(BaseModel):
    """How many answers were written down."""

    taken: int


class Health(BaseModel):
    """Whether responses are scored."""

    status: str
    version: int


class Fault(BaseModel):
    """Why a request was refused, in one line."""

    error: str


def plain(message: Any) -> Text:
    """Return a text, or messages as plain values."""
    return message if isinstance(message, str) else [said.model_dump(exclude_unset=True) for said in message]


__all__ = [
    "Fault", "Feedback", "FeedbackRequest", "FeedbackResponse", "GroupRequest", "Health", "MemberRequest",
    "OpenRLHFRequest", "OpenRLHFResponse", "Paid", "ScoreResponse", "plain",
]  # fmt: skip

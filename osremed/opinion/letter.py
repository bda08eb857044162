"""What is sent to a model: all that `endpoint` needs to know."""

from __future__ import annotations

from osremed.core.record import record
from osremed.opinion.inquiry import Inquiry
from osremed.opinion.policy import Policy


@record
class Letter:
    """`prompt` is one JSON value. Without `inquiry` the model has no tool at all."""

    policy: Policy
    key: str | None
    instructions: str
    prompt: str
    inquiry: Inquiry | None

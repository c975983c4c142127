"""What callers of a batch are told: of each request its answer, or what is wrong with it."""

from pydantic import BaseModel, ConfigDict, Field

from service.gateway.answer import Problem, Recommendation


class BatchResult(BaseModel):
    """One of both, the other is null."""

    model_config = ConfigDict(frozen=True)

    recommendation: Recommendation | None = None
    error: Problem | None = Field(
        None, description="Why this request was refused, with the status that it would have by itself."
    )


class RecommendationBatch(BaseModel):
    """The answers to a batch."""

    model_config = ConfigDict(frozen=True)

    results: tuple[BatchResult, ...] = Field(description="One for each request, in their order.")

"""What callers of a batch are told: of each request its answer, or what is wrong with it."""

from collections.abc import Iterable
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from service.errors import PadrecError
from service.gateway.answer import Recommendation
from service.gateway.problems import Problem, problem_of


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

    @classmethod
    def of(cls, answers: Iterable[Recommendation | PadrecError]) -> Self:
        """Told as results."""
        return cls(
            results=tuple(
                BatchResult(error=problem_of(answer))
                if isinstance(answer, PadrecError)
                else BatchResult(recommendation=answer)
                for answer in answers
            )
        )

"""How a list came about: what every round guessed, and what became of it."""

from collections.abc import Callable, Iterable

from service.gateway.answer import ExplainedRound, ExplainedToken, Explanation
from service.types import DecodedList, Item, TracedToken


def explanation_of(written: DecodedList, item: Callable[[int], Item], num_levels: int) -> Explanation:
    """What there is to say of a list whose rounds were traced.

    Args:
        written: the list.
        item: by row.
        num_levels: codes of a semantic ID.
    """
    tokens = [token for tokens in written.rounds for token in tokens]
    guesses = [token for token in tokens if token.is_drafted and not token.is_forced]
    return Explanation(
        rounds=tuple(
            ExplainedRound(tokens=tuple(_explained(token, item) for token in tokens))
            for tokens in written.rounds
        ),
        accepted_tokens=sum(token.is_accepted for token in guesses),
        rejected_tokens=sum(not token.is_accepted for token in guesses),
        forced_tokens=sum(token.is_forced for token in tokens if token.is_accepted),
        candidates_per_slot=_by_slot(guesses, num_levels),
        accepted_per_slot=_by_slot((token for token in guesses if token.is_accepted), num_levels),
    )


def _explained(token: TracedToken, item: Callable[[int], Item]) -> ExplainedToken:
    completes = None if token.row is None else item(token.row)
    return ExplainedToken(
        slot=token.slot,
        code=token.code,
        parent=token.parent,
        drafted=token.is_drafted,
        forced=token.is_forced,
        accepted=token.is_accepted,
        item_id=completes and completes.item_id,
        title=completes and completes.title,
    )


def _by_slot(tokens: Iterable[TracedToken], num_levels: int) -> tuple[int, ...]:
    counts = [0] * num_levels
    for token in tokens:
        counts[token.slot] += 1
    return tuple(counts)

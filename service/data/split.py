"""Leave-one-out: the split that the literature uses."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from service.data.dataset import Interactions

Split = Literal["valid", "test"]
MIN_HISTORY = 3


class Case(NamedTuple):
    """One question with its known answer.

    Attributes:
        user: index of the user in the interactions.
        history: int32 [length], at least one item, oldest first; a view.
        target: the item that followed.
    """

    user: int
    history: npt.NDArray[np.int32]
    target: int


class LeaveOneOut:
    """A user's last item is the test target, the one before it the validation target, what is earlier trains.

    Users with fewer than `MIN_HISTORY` interactions are in `train` alone, whole.

    Attributes:
        train: the same users in the same order, their last two items left out.
    """

    def __init__(self, interactions: Interactions) -> None:
        self._all = interactions
        lengths = np.diff(interactions.offsets)
        self._users = np.flatnonzero(lengths >= MIN_HISTORY)
        kept = np.where(lengths >= MIN_HISTORY, lengths - 2, lengths)
        is_kept = np.ones(len(interactions.items), dtype=bool)
        ends = interactions.offsets[1:][self._users]
        is_kept[ends - 1] = is_kept[ends - 2] = False
        self.train = Interactions(
            interactions.user_ids, np.append(0, np.cumsum(kept)), interactions.items[is_kept]
        )

    def cases(self, split: Split) -> list[Case]:
        """A case for each user with at least `MIN_HISTORY` interactions; all before the target is history."""
        left_out = 1 if split == "test" else 2
        cases = []
        for user in self._users.tolist():
            items = self._all.history(user)
            cases.append(Case(user, items[:-left_out], int(items[-left_out])))
        return cases

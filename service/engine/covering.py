"""Few shapes into which nearly all passes of a service fit, to be made ready before the first caller comes.

A graph that is captured under a caller's deadline makes all lists in flight wait, and a worker that has just started,
or meets more load than ever before, would capture many at once.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from service.engine.beam import NUM_BEAMS
from service.engine.shapes import PrefillShape, RoundShape, Shapes, is_near, is_near_for_draft
from service.engine.states import Widths
from service.engine.tree import TreeShape


def groups(most: int) -> Iterator[tuple[int, int]]:
    """Ranges of row counts, largest first; a pass of as many rows as one holds is computed with its most.

    Yields:
        The least and the most of each.
    """
    while most:
        fewer = 1 << (most - 1).bit_length() - 1 if most > 1 else 0
        yield fewer + 1, most
        most = fewer


def rounds_of_service(
    shapes: Shapes,
    likely: Callable[[int], Collection[TreeShape | None]],
    max_batch: int,
    longest: int,
    widths: Widths,
) -> Iterator[RoundShape]:
    """Of rounds of up to `max_batch` lists, none sampled or explained, with the trees that are likely for so many.

    Some have fewer places, as most lists are shorter than they might be. Some are there for their kernels alone, which
    are compiled for a tree's passes, fewer where lists need fewer items: larger rounds have room for these, but one
    that is met often gets a graph of its own in service, and what is compiled then takes longer than many rounds.

    Arguments as in `covering_rounds`.
    """
    trees = {most: likely(most) for _, most in groups(max_batch)}
    may_pause = any(None in of_group for of_group in trees.values())
    for least, most in groups(max_batch):
        for tree in trees[most]:
            covering = list(covering_rounds(shapes, tree, least, most, longest, widths, may_pause=may_pause))
            yield from covering
            smallest = covering[-1]
            for _, places in groups(smallest.draft_places):
                if shapes.places <= places < smallest.draft_places:
                    yield replace(smallest, longest=min(places, smallest.longest), draft_places=places)
            # However many rows there are, kernels for fewer passes are the same; a list alone may have any tree.
            if most == 1 and tree is not None:
                for wanted in range(1, min(tree.num_passes, widths.items)):
                    yield replace(smallest, wanted=wanted)


def prefills_of_service(shapes: Shapes, most_incoming: int, longest: int) -> Iterator[PrefillShape]:
    """Of prefills of up to so many prompts, none sampled, for lists and beams of usual length.

    Arguments as in `covering_prefills`.
    """
    for least, most in groups(most_incoming):
        for num_beams in (0, NUM_BEAMS):
            yield from covering_prefills(shapes, least, most, longest, num_beams)


def covering_rounds(
    shapes: Shapes,
    tree: TreeShape | None,
    least: int,
    most: int,
    longest: int,
    widths: Widths,
    *,
    may_pause: bool,
) -> Iterator[RoundShape]:
    """Of rounds with this tree, for `least` to `most` lists of which none is sampled or explained, the largest first.

    Args:
        shapes: what sizes are rounded up to, which are few.
        tree: what is guessed; None: nothing.
        least: a group's, likewise `most`.
        most: lists.
        longest: tokens of a list, its prompt included.
        widths: how much room a list has.
        may_pause: whether lists may have been written without guesses before, and so be new to the draft whole.
    """
    guesses = 0 if tree is None else tree.share or tree.num_places
    places, draft_places = shapes.largest(longest, widths)
    for num_tokens in _sizes(
        shapes.tokens_for, is_near, least * (1 + guesses), most * (widths.pending + guesses)
    ):
        news = [0]
        if tree is not None:
            # New are what was pending before the latest round, its guesses, an item of each pass, and what is pending.
            lists = min(most, num_tokens // (1 + guesses))
            of_list = (2 + tree.num_passes) * widths.pending
            if may_pause:
                of_list = max(of_list, widths.tokens + widths.pending)
            news = list(_sizes(shapes.news_for, is_near_for_draft, least, lists * of_list))
        for num_news in news:
            yield RoundShape(
                batch=most,
                num_tokens=num_tokens,
                news=num_news,
                longest=places,
                draft_places=draft_places,
                tree=tree,
                wanted=widths.items,
                is_sampled=False,
            )


def covering_prefills(
    shapes: Shapes, least: int, most: int, longest: int, num_beams: int
) -> Iterator[PrefillShape]:
    """Of prefills of `least` to `most` prompts of which none is sampled, the largest first.

    Args:
        shapes: what sizes are rounded up to, which are few.
        least: a group's, likewise `most`.
        most: prompts.
        longest: tokens of a prompt.
        num_beams: of a search for each prompt's next item; 0: lists begin.
    """
    for num_tokens in _sizes(shapes.tokens_for, is_near, least, shapes.most_prompt_tokens(longest, most)):
        yield PrefillShape(
            batch=most,
            num_tokens=num_tokens,
            most=min(num_tokens, shapes.tokens_for(longest)),
            num_places=shapes.places_for(longest),
            is_padded=shapes.pads,
            is_sampled=False,
            num_beams=num_beams,
        )


def _sizes(
    rounded: Callable[[int], int], near: Callable[[int, int], bool], least: int, most: int
) -> Iterator[int]:
    """Sizes to one of which each count from `least` to `most` is near, the largest first."""
    counts = [rounded(least)]
    while counts[-1] < rounded(most):
        counts.append(rounded(counts[-1] + 1))
    size = counts[-1]
    yield size
    for count in reversed(counts):
        if not near(size, count):
            size = count
            yield size

"""What guessing brings."""

from deploy.grafana.panels import Board, Drawing, Query, rate, ratio

_SPEC = "padrec_spec_decode"
_DRAFTS = f"{_SPEC}_num_drafts_total"
_GUESSED = f"{_SPEC}_num_draft_tokens_total"
_ACCEPTED = f"{_SPEC}_num_accepted_tokens_total"
_FORCED = "padrec_forced_tokens_total"

_TOKENS_FOR_A_PASS = (
    Drawing(
        "Accepted length without forced tokens",
        "Tokens that a pass with guesses commits for a list and that were a choice: the target's own and the "
        "accepted guesses. 1 means that guessing brings nothing.",
        "short",
        (Query(f"1 + {ratio(_ACCEPTED, _DRAFTS)}", "tokens"),),
    ),
    Drawing(
        "Accepted length with forced tokens",
        "The same with tokens that were the only one allowed. Right where every round guesses; where some do "
        "not, their forced tokens count here too.",
        "short",
        (Query(f"1 + ({rate(_ACCEPTED)} + {rate(_FORCED)}) / {rate(_DRAFTS)}", "tokens"),),
    ),
    Drawing(
        "Forced share",
        "Share of committed tokens that were the only one allowed and cost nobody a guess, as above right "
        "where every round guesses. It is the catalogue's: a step comes with a bundle or with filters.",
        "percentunit",
        (
            Query(
                f"{rate(_FORCED)} / ({rate(_FORCED)} + {rate(_ACCEPTED)} + {rate(_DRAFTS)})",
                "forced",
            ),
        ),
    ),
)

_ACCEPTANCE = (
    Drawing(
        "By position",
        "Share of rounds with guesses in which so many in a row were accepted, forced tokens not counted. The "
        "first position is what PadrecAcceptanceCollapsed watches.",
        "percentunit",
        (
            Query(
                f"{rate(f'{_SPEC}_num_accepted_tokens_per_pos_total', 'position')}"
                f" / on () group_left () {rate(_DRAFTS)}",
                "{{position}}",
            ),
        ),
    ),
    Drawing(
        "By slot",
        "Share of the accepted guesses by what they are in an item: its codes by level, last its separator.",
        "percentunit",
        (
            Query(
                f"{rate(f'{_SPEC}_num_accepted_tokens_per_slot_total', 'slot')}"
                f" / on () group_left () {rate(_ACCEPTED)}",
                "{{slot}}",
            ),
        ),
        kind="stacked",
    ),
    Drawing(
        "Of all guesses",
        "Share of the guessed tokens that were accepted. Wide trees check many guesses for one, so it falls "
        "where more is guessed; that alone is no fault.",
        "percentunit",
        (Query(ratio(_ACCEPTED, _GUESSED), "accepted"),),
    ),
)

_HOW_MUCH_IS_GUESSED = (
    Drawing(
        "Rounds by tree",
        "Rounds per second by the tree that was chosen at the load there is: none, or passes x width x places "
        "and, after a slash, its share of all places. At large batches trees become smaller.",
        "cps",
        (Query(rate(f"{_SPEC}_rounds_total", "tree"), "{{tree}}"),),
        kind="stacked",
    ),
    Drawing(
        "Guesses in a round",
        "Guessed tokens that a round checks for a list.",
        "short",
        (Query(ratio(_GUESSED, _DRAFTS), "guesses"),),
    ),
    Drawing(
        "Tokens",
        "Tokens per second of finished lists by how they came to be: passes with guesses, accepted guesses, "
        "forced.",
        "cps",
        (
            Query(rate(_DRAFTS), "the target's own"),
            Query(rate(_ACCEPTED), "accepted guesses"),
            Query(rate(_FORCED), "forced"),
        ),
        kind="stacked",
    ),
)

SPECULATION = Board(
    name="speculation",
    title="padrec: speculation",
    description="What the draft guesses, how much of it the target accepts, and what the trie gives for free.",
    found_by="padrec_queue_size",
    rows=(
        ("Tokens for a pass", _TOKENS_FOR_A_PASS),
        ("Acceptance", _ACCEPTANCE),
        ("How much is guessed", _HOW_MUCH_IS_GUESSED),
    ),
)

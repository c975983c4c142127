from service.types import DecodedList, SpeculationCounts


def test_accepted_lengths_are_per_round() -> None:
    decoded = DecodedList("r", (), False, 4, 9, 0.0, 0.0, num_round_tokens=18, num_round_forced_tokens=6)
    assert decoded.accepted_length == 4.5
    assert decoded.accepted_length_without_forced == 3.0


def test_a_list_that_the_prefill_decided_has_no_accepted_length() -> None:
    decoded = DecodedList("r", (), False, 0, 9, 0.0, 0.0)
    assert (decoded.accepted_length, decoded.accepted_length_without_forced) == (0.0, 0.0)
    assert decoded.speculation == SpeculationCounts()


def test_accepted_guesses_are_summed() -> None:
    assert SpeculationCounts(accepted_per_position=(3, 2), accepted_per_slot=(1, 4)).num_accepted_tokens == 5
    assert SpeculationCounts().num_accepted_tokens == 0

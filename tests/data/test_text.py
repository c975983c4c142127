import pytest

from service.data.text import plain_text


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("  Mug,\n blue ", "Mug, blue"),
        ("Salt &amp; Pepper <b>Mills</b><br/>", "Salt & Pepper Mills"),
        ("5&amp;quot; ruler, 1amp;quot; thick", '5" ruler, 1" thick'),
        ("['One.', 'Two.']", "One. Two."),
        ("[\"Don't.\", 'Stop.']", "Don't. Stop."),
        ("['', '']", ""),
        ("['One.', 'Tw", "One. Tw"),
        ("['Line\\none', \"It\\'s", "Line one It's"),
        ("['not a list' 3]", "not a list' 3]"),
        ("[sic] a < b", "[sic] a < b"),
        ("Cup \ud800 \U0001f600", "Cup \ufffd \U0001f600"),
        ("['a\\ud800']", "a\ufffd"),
        ("", ""),
    ],
)
def test_plain_text(written: str, plain: str) -> None:
    assert plain_text(written) == plain

"""Plain text out of what shops and crawlers write."""

import ast
import html
import re

_TAG = re.compile(r"<[a-zA-Z/!][^>]*>")
_DOUBLE_ESCAPE = re.compile(r"&?amp;(?=#?\w+;)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BETWEEN_STRINGS = re.compile(r"""['"], ?['"]""")


def plain_text(value: str) -> str:
    """Text without tags, entities, runs of white space or the brackets of a list written as a string.

    Such a list may be cut short: `"['First line.', 'Second li"` becomes `First line. Second li`.
    """
    if value.startswith(("['", '["')):
        value = _join_list(value)
    text = html.unescape(_DOUBLE_ESCAPE.sub("&", value))
    return " ".join(_TAG.sub(" ", whole(text)).split())


def whole(text: str) -> str:
    """Text with U+FFFD for each lone surrogate: JSON can spell such half characters, UTF-8 cannot hold them."""
    return _SURROGATE.sub("\ufffd", text)


def _join_list(value: str) -> str:
    if value.endswith("]"):
        try:
            return " ".join(str(part) for part in ast.literal_eval(value))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    text = _BETWEEN_STRINGS.sub(" ", value[2:])
    text = re.sub(r"""['"]\]?$""", "", text)
    return text.replace("\\n", " ").replace("\\t", " ").replace("\\'", "'").replace('\\"', '"')

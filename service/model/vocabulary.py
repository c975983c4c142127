"""The target's vocabulary: a tokenizer that names every code token, so that any tool can read the model.

A target that padrec trains carries a word-level tokenizer with the tokens `<pad> <bos> <list> <sep>` and the code
tokens `<a_0> <a_1> ...`, or `<code_0> <code_1> ...` where all levels share them. One that a team brings carries its
own; all that is asked of it is that it holds the code tokens, each as one token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from service.catalog.layout import TokenLayout, code_token_names, shared_code_token_names
from service.errors import InputError, first_line

PAD, BOS, LIST, SEPARATOR = "<pad>", "<bos>", "<list>", "<sep>"
SPECIALS = (PAD, BOS, LIST, SEPARATOR)


@dataclass(frozen=True, slots=True)
class PromptText:
    """The text around and between the items of a history, for a target that was trained on such prompts.

    Attributes:
        before: the first item.
        between: two items.
        after: the last item; what follows is what the target was trained to write.
    """

    before: str
    between: str
    after: str

    @classmethod
    def of(cls, template: str, between: str) -> "PromptText":
        """Of a text with `{history}` where the items are.

        Raises:
            InputError: it has none, or more.
        """
        parts = template.split("{history}")
        if len(parts) != 2:
            raise InputError("a prompt holds {history} once, where the items are")
        return cls(parts[0], between, parts[1])


def build_tokenizer(code_sizes: Sequence[int], *, shared: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer for `code_sizes[l]` codes at each level l, the same at all where `shared`; specials come first."""
    by_level = shared_code_token_names(code_sizes) if shared else code_token_names(code_sizes)
    names = list(dict.fromkeys([*SPECIALS, *(name for level in by_level for name in level)]))
    tokenizer = Tokenizer(WordLevel({name: index for index, name in enumerate(names)}, unk_token=PAD))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS)


def layout_of(
    tokenizer: PreTrainedTokenizerFast, code_sizes: Sequence[int], prompt: PromptText | None = None
) -> TokenLayout:
    """Where a vocabulary keeps the code tokens, and how it marks the parts of a prompt.

    Code tokens are `<a_0>`, `<b_0>`, ... or, where there are none of these, `<code_0>`, ... for all levels. The
    separator is `<sep>`, else the end-of-sequence token; the prompt begins with the beginning-of-sequence token where
    there is one; the list is announced by `<list>` where there is one. With a `prompt` there is its text instead.

    Raises:
        InputError: a code token is missing, nothing can serve as separator, or the prompt has no tokens.
    """
    vocabulary = tokenizer.get_vocab()
    code_tokens = []
    by_level = code_token_names(code_sizes)
    shared = shared_code_token_names(code_sizes)
    if by_level[0][0] not in vocabulary and shared[0][0] in vocabulary:
        by_level = shared
    for level in by_level:
        for name in level:
            if name not in vocabulary:
                raise InputError(f"the target's vocabulary does not hold the code token {name}")
        code_tokens.append(tuple(vocabulary[name] for name in level))
    separator = vocabulary.get(SEPARATOR, tokenizer.eos_token_id)
    if separator is None:
        raise InputError(f"the target's vocabulary holds neither {SEPARATOR} nor an end-of-sequence token")
    bos = vocabulary.get(BOS, tokenizer.bos_token_id)
    prefix = () if bos is None else (bos,)
    if prompt is None:
        list_start = (vocabulary[LIST],) if LIST in vocabulary else ()
        return TokenLayout(prefix, list_start, separator, tuple(code_tokens))
    before, between, after = (
        _tokens_of(text, tokenizer) for text in (prompt.before, prompt.between, prompt.after)
    )
    return TokenLayout(prefix + before, after, separator, tuple(code_tokens), between)


def _unknown_token(tokenizer: PreTrainedTokenizerFast) -> str:
    """What the vocabulary writes for a word that it does not hold, whether or not the tokenizer says so."""
    return getattr(tokenizer.backend_tokenizer.model, "unk_token", None) or ""


def _tokens_of(text: str, tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    try:
        tokens = tuple(tokenizer.encode(text, add_special_tokens=False))
    except Exception:  # whatever a foreign tokenizer makes of words that it does not know
        tokens = ()
    unknown = {tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids(_unknown_token(tokenizer))} - {None}
    if text and (not tokens or unknown & set(tokens)):
        raise InputError(f"the target's tokenizer makes nothing of '{text}'")
    return tokens


def read_layout(target: Path, code_sizes: Sequence[int], prompt: PromptText | None = None) -> TokenLayout:
    """`layout_of` the tokenizer in a transformers checkpoint.

    Raises:
        InputError: as `layout_of`, or there is no tokenizer that can be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(target, local_files_only=True)
    except Exception as error:  # whatever a foreign tokenizer makes of transformers
        raise InputError(f"target {target}: its tokenizer cannot be read: {first_line(error)}") from error
    return layout_of(tokenizer, code_sizes, prompt)


def check_layout(layout: TokenLayout, vocabulary_size: int) -> None:
    """Check that a target has an embedding for every token of a layout.

    Raises:
        InputError: a token lies outside the target's vocabulary.
    """
    codes = [token for tokens in layout.code_tokens for token in tokens]
    highest = max([*layout.prefix, *layout.list_start, *(layout.between or ()), layout.separator, *codes])
    if highest >= vocabulary_size:
        raise InputError(
            f"token {highest} is outside the target's vocabulary of {vocabulary_size}; "
            "was its embedding resized when the code tokens were added?"
        )

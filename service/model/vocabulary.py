"""The target's vocabulary: a tokenizer that names every code token, so that any tool can read the model.

A target that padrec trains carries a word-level tokenizer with the tokens `<pad> <bos> <list> <sep>` and the code
tokens `<a_0> <a_1> ...`, or `<code_0> <code_1> ...` where all levels share them. One that a team brings carries its
own; all that is asked of it is that it holds the code tokens, each as one token.
"""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from service.catalog.layout import TokenLayout, code_token_names, shared_code_token_names
from service.errors import InputError, first_line

PAD, BOS, LIST, SEPARATOR = "<pad>", "<bos>", "<list>", "<sep>"
SPECIALS = (PAD, BOS, LIST, SEPARATOR)


def build_tokenizer(code_sizes: Sequence[int], *, shared: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer for `code_sizes[l]` codes at each level l, the same at all where `shared`; specials come first."""
    by_level = shared_code_token_names(code_sizes) if shared else code_token_names(code_sizes)
    names = list(dict.fromkeys([*SPECIALS, *(name for level in by_level for name in level)]))
    tokenizer = Tokenizer(WordLevel({name: index for index, name in enumerate(names)}, unk_token=PAD))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS)


def layout_of(tokenizer: PreTrainedTokenizerFast, code_sizes: Sequence[int]) -> TokenLayout:
    """Where a vocabulary keeps the code tokens, and how it marks the parts of a prompt.

    Code tokens are `<a_0>`, `<b_0>`, ... or, where there are none of these, `<code_0>`, ... for all levels. The
    separator is `<sep>`, else the end-of-sequence token; the prompt begins with the beginning-of-sequence token where
    there is one; the list is announced by `<list>` where there is one.

    Raises:
        InputError: a code token is missing, or nothing can serve as separator.
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
    return TokenLayout(
        prefix=() if bos is None else (bos,),
        list_start=(vocabulary[LIST],) if LIST in vocabulary else (),
        separator=separator,
        code_tokens=tuple(code_tokens),
    )


def read_layout(target: Path, code_sizes: Sequence[int]) -> TokenLayout:
    """`layout_of` the tokenizer in a transformers checkpoint.

    Raises:
        InputError: as `layout_of`, or there is no tokenizer that can be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(target, local_files_only=True)
    except Exception as error:  # whatever a foreign tokenizer makes of transformers
        raise InputError(f"target {target}: its tokenizer cannot be read: {first_line(error)}") from error
    return layout_of(tokenizer, code_sizes)


def check_layout(layout: TokenLayout, vocabulary_size: int) -> None:
    """Check that a target has an embedding for every token of a layout.

    Raises:
        InputError: a token lies outside the target's vocabulary.
    """
    codes = [token for tokens in layout.code_tokens for token in tokens]
    highest = max([*layout.prefix, *layout.list_start, layout.separator, *codes])
    if highest >= vocabulary_size:
        raise InputError(
            f"token {highest} is outside the target's vocabulary of {vocabulary_size}; "
            "was its embedding resized when the code tokens were added?"
        )

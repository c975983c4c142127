from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from service.errors import InputError
from service.model.vocabulary import PromptText, build_tokenizer, layout_of, read_layout


def foreign_tokenizer(*names: str, **specials: str) -> PreTrainedTokenizerFast:
    vocabulary = {name: index for index, name in enumerate(names)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary)), **specials)


def test_our_own_vocabulary_survives_a_checkpoint(tmp_path: Path) -> None:
    tokenizer = build_tokenizer((2, 3))
    tokenizer.save_pretrained(tmp_path)
    layout = read_layout(tmp_path, (2, 3))
    assert layout == layout_of(tokenizer, (2, 3))
    assert layout.code_tokens == ((4, 5), (6, 7, 8))
    assert (layout.prefix, layout.list_start, layout.separator) == ((1,), (2,), 3)
    text = "<bos> <a_1> <b_2> <sep> <list>"
    assert tokenizer.encode(text, add_special_tokens=False) == [1, 5, 8, 3, 2]


def test_levels_may_share_their_code_tokens(tmp_path: Path) -> None:
    build_tokenizer((2, 3), shared=True).save_pretrained(tmp_path)
    layout = read_layout(tmp_path, (2, 3))
    assert layout.code_tokens == ((4, 5), (4, 5, 6))


def test_a_foreign_vocabulary_needs_no_more_than_the_code_tokens_and_an_end() -> None:
    layout = layout_of(foreign_tokenizer("hello", "<b_0>", "</s>", "<a_0>", eos_token="</s>"), (1, 1))
    assert layout.code_tokens == ((3,), (1,))
    assert (layout.prefix, layout.list_start, layout.separator) == ((), (), 2)


def test_a_prompt_has_its_text_around_and_between_items() -> None:
    tokenizer = foreign_tokenizer("next", "<b_0>", "</s>", "<a_0>", "and", "after", eos_token="</s>")
    layout = layout_of(tokenizer, (1, 1), PromptText.of("after{history}next", "and"))
    assert (layout.prefix, layout.between, layout.list_start) == ((5,), (4,), (0,))
    own = build_tokenizer((1, 1))
    with pytest.raises(InputError, match="makes nothing of 'A user bought '"):
        layout_of(own, (1, 1), PromptText.of("A user bought {history}", "<sep>"))
    with pytest.raises(InputError, match="makes nothing of 'unheard'"):
        layout_of(tokenizer, (1, 1), PromptText.of("unheard{history}", "and"))
    for template in ("after", "{history} and {history}"):
        with pytest.raises(InputError, match="once, where"):
            PromptText.of(template, "and")


def test_what_a_vocabulary_lacks_is_named() -> None:
    with pytest.raises(InputError, match="<a_1>"):
        layout_of(foreign_tokenizer("<a_0>", "</s>", eos_token="</s>"), (2,))
    with pytest.raises(InputError, match="<sep>"):
        layout_of(foreign_tokenizer("<a_0>"), (1,))


def test_a_checkpoint_without_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="tokenizer cannot be read"):
        read_layout(tmp_path, (2,))

"""A target of a text model's vocabulary: LLaMA's tokens and embeddings, code tokens added as `transformers` adds them.

    pip install --no-deps wordllama
    python docs/benchmarks/text_vocabulary.py DATASET OUT [--steps 600] [--text-tokens 8000] [--seed 0]

Embeddings are WordLlama's (MIT licence), LLaMA's cut down to 256 dimensions, which come with the package; the layers
above them are new, `tiny`'s but as wide as that. The code tokens begin at the mean of the text's embeddings, so that
nothing tells them, or their slots, apart until training does. For `padrec bundle build DATASET --target OUT`.
"""

import argparse
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from service.catalog.layout import code_token_names
from service.data.dataset import Dataset
from service.model.presets import preset_named
from service.model.vocabulary import layout_of
from service.prepared import Prepared, build_catalogue
from service.training.item_ids import given_semantic_ids
from service.training.lists import ListSampler
from service.training.target import train_target
from service.training.teacher import ItemKnn

STANDARD_DEVIATION = 0.02  # of a Llama's embeddings, which these were not scaled as


def text_model(num_tokens: int, seed: int) -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM]:
    """The first tokens of LLaMA's vocabulary, those that were merged first, and a model that begins with them."""
    spec = find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps wordllama")
    folder = Path(spec.origin).parent
    full = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    vocabulary = {token: index for token, index in full.get_vocab().items() if index < num_tokens}
    kept = Tokenizer(BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=kept, bos_token="<s>", eos_token="</s>")
    embeddings = load_file(folder / "weights" / "l2_supercat_256.safetensors")["embedding.weight"][
        :num_tokens
    ].float()
    shape = preset_named("tiny").shape | {
        "hidden_size": embeddings.shape[1],
        "intermediate_size": 3 * embeddings.shape[1],
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=num_tokens, tie_word_embeddings=True, max_position_embeddings=512, **shape)
    )
    model.get_input_embeddings().weight.data.copy_(embeddings * (STANDARD_DEVIATION / embeddings.std()))
    return tokenizer, model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--text-tokens", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    dataset, preset = Dataset.open(args.dataset), preset_named("tiny")
    ids = given_semantic_ids(dataset)
    if ids is None:
        raise SystemExit(f"{args.dataset}: its items have no semantic IDs")
    prepared = Prepared.of(dataset, build_catalogue(dataset, ids))
    tokenizer, model = text_model(args.text_tokens, args.seed)
    tokenizer.add_tokens([name for level in code_token_names(ids.sizes) for name in level])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    recipe = replace(preset.training, steps=args.steps, validate_every=args.steps)
    sampler = ListSampler(
        prepared.split.train,
        prepared.catalogue.codes,
        layout_of(tokenizer, ids.sizes),
        ItemKnn(prepared.split.train, len(prepared.catalogue), device=model.device),
        device=model.device,
        max_history_items=preset.max_history_items,
        list_items=preset.list_items,
        temperature=recipe.temperature,
        history_dropout=recipe.history_dropout,
        history_loss=recipe.history_loss,
        seed=args.seed,
    )
    with tempfile.TemporaryDirectory() as work:
        train_target(
            model,
            sampler,
            recipe,
            work=Path(work),
            fingerprint="",
            validate=lambda _: {"none": 0.0},
            metric="none",
            on_progress=lambda at: print(f"\r{at.step}/{at.steps} loss {at.loss:.3f}", end="", flush=True),
        )
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()

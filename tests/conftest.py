"""What tests of several packages need: small bundles with and without a target, and the command."""

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import structlog

# For this process, before it imports torch, and for its children: on a busy machine two threads of one small pass wait
# for each other, and it takes up to 90 times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Likewise before anything imports Triton: where there is no GPU its interpreter runs the kernels.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell's background processes ignore Ctrl-C, and so would those that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from service.catalog.bundle import ITEMS, POPULAR, DecodingDefaults, seal
from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.cli import main
from service.files import write_json
from tests.certificates import Certificates, make_certificates

MakeBundle = Callable[..., Path]


@pytest.fixture
def make_bundle() -> MakeBundle:
    """Writes a bundle without a target.

    Items are `item-0` ... with titles `Item 0` ..., a price and a brand (missing for every third), codes of a
    mixed base, and the popular list in the order of their numbers.
    """

    def make(folder: Path, num_items: int = 20, levels: tuple[int, ...] = (4, 4, 4), **decoding: int) -> Path:
        bundle = folder / "bundle"
        bundle.mkdir()
        numbers = np.arange(num_items)
        names = [f"item-{number}" for number in numbers]
        attributes = pa.array(
            [
                {"price": float(number), "brand": None if number % 3 == 0 else f"Brand {number % 3}"}
                for number in numbers
            ]
        )
        Catalogue.build(
            names,
            np.stack(np.unravel_index(numbers % np.prod(levels), levels), axis=1),
            [f"Item {number}" for number in numbers],
            attributes,
        ).write(bundle / ITEMS)
        write_json(bundle / POPULAR, names)
        begin = np.cumsum([3, *levels])
        layout = TokenLayout(
            prefix=(0,),
            list_start=(1,),
            separator=2,
            code_tokens=tuple(tuple(range(b, b + n)) for b, n in zip(begin, levels, strict=False)),
        )
        defaults = DecodingDefaults(**{"max_history_items": 8, "max_num_items": 50} | decoding)
        seal(bundle, num_items=num_items, layout=layout, decoding=defaults, training={})
        return bundle

    return make


Done = "subprocess.CompletedProcess[str]"
Padrec = Callable[..., Done]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def padrec() -> Padrec:
    """In this process: the libraries are loaded once."""

    def run(*args: object) -> Done:
        argv = ["padrec", *map(str, args)]
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setattr(sys, "argv", argv)
            try:
                main()
                code = 0
            except SystemExit as end:
                code = end.code or 0
        return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def padrec_process() -> Padrec:
    """As a process of its own, for commands that serve."""

    def run(*args: object, **options) -> Done:
        command = [sys.executable, "-m", "service.cli", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, **options)

    return run


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of the public repositories: 60 items on two levels, 40 users who walk along them."""
    folder = tmp_path_factory.mktemp("source")
    semantic_ids = {str(item): [f"<a_{item // 8}>", f"<b_{item % 8}>"] for item in range(60)}
    interactions = {str(user): [(user * 3 + step) % 60 for step in range(5 + user % 4)] for user in range(40)}
    (folder / "semantic_ids.json").write_text(json.dumps(semantic_ids))
    (folder / "interactions.json").write_text(json.dumps(interactions))
    items = [
        {"item_id": str(item), "price": item % 20, "category": ["pens", "paper"][: item % 3]}
        for item in range(60)
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    return folder


@pytest.fixture(scope="session")
def dataset(source: Path, padrec: Padrec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dataset") / "shop"
    done = padrec("data", "import", "semantic-id-json", source, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "40 users, 60 items" in done.stdout
    return out


@pytest.fixture(scope="session")
def bundle(dataset: Path, padrec: Padrec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "tiny"
    done = padrec("bundle", "build", dataset, "--preset", "tiny", "--steps", "6", "--out", out)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.parent.iterdir()) == ["tiny"]
    return out


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[..., Path]:
    """Writes a foreign target: its vocabulary holds the code tokens somewhere among others, and no token of ours."""
    import torch
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    families = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}

    def write(folder: Path, family: str, positions: int = 512, code_levels: tuple[int, ...] = (8, 8)) -> Path:
        names = [f"word-{number}" for number in range(100)] + ["</s>"]
        names += [f"<{'ab'[level]}_{code}>" for level, size in enumerate(code_levels) for code in range(size)]
        order = np.random.default_rng(0).permutation(len(names))
        vocabulary = {names[place]: index for index, place in enumerate(order.tolist())}
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="word-0")), eos_token="</s>"
        )
        config = getattr(transformers, f"{families[family]}Config")(
            vocab_size=len(names),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=positions,
        )
        torch.manual_seed(0)
        getattr(transformers, f"{families[family]}ForCausalLM")(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return write


@pytest.fixture
def unchanged_logging() -> Iterator[None]:
    """What the test configures is undone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()

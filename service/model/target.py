"""The target: the causal language model whose lists we serve, through the `transformers` model classes."""

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from service.errors import InputError, first_line
from service.files import digest_of, sha256_of
from service.model.presets import Preset

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def build_target(preset: Preset, vocabulary_size: int, max_positions: int, seed: int) -> PreTrainedModel:
    """A fresh Llama of the preset's shape, in float32, its weights drawn from `seed`."""
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
        attention_bias=False,
        **preset.shape,
    )
    transformers_logging.disable_progress_bar()
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def load_target(path: Path, *, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Load a checkpoint of a supported family, from safetensors alone, for inference.

    Raises:
        InputError: no checkpoint is there, it cannot be read, or it is of another family.
    """
    transformers_logging.disable_progress_bar()
    config = read_config(path)
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            device_map=device,  # file by file, without a whole copy on the host
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever a foreign checkpoint makes of transformers
        raise InputError(f"target {path}: {first_line(error)}") from error
    # transformers fills what is missing with random numbers.
    missing = [*loading["missing_keys"], *loading["mismatched_keys"]]
    if missing:
        raise InputError(
            f"target {path}: its weights lack {sorted(map(str, missing))[0]}, or have it in another shape"
        )
    return model.eval().requires_grad_(False)


def read_config(path: Path) -> PretrainedConfig:
    """The configuration of a checkpoint of a supported family.

    Raises:
        InputError: it is missing, cannot be read, or is of another family.
    """
    if not (path / "config.json").is_file():
        raise InputError(f"target {path}: config.json is missing")
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    except Exception as error:  # whatever a foreign configuration makes of transformers
        raise InputError(f"target {path}: config.json cannot be read: {first_line(error)}") from error
    if config.model_type not in FAMILIES:
        raise InputError(f"target {path}: family '{config.model_type}' is not one of {', '.join(FAMILIES)}")
    return config


def target_digest(path: Path) -> str:
    """Twelve hex digits that tell one target's weights from another's."""
    return digest_of({file.name: sha256_of(file) for file in path.glob("*.safetensors")})


def pick_device(name: str) -> torch.device:
    """`auto` takes the GPU where there is one; one of several GPUs becomes the calling thread's own.

    Raises:
        InputError: the name is no device, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device '{name}' is not one of auto, cpu, cuda, cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device '{name}': this machine has no usable CUDA device")
    if device.type == "cuda" and device.index is not None:
        if device.index >= torch.cuda.device_count():
            raise InputError(f"device '{name}': this machine has {torch.cuda.device_count()}, from cuda:0 on")
        # Triton starts kernels there, wherever the tensors are.
        torch.cuda.set_device(device)
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype

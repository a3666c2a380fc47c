"""The language model: a new byte-level Llama, or one from a folder, transformed or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantsim.errors import ConfigurationError
from quantsim.experiments.llm.bytes_data import Encoder, byte_encoder
from quantsim.experiments.transformed_model import TransformRecord, is_transformed, load_transformed, read_transform

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ByteLlamaSize", "LoadedLanguageModel", "load_language_model", "new_byte_llama"]

_BYTES: Final = 256
_INITIAL_SPREAD: Final = 0.06
"""Standard deviation of new weights: transformers' 0.02 is for wider layers; narrow ones learn faster from this."""
_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


@dataclass(frozen=True, kw_only=True)
class ByteLlamaSize:
    """Sizes of a byte-level Llama; the defaults make 1.35 M parameters.

    Attributes:
        hidden_size: Width.
        layers: Number of layers.
        heads: Attention heads; the width is a multiple of them.
        intermediate_size: Width inside the feed-forward part.
        positions: Longest text in bytes.
    """

    hidden_size: int = 160
    layers: int = 4
    heads: int = 5
    intermediate_size: int = 448
    positions: int = 512


@dataclass(frozen=True)
class LoadedLanguageModel:
    """A model, how to feed it, and what was done to it.

    Attributes:
        model: A causal language model.
        encode: Makes its tokens of text.
        record: The transform that it was saved with; None: none.
        tokenizer: To be saved with the model; None where tokens are bytes.
    """

    model: PreTrainedModel
    encode: Encoder
    record: TransformRecord | None = None
    tokenizer: Any = None


def new_byte_llama(size: ByteLlamaSize | None = None) -> PreTrainedModel:
    """Makes a Llama over the 256 bytes with random weights (from torch's global generator, as transformers does).

    Args:
        size: Its sizes.

    Raises:
        ConfigurationError: The heads do not divide the width into even parts.

    Example:
        >>> model = new_byte_llama()
        >>> sum(parameter.numel() for parameter in model.parameters())
        1353120
    """
    size = ByteLlamaSize() if size is None else size
    if size.heads < 1 or size.hidden_size % (2 * size.heads):
        raise ConfigurationError(
            "the width cannot be shared among the heads",
            where="hidden_size, heads",
            got=f"{size.hidden_size}, {size.heads}",
            expected="a width that is a multiple of twice the heads (rotary embedding turns pairs)",
        )
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=_BYTES,
            hidden_size=size.hidden_size,
            intermediate_size=size.intermediate_size,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            max_position_embeddings=size.positions,
            initializer_range=_INITIAL_SPREAD,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )


def load_language_model(source: str) -> LoadedLanguageModel:
    """Loads a causal language model with its tokenizer; one without a tokenizer and with 256 tokens reads bytes.

    Args:
        source: A folder, which may hold a transformed model, or a name that transformers knows.

    Raises:
        ConfigurationError: There is no such model, or it has neither a tokenizer nor 256 tokens.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(source)
    if folder.exists() and not (folder / "config.json").is_file():
        raise ConfigurationError(
            "the folder holds no model", where="--model_name_or_path", got=source, expected="a folder with config.json"
        )
    record = None
    if is_transformed(folder):
        record, model = read_transform(folder), load_transformed(folder, AutoModelForCausalLM, use_cache=False)
    else:
        try:
            model = AutoModelForCausalLM.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                "the model cannot be loaded",
                where="--model_name_or_path",
                got=f"{source}: {' '.join(str(error).split())[:300]}",
                expected="a folder of a causal language model, or a name on the hub with a network",
            ) from None
        model.config.use_cache = False  # blocks are read whole
    if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        if model.config.vocab_size != _BYTES:
            raise ConfigurationError(
                "the model has no tokenizer",
                where="--model_name_or_path",
                got=f"{source} with {model.config.vocab_size} tokens",
                expected=f"a tokenizer in the folder, or a model of {_BYTES} tokens, which are bytes then",
            )
        return LoadedLanguageModel(model, byte_encoder, record)
    tokenizer: Any = AutoTokenizer.from_pretrained(source)

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    return LoadedLanguageModel(model, encode, record, tokenizer)

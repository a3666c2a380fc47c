"""Simulations of Hugging Face models through ``from_pretrained``, and back into folders that it reads.

Importing this module tells transformers about quantsim:

    import quantsim.integrations.transformers
    from quantsim.integrations.transformers import QuantSimHfConfig, simulation_of

    model = AutoModel.from_pretrained(path, quantization_config=QuantSimHfConfig("w8a8"))
    simulation_of(model).compute_encodings(batches)
    model.save_pretrained(folder)
    model = AutoModel.from_pretrained(folder)  # calibrated

Without the import transformers loads a saved simulation as the float model, with no more than a line in its log.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.hub import cached_file
from transformers.utils.quantization_config import QuantizationConfigMixin

from quantsim.errors import ConfigurationError
from quantsim.export.checkpoint_manifest import ENCODINGS_FILE, MANIFEST_FILE, CheckpointManifest, plain_config
from quantsim.sim import QuantizationSimModel, SimulationConfig, load_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["METHOD", "QuantSimHfConfig", "QuantSimHfQuantizer", "example_inputs_of", "load_model", "simulation_of"]

METHOD: Final = "quantsim"
"""The name under which transformers knows quantsim (``quant_method`` in ``config.json``)."""

_NOTE: Final = "import quantsim.integrations.transformers before from_pretrained, else this loads as the float model"


class QuantSimHfConfig(QuantizationConfigMixin):
    """How ``from_pretrained`` is to simulate a model.

    Args:
        config: A preset's name, path of a JSON or YAML file, `SimulationConfig`, or plain data.
        preset: A preset's name, in place of ``config``.
        example_inputs: What to run the model on to find its functional operations, as `QuantizationSimModel` takes it.
            By default made from the model's own config (`example_inputs_of`). Not saved.
        attn_implementation: The attention that the simulation was made with; a saved one needs the same.
        note: For whoever reads the file.
        quant_method: Always ``"quantsim"``.

    Raises:
        ConfigurationError: Unknown preset, or wrong fields.

    Example:
        >>> QuantSimHfConfig("w8a8").to_dict()["config"]["name"]
        'w8a8'
    """

    def __init__(
        self,
        config: SimulationConfig | str | Path | Mapping[str, Any] = "w8a8",
        *,
        preset: str | None = None,
        example_inputs: object = None,
        attn_implementation: str | None = None,
        note: str = _NOTE,
        quant_method: str = METHOD,
    ) -> None:
        if quant_method != METHOD:
            raise ConfigurationError(
                "this is another quantization method",
                where="QuantSimHfConfig(quant_method)",
                got=repr(quant_method),
                expected=repr(METHOD),
                fix="leave it out",
            )
        self.quant_method: Any = METHOD  # transformers' own names are an enum, others' are text
        self.config = load_config(config if preset is None else preset)
        self.example_inputs = example_inputs
        self.attn_implementation = attn_implementation
        self.note = note

    def to_dict(self) -> dict[str, Any]:
        """What ``config.json`` says."""
        values: dict[str, Any] = {"quant_method": METHOD, "config": plain_config(self.config), "note": self.note}
        if self.attn_implementation is not None:
            values["attn_implementation"] = self.attn_implementation
        return values

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantSimHfConfig:
        """Copies; example inputs are shared."""
        memo[id(self)] = other = copy.copy(self)
        return other


class QuantSimHfQuantizer(HfQuantizer):
    """Simulates a model when its weights are loaded.

    Attributes:
        simulation: The simulation, once the model is loaded.
    """

    requires_calibration = False
    quantization_config: QuantSimHfConfig
    simulation: QuantizationSimModel | None = None

    def update_attn_implementation(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """A saved simulation names the operations of one implementation of attention: loads that."""
        wanted = self.quantization_config.attn_implementation
        if wanted is not None:
            config._attn_implementation = wanted
        return config

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        source = model.config.name_or_path or ""
        revision = getattr(model.config, "_commit_hash", None)
        manifest_path = _file(source, MANIFEST_FILE, revision)
        encodings_path = _file(source, ENCODINGS_FILE, revision)
        if self.pre_quantized:
            self.simulation = _restored(model, source, manifest_path)
        else:
            inputs = self.quantization_config.example_inputs
            self.simulation = QuantizationSimModel(
                model,
                example_inputs_of(model) if inputs is None else inputs,
                self.quantization_config.config,
                in_place=True,
            )
            if encodings_path is not None:
                self.simulation.load_encodings(encodings_path)
        model.__dict__["save_pretrained"] = _SaveSimulation(self.simulation)
        return model

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> Any:  # as the base does not say
        """The float model's state: quantizers are in the encodings."""
        from quantsim.export.checkpoint import float_state

        tensors, shared = float_state(model)
        return {**tensors, **{name: tensors[kept] for name, kept in shared.items()}}, {}

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        model.__dict__.pop("save_pretrained", None)
        if self.simulation is not None:
            self.simulation.remove()
        return model

    def is_serializable(self) -> Any:  # as the base does not say
        """Yes: ``save_pretrained`` writes the encodings beside the weights."""
        return True

    @property
    def is_trainable(self) -> Any:  # as the base does not say
        """Yes: the weights are floating-point."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Yes: training goes through the quantizers."""
        return True

    @property
    def is_compileable(self) -> bool:
        """Yes."""
        return True


class _SaveSimulation:
    """``model.save_pretrained`` of a simulated model; copied and pickled along with it."""

    def __init__(self, simulation: QuantizationSimModel) -> None:
        self.simulation = simulation

    def __call__(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict[str, Any] | None = None,
        push_to_hub: bool = False,
        **options: Any,
    ) -> None:
        from quantsim.export.checkpoint import save_pretrained

        if push_to_hub:
            raise ConfigurationError(
                "a simulation is saved in a folder first",
                where="save_pretrained(push_to_hub)",
                got="True",
                expected="False",
                fix="save it, then upload the folder with huggingface_hub",
            )
        if is_main_process:
            save_pretrained(self.simulation, save_directory, state=state_dict, **options)


def simulation_of(model: PreTrainedModel) -> QuantizationSimModel:
    """The simulation of a model that ``from_pretrained`` simulated.

    Raises:
        ConfigurationError: The model is not simulated.
    """
    simulation = getattr(getattr(model, "hf_quantizer", None), "simulation", None)
    if simulation is None:
        raise ConfigurationError(
            "the model is not simulated",
            where="simulation_of(model)",
            got=type(model).__name__,
            expected="a model of from_pretrained(path, quantization_config=QuantSimHfConfig(...))",
            fix="simulate it yourself: QuantizationSimModel(model, example_inputs, config)",
        )
    return simulation


def load_model(folder: str | Path) -> PreTrainedModel:
    """The simulated model that a folder holds, of the class that was saved.

    Raises:
        ConfigurationError: transformers has no such class.
    """
    import transformers

    names = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    model_class: Any = getattr(transformers, str(names[0]), None)
    if not isinstance(model_class, type) or not issubclass(model_class, PreTrainedModel):
        raise ConfigurationError(
            "transformers has no such model",
            where=str(folder),
            got=f"architectures={names}",
            expected="the name of a class of transformers",
            fix="load_simulation(folder, model) with a model that you build",
        )
    return model_class.from_pretrained(folder, local_files_only=True)


def write_model(sim: QuantizationSimModel, folder: Path, state: dict[str, Tensor], **options: Any) -> None:
    """Writes transformers' own files of a simulated model.

    Args:
        sim: The simulation of a model of transformers.
        folder: Where to.
        state: The state to write.
        options: For transformers' ``save_pretrained``, such as ``max_shard_size``.
    """
    model: Any = sim.model
    config = model.config
    before = config.__dict__.get("quantization_config")
    # With it, transformers would ask it for a state instead.
    quantizer = model.__dict__.pop("hf_quantizer", None)
    config.quantization_config = QuantSimHfConfig(
        sim.config, attn_implementation=getattr(config, "_attn_implementation", None)
    )
    try:
        type(model).save_pretrained(model, folder, state_dict=state, **options)
    finally:
        if quantizer is not None:
            model.hf_quantizer = quantizer
        if before is None:
            del config.quantization_config
        else:
            config.quantization_config = before


def example_inputs_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Inputs on which a model runs, by its config: what matters is which functions it calls.

    The last of two texts is padded, so that masks are computed.

    Raises:
        ConfigurationError: It is neither a text nor an image model.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
        >>> {name: tuple(values.shape) for name, values in example_inputs_of(BertModel(config)).items()}
        {'input_ids': (2, 8), 'attention_mask': (2, 8)}
    """
    main, config = model.main_input_name, model.config
    device = model.device
    if main == "input_ids":
        text = config.get_text_config()
        ids = torch.arange(2 * _LENGTH, device=device).reshape(2, _LENGTH) % (text.vocab_size - 1) + 1
        mask = torch.ones_like(ids)
        mask[1, -2:] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
        if config.is_encoder_decoder:
            inputs["decoder_input_ids"] = ids[:, :-1]
        return inputs
    channels, size = (getattr(config, name, None) for name in ("num_channels", "image_size"))
    if main == "pixel_values" and channels is not None and size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixel_values": torch.zeros(1, channels, height, width, dtype=model.dtype, device=device)}
    raise ConfigurationError(
        "cannot tell what the model runs on",
        where=type(model).__name__,
        got=f"main input {main!r}",
        expected="input_ids, or pixel_values with num_channels and image_size in the config",
        fix="QuantSimHfConfig(config, example_inputs={...})",
    )


_LENGTH: Final = 8


def _restored(model: PreTrainedModel, source: str, manifest_path: Path | None) -> QuantizationSimModel:
    from quantsim.export.checkpoint import restore_simulation

    if manifest_path is None:
        raise ConfigurationError(
            "config.json says that this is a simulation, but the rest of it is missing",
            where=source or type(model).__name__,
            got=f"no {MANIFEST_FILE}",
            expected=f"{MANIFEST_FILE} and {ENCODINGS_FILE} beside config.json",
            fix="save the simulation again; or take quantization_config out of config.json for the float model",
        )
    manifest = CheckpointManifest.read(manifest_path)
    if manifest.model_class != type(model).__name__:
        raise ConfigurationError(
            "the simulation is of another class",
            where=source,
            got=type(model).__name__,
            expected=manifest.model_class,
            fix=f"{manifest.model_class}.from_pretrained(...), or load_simulation(folder)",
        )
    return restore_simulation(model, manifest_path.parent, manifest)


def _file(source: str, name: str, revision: str | None) -> Path | None:
    """A file beside the weights, in a folder or on the hub; None if there is none."""
    if not source:
        return None
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    found = cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
    register_quantization_config(METHOD)(QuantSimHfConfig)
if METHOD not in AUTO_QUANTIZER_MAPPING:
    register_quantizer(METHOD)(QuantSimHfQuantizer)

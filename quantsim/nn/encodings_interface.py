"""Export from and import into the quantizers of a quantized module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import nn

from quantsim.errors import ConfigurationError, QuantsimError
from quantsim.nn.observation import preserve_on_error
from quantsim.quantization.base import QuantizerBase

__all__ = ["EncodingsInterface"]

LEGACY_VERSION = "0.6.1"


class EncodingsInterface(nn.Module):
    """The part of a quantized module that gives encodings out and takes them in."""

    input_quantizers: nn.ModuleList
    param_quantizers: nn.ModuleDict
    output_quantizers: nn.ModuleList

    def _location(self, part: str) -> str:
        raise NotImplementedError

    def _folded(self) -> dict[str, tuple[nn.Parameter | None, QuantizerBase]]:
        raise NotImplementedError

    def export_input_encodings(self, encoding_version: str | None = None) -> list[Any]:
        """Returns one encoding for each input quantizer, ``None`` where there is no quantizer or no range yet.

        Args:
            encoding_version: ``None`` for the values of `quantsim_encodings`; ``"0.6.1"`` for AIMET's legacy
                lists of dictionaries. Whole files of any version are `QuantizationSimModel.save_encodings`'s work.

        Raises:
            ConfigurationError: If the version is none of these.
        """
        return [export(quantizer, encoding_version) for quantizer in self.input_quantizers]

    def export_output_encodings(self, encoding_version: str | None = None) -> list[Any]:
        """Returns one encoding for each output quantizer; see `export_input_encodings`."""
        return [export(quantizer, encoding_version) for quantizer in self.output_quantizers]

    def export_param_encodings(self, encoding_version: str | None = None) -> dict[str, Any]:
        """Returns one encoding for each parameter, folded ones included; see `export_input_encodings`."""
        folded = self._folded()
        return {
            name: export(folded[name][1] if name in folded else quantizer, encoding_version)
            for name, quantizer in self.param_quantizers.items()
        }

    def import_input_encodings(
        self,
        encodings: Mapping[str, Any] | Sequence[Any],
        strict: bool = True,
        partial: bool = False,
        requires_grad: bool | None = None,
        allow_overwrite: bool = True,
    ) -> None:
        """Takes over encodings of the input quantizers; all of them or, if one is wrong, none.

        Args:
            encodings: Encoding by index (``"0"``, ``"1"``, ...), or a list. Each is a value of `quantsim_encodings`,
                AIMET's legacy list of dictionaries, or ``None`` for no encoding.
            strict: Whether an encoding without a quantizer is an error; it is skipped otherwise.
            partial: Whether quantizers without an encoding stay; they are removed otherwise.
            requires_grad: Whether ranges are to be trained; ``None`` leaves that as it is.
            allow_overwrite: Whether a later calibration may change the ranges.

        Raises:
            ConfigurationError: If ``strict`` and an encoding has no quantizer, or an encoding does not fit.
        """
        import_into(
            self.input_quantizers,
            encodings,
            self._location("input_quantizers"),
            strict=strict,
            partial=partial,
            requires_grad=requires_grad,
            allow_overwrite=allow_overwrite,
        )

    def import_output_encodings(
        self,
        encodings: Mapping[str, Any] | Sequence[Any],
        strict: bool = True,
        partial: bool = False,
        requires_grad: bool | None = None,
        allow_overwrite: bool = True,
    ) -> None:
        """Takes over encodings of the output quantizers; see `import_input_encodings`."""
        import_into(
            self.output_quantizers,
            encodings,
            self._location("output_quantizers"),
            strict=strict,
            partial=partial,
            requires_grad=requires_grad,
            allow_overwrite=allow_overwrite,
        )

    def import_param_encodings(
        self,
        encodings: Mapping[str, Any],
        strict: bool = True,
        partial: bool = False,
        requires_grad: bool | None = None,
        allow_overwrite: bool = True,
    ) -> None:
        """Takes over encodings of the parameter quantizers by parameter name; see `import_input_encodings`."""
        import_into(
            self.param_quantizers,
            encodings,
            self._location("param_quantizers"),
            strict=strict,
            partial=partial,
            requires_grad=requires_grad,
            allow_overwrite=allow_overwrite,
        )


def export(quantizer: nn.Module | None, version: str | None) -> Any:
    """Returns the encoding of one quantizer in the form of ``version``, ``None`` if it has none.

    Raises:
        ConfigurationError: If the version is not known.
    """
    if version not in (None, LEGACY_VERSION):
        raise ConfigurationError(
            where="encoding_version",
            got=repr(version),
            expected=f"None (values of quantsim_encodings) or {LEGACY_VERSION!r}",
            fix="use QuantizationSimModel.save_encodings for files of other versions",
        )
    if not isinstance(quantizer, QuantizerBase):
        return None
    return quantizer.get_encodings() if version is None else quantizer.get_legacy_encodings()


def import_into(
    container: nn.ModuleList | nn.ModuleDict,
    encodings: Mapping[str, Any] | Sequence[Any],
    location: str,
    *,
    strict: bool,
    partial: bool,
    requires_grad: bool | None,
    allow_overwrite: bool,
) -> None:
    """Takes over encodings into the quantizers of ``container``; all or, if one is wrong, none.

    Raises:
        ConfigurationError: If ``strict`` and an encoding has no quantizer, or an encoding does not fit its quantizer.
    """
    by_name = _by_name(encodings, location)
    quantizers = {
        name: quantizer for name, quantizer in container._modules.items() if isinstance(quantizer, QuantizerBase)
    }
    given = {name: encoding for name, encoding in by_name.items() if encoding is not None}
    homeless = [name for name in given if name not in quantizers]
    if strict and homeless:
        raise ConfigurationError(
            "encodings without a quantizer",
            where=location,
            got=f"encodings for {homeless}",
            expected=f"encodings for {list(quantizers)}",
            fix="place quantizers there first, or pass strict=False to skip them",
        )
    chosen = {name: quantizer for name, quantizer in quantizers.items() if name in given}
    with preserve_on_error(list(chosen.values())):
        for name, quantizer in chosen.items():
            try:
                _set(quantizer, given[name])
            except QuantsimError as error:
                raise error.with_location(f"{location}[{name}]")  # noqa: B904 (the same error, with its place)
            except (TypeError, ValueError, KeyError, NotImplementedError) as error:
                raise ConfigurationError(
                    f"the encoding cannot be taken over: {error}", where=f"{location}[{name}]"
                ) from error
            quantizer.allow_overwrite(allow_overwrite)
            if requires_grad is not None:
                quantizer.requires_grad_(requires_grad)
    if not partial:
        for name in quantizers:
            if name not in given:
                cast(Any, container._modules)[name] = None


def _by_name(encodings: Mapping[str, Any] | Sequence[Any], location: str) -> dict[str, Any]:
    if isinstance(encodings, Mapping):
        return {str(name): encoding for name, encoding in encodings.items()}
    if isinstance(encodings, Sequence) and not isinstance(encodings, (str, bytes)):
        return {str(index): encoding for index, encoding in enumerate(encodings)}
    raise ConfigurationError(where=location, got=type(encodings).__name__, expected="a mapping or a list of encodings")


def _set(quantizer: QuantizerBase, encoding: Any) -> None:
    if isinstance(encoding, Mapping):
        quantizer.set_legacy_encodings([encoding])
    elif isinstance(encoding, Sequence):
        quantizer.set_legacy_encodings(encoding)
    else:
        quantizer.set_encodings(encoding)

"""`QuantizationSimModel`: a whole model with quantizers in the right places."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from quantsim import nn as quantized_nn
from quantsim.errors import ConfigurationError, NotCalibratedError, UnknownModuleError
from quantsim.nn import BaseQuantizationMixin, QuantizationMixin
from quantsim.quantization.base import QuantizerBase
from quantsim.sim.assembly import make_quantizers
from quantsim.sim.calibration import evaluation_mode
from quantsim.sim.config import SimulationConfig, load_config
from quantsim.sim.coverage import Coverage
from quantsim.sim.encodings import LoadReport, export_document, model_fingerprint, place_quantizer, plan_load
from quantsim.sim.example_inputs import ModelInputs
from quantsim.sim.example_run import run_example
from quantsim.sim.functional_routing import every_operation_called, route_functions, unroute_functions
from quantsim.sim.idle_operations import find_idle_operations
from quantsim.sim.leaf import find_leaves, quantizable_modules
from quantsim.sim.module_kinds import ModuleKind
from quantsim.sim.placement import excluded_paths
from quantsim.sim.recorded_run import RecordedRun
from quantsim.sim.replacement import quantized_counterpart, swap_modules
from quantsim.sim.sequential_calibration import run_on
from quantsim.sim.slots import nearest_names, shown, slot_name
from quantsim.sim.state import check_state
from quantsim.sim.summary import SimulationSummary, iterate_quantizers, summarize
from quantsim.sim.tensor_names import TensorResolver
from quantsim_encodings.document import EncodingsDocument, EncodingsVersion, TensorReference, TensorRole

if TYPE_CHECKING:
    from quantsim.nn import CalibrationReport, DispatchReport
    from quantsim.quantization.ranks import RankChoice
    from quantsim.sim.sequential_calibration import CalibrationData, SequentialChoice

__all__ = ["QuantizationSimModel"]


class QuantizationSimModel:
    """A model as quantized hardware would compute it.

    The modules of a copy of the model are swapped for quantized ones, which share its parameters, and get quantizers as
    the config says. Where tensors come from is found out by one run on the example inputs, without gradients and in
    evaluation mode: an input that is the quantized output of another module gets no second quantizer.

    Invariants:
        * The model given is unchanged, unless ``in_place``.
        * Nothing that fails (a config that does not fit, a broken encodings file, a failing calibration) changes the
          simulation.
        * Only quantizers are added: parameter names, shapes and values stay.

    Args:
        model: Any eager PyTorch model; may itself be one layer; may be on ``meta``.
        example_inputs: ``(args, kwargs)``, a tuple of arguments, a mapping of keyword arguments, or a lone tensor, that
            the model runs on; or the `RecordedRun` of a simulation before. With None nothing is run: every input of a
            multiplying module then gets a quantizer, and functional operations are not reported.
        config: Name of a preset, path of a JSON or YAML file, `SimulationConfig`, plain data, or None for no quantizers
            (then load encodings, or set quantizers by hand).
        in_place: Change ``model`` itself instead of a deep copy.

    Attributes:
        model: The simulated model, an ordinary ``nn.Module`` to evaluate, train, compile or export.
        config: What the quantizers were placed by.

    Raises:
        ConfigurationError: Unknown preset, a rule that matches nothing, a model that fails on the example inputs.

    Example:
        >>> float_model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
        >>> sim = QuantizationSimModel(float_model, torch.zeros(1, 4), config="w8a8")
        >>> with sim.compute_encodings():
        ...     _ = sim.model(torch.linspace(-1, 1, 32).reshape(8, 4))
        >>> sim(torch.ones(1, 4)).shape, len(list(sim.quantizers()))
        (torch.Size([1, 2]), 4)
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: object = None,
        config: SimulationConfig | str | Path | Mapping[str, Any] | None = "w8a8",
        in_place: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ConfigurationError(
                "this is no model",
                where="QuantizationSimModel(model)",
                got=type(model).__name__,
                expected="a torch.nn.Module",
                fix="pass the module itself" if isinstance(model, type) else "wrap the function in a module",
            )
        self.config = load_config(config)
        recorded = example_inputs if isinstance(example_inputs, RecordedRun) else None
        inputs = None if example_inputs is None or recorded is not None else ModelInputs.of(example_inputs)
        model = model if in_place else copy.deepcopy(model)
        modules = dict(model.named_modules())
        self._excluded = excluded_paths(self.config, modules, all_must_match=False)
        swapped = {
            module: quantized_counterpart(path, module)
            for path, module in quantizable_modules(model, self._excluded).items()
        }
        self.model = swap_modules(model, swapped)
        self._swapped = swapped
        try:
            if inputs is not None and self.config.functional_operations:
                example = (inputs.args, dict(inputs.kwargs or {}))
                route_functions(self.model, self._excluded, example, lambda: run_example(self.model, inputs, ()))
            elif recorded is not None and self.config.functional_operations:
                recorded.route(self.model, self._excluded)
            # Rules go by the classes of the float model, and by paths that only quantized modules have (in attention).
            known = {**dict(self.model.named_modules()), **modules}
            self._excluded = excluded_paths(self.config, known)
            leaves = find_leaves(self.model, self._excluded)
            with every_operation_called(self.model):
                self._run = recorded.run if recorded else inputs and run_example(self.model, inputs, leaves)
            quantizers = make_quantizers(self.config, leaves, known, self._run)
        except BaseException:
            unroute_functions(self.model)
            swap_modules(self.model, {quantized: module for module, quantized in swapped.items()})
            raise
        self._modules: dict[str, BaseQuantizationMixin] = {leaf.path: leaf.module for leaf in leaves}
        self._kinds = {leaf.path: leaf.kind for leaf in leaves}
        for path, module in self._modules.items():
            module.module_path = path or type(module).__name__
        for tensor, quantizer in quantizers.items():
            place_quantizer(self._modules[tensor.module], tensor, quantizer)

    def remove(self) -> nn.Module:
        """Takes the simulation off: gives the float model back, with its parameters as they are now (trained, say).

        The modules are put back in place, so that nothing of the simulation is left; it cannot be used any more.
        Modules that were quantized before the simulation stay.

        Example:
            >>> sim = QuantizationSimModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.zeros(1, 2))
            >>> [type(module).__name__ for module in sim.remove()]
            ['Linear', 'ReLU']
        """
        unroute_functions(self.model)
        originals: dict[nn.Module, nn.Module] = {
            quantized: quantized.get_original_module()
            for module, quantized in self._swapped.items()
            if module is not quantized
        }
        return swap_modules(self.model, originals)

    # ---------------------------------------------------------------- use

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the simulated model.

        Raises:
            NotCalibratedError: Quantizers in the way of the data have no range; all that have none are named.
        """
        try:
            return self.model(*args, **kwargs)
        except NotCalibratedError as error:
            names = self.uncalibrated()
            if not names:
                raise
            raise NotCalibratedError(
                "the simulation is not calibrated",
                where=type(self).__name__,
                got=f"{len(names)} quantizers without a range: {shown(names)}",
                expected="a range for every quantizer that data passes through",
                fix="run representative data inside `with sim.compute_encodings():`, or load_encodings(path)",
            ) from error

    def module(self, path: str) -> BaseQuantizationMixin:
        """The quantized module at a path.

        Raises:
            UnknownModuleError: There is none; says which paths are near.
        """
        found = self._modules.get(path)
        if found is None:
            near = nearest_names(path, self._modules)
            raise UnknownModuleError(
                "the simulation has no such quantized module",
                where=f"{type(self).__name__}.module",
                got=repr(path),
                expected=f"one of {len(self._modules)} paths",
                fix=f"did you mean {' or '.join(map(repr, near))}?" if near else "see sim.summary()",
            )
        return found

    def quantized_modules(self) -> Iterator[tuple[str, BaseQuantizationMixin]]:
        """Paths and modules that hold, or could hold, quantizers; each module once."""
        yield from self._modules.items()

    def quantizers(self) -> Iterator[tuple[str, QuantizerBase]]:
        """Places and quantizers, in the order of the model.

        Example:
            >>> sim = QuantizationSimModel(nn.Linear(2, 2), torch.zeros(1, 2), config="w4a16_g32")
            >>> [place for place, quantizer in sim.quantizers()]
            ["param_quantizers['weight']"]
        """
        for tensor, quantizer in iterate_quantizers(self._modules):
            yield slot_name(tensor), quantizer

    def uncalibrated(self) -> tuple[str, ...]:
        """Places of the quantizers without a range; weights calibrate themselves at first use and do not count."""
        return tuple(
            slot_name(tensor)
            for tensor, quantizer in iterate_quantizers(self._modules)
            if tensor.role is not TensorRole.PARAM and quantizer.needs_calibration and not quantizer.is_initialized()
        )

    # ---------------------------------------------------------------- calibration

    @overload
    def compute_encodings(
        self, data: None = None, *, process_group: RankChoice = "all"
    ) -> AbstractContextManager[CalibrationReport]: ...

    @overload
    def compute_encodings(
        self, data: CalibrationData, *, sequential: SequentialChoice = False, process_group: RankChoice = "all"
    ) -> CalibrationReport: ...

    def compute_encodings(
        self,
        data: CalibrationData | None = None,
        *,
        sequential: SequentialChoice = False,
        process_group: RankChoice = "all",
    ) -> AbstractContextManager[CalibrationReport] | CalibrationReport:
        """Calibrates: weights from their values, activations from the data that passes through.

        Activation quantizers observe and let pass; weights are quantized. No gradients; the model is in evaluation mode
        meanwhile. If anything fails, every quantizer is as it was.

        In a distributed run every rank calls this with its share of the data, and all get the ranges of all data.

        Args:
            data: None: use as a context, and run the model inside. A callable: called with the model. Batches: each as
                ``example_inputs`` are given; an iterable of them.
            sequential: For models larger than the device's memory: run block after block, each for all batches. True
                finds the blocks; or their path, or a `SequentialCalibration`. Needs batches.
            process_group: The ranks whose statistics are united: all; those of a group; None for this rank alone.

        Returns:
            The context, or the report: what was calibrated, and which quantizers saw no data.

        Raises:
            NonFiniteError: NaN or infinity was seen; names the quantizer.
            ConfigurationError: ``data`` is neither callable nor iterable, or there was no batch.
            RankError: Calibration failed on another rank, or the ranks have different quantizers.

        Example:
            >>> sim = QuantizationSimModel(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2), config="w8a8")
            >>> report = sim.compute_encodings([torch.ones(4, 2), torch.zeros(4, 2)])
            >>> report.calibrated, report.unobserved
            (['0.input_quantizers[0]'], [])
        """
        if data is None and not sequential:
            return self._calibration(process_group)
        with self._calibration(process_group) as report:  # also around errors in the data: other ranks must hear of it
            run_on(self.model, data, sequential, where=f"{type(self).__name__}.compute_encodings(data)")
        return report

    @contextmanager
    def _calibration(self, process_group: RankChoice) -> Iterator[CalibrationReport]:
        calibration = quantized_nn.compute_encodings(self.model, process_group=process_group)
        with evaluation_mode(self.model), torch.no_grad(), calibration as report:
            yield report

    def compute_param_encodings(self) -> None:
        """Calibrates the weights' quantizers now; else they do it when their module is first called."""
        quantized_nn.compute_param_encodings(self.model)

    # ---------------------------------------------------------------- what it is

    @property
    def coverage(self) -> Coverage:
        """What is quantized and what is not."""
        holding = {tensor.module for tensor, _ in iterate_quantizers(self._modules)}
        idle = [path for path in self._modules if path not in holding]
        called = find_idle_operations(self.model, idle, holding, {} if self._run is None else self._run.calls)
        bare = [
            path
            for path in idle
            if path not in called.paths and self._kinds[path] not in (ModuleKind.GRID_KEEPING, ModuleKind.COMPOSITE)
        ]
        calls = None if self._run is None else self._run.calls
        operations = (*(() if self._run is None else self._run.unquantized), *called.operations)
        multiplying = [
            path for path, kind in self._kinds.items() if kind is ModuleKind.MULTIPLYING and path not in called.paths
        ]
        counts = {path: 1 if calls is None or path not in calls else calls[path].calls for path in multiplying}
        functional = sum(operation.count * operation.multiplies for operation in operations)
        return Coverage(
            quantized=tuple(path for path in self._modules if path in holding),
            without_quantizers=tuple(bare),
            excluded=tuple(sorted(self._excluded)),
            uncalled=()
            if calls is None
            else tuple(path for path in self._modules if path in holding and path not in calls),
            operations=operations,
            multiplications=None if calls is None else sum(counts.values()) + functional,
            quantized_multiplications=None
            if calls is None
            else sum(counts[path] for path in multiplying if path in holding),
        )

    def summary(self) -> SimulationSummary:
        """All quantizers as rows, with sizes and coverage; ``print`` shows a table.

        Example:
            >>> sim = QuantizationSimModel(nn.Linear(32, 4), torch.zeros(1, 32), config="w4a16_g32")
            >>> [(row.place, row.format, row.granularity, row.state.value) for row in sim.summary().rows]
            [("param_quantizers['weight']", 'uint4', 'channel', 'at first use')]
        """
        return summarize(self.config.name, self.model, self._modules, self.coverage)

    def explain_dispatch(self) -> dict[str, DispatchReport]:
        """For each quantized module, by path, which kernel computes it and why, or why it fake-quantizes.

        Example:
            >>> sim = QuantizationSimModel(nn.Linear(4, 2), torch.zeros(1, 4), config="w4a16_g32")
            >>> print(sim.explain_dispatch()[""])
            linear: fake-quantization, because ...
        """
        return {
            path: module.explain_dispatch()
            for path, module in self._modules.items()
            if isinstance(module, QuantizationMixin)
        }

    # ---------------------------------------------------------------- encodings

    def encodings(self, version: EncodingsVersion | str = EncodingsVersion.QUANTSIM) -> EncodingsDocument:
        """All encodings as a document.

        Raises:
            EncodingsError: Quantizers that have no range; all are listed.
            ConfigurationError: Unknown version.
        """
        return export_document(self.model, self._modules, version=_version(version), excluded=self._excluded)

    def save_encodings(
        self, path: str | Path, version: EncodingsVersion | str = EncodingsVersion.QUANTSIM, **options: Any
    ) -> None:
        """Writes all encodings to a file; the file is replaced at once or not at all.

        Versions by tensor name (0.6.1, 1.0.0, 2.x) get names from module paths: ``fc.weight``, ``fc.output[0]``,
        ``fc.input[0]``.

        Args:
            path: Where to.
            version: ``"quantsim-1"`` (holds everything), ``"aimet-torch"``, ``"0.6.1"``, ``"1.0.0"``, ``"2.0.0"``,
                ``"2.1.0"``.
            options: Passed to `quantsim_encodings.write`, such as ``allow`` (which losses to accept).

        Raises:
            EncodingsError: Quantizers without a range, or what the version cannot hold; everything is listed.
        """
        from quantsim_encodings import write

        document = self.encodings(version)
        write(document, path, document.version, **options)

    def load_encodings(
        self,
        source: str | Path | Mapping[str, Any] | EncodingsDocument,
        strict: bool = True,
        partial: bool = False,
        name_map: Mapping[str, str | TensorReference | Sequence[str | TensorReference]] | None = None,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
    ) -> LoadReport:
        """Takes over the encodings of a file of any version; quantizers are made where there are none.

        Works on a simulation without quantizers (``config=None``) and on ``meta``. If anything is wrong, nothing is
        changed.

        Args:
            source: Path of the file, its parsed JSON, or a document.
            strict: An entry that no tensor of the simulation matches is an error; else it is reported as ignored.
            partial: Quantizers that the file does not mention stay as they are; else they are an error. Quantizers with
                run-time scales need no entry.
            name_map: For names in the file that nothing explains: where they belong, as ``"fc.output_quantizers[0]"``,
                ``"fc.weight"``, or a sequence of such places.
            input_names: For files by tensor name, the names of the exported graph's inputs, in the order of the model's
                tensor inputs; names equal to the arguments of ``forward`` are found without.
            output_names: Likewise for its outputs, in the order of the tensors that the model returns.

        Returns:
            What was loaded, created, ignored and left alone.

        Raises:
            EncodingsError: A broken file, entries without a place, quantizers without an entry, encodings that do not
                fit: all problems at once.
        """
        from quantsim_encodings import read

        document = source if isinstance(source, EncodingsDocument) else read(source)
        resolver = TensorResolver(self.model, self._modules, self._run, name_map, input_names, output_names)
        plan = plan_load(
            document,
            self._modules,
            resolver,
            fingerprint=model_fingerprint(self.model),
            strict=strict,
            partial=partial,
        )
        plan.commit(self._modules)
        return plan.report

    # ---------------------------------------------------------------- export

    def export_onnx(self, path: str | Path, example_inputs: object, **options: Any) -> Any:
        """Writes the calibrated simulation as ONNX, with encodings files that name its tensors.

        The same as `quantsim.export.export_onnx`, which says what ``options`` there are and what the report holds.

        Args:
            path: A file that ends in ``.onnx``, or a folder, which gets ``model.onnx``.
            example_inputs: As for the simulation; the model is traced on them.
            options: Such as ``opset``, ``encodings_version``, ``strict``, ``dynamic_shapes``.
        """
        # By name: what exports is above the simulation, which must not depend on it.
        return importlib.import_module("quantsim.export").export_onnx(self, path, example_inputs, **options)

    def report(self, path: str | Path, batches: Any, **options: Any) -> Any:
        """Writes what can be said of the calibrated simulation as one HTML page, for people.

        The same as `quantsim.report.write_simulation_report`, which says more.
        """
        return importlib.import_module("quantsim.report").write_simulation_report(self, path, batches, **options)

    def save_pretrained(self, folder: str | Path, *, fold_weights: bool = False) -> Path:
        """Writes weights, encodings and config into a folder; `load_simulation` makes the simulation again from it.

        The same as `quantsim.export.save_pretrained`, which says more.
        """
        return importlib.import_module("quantsim.export").save_pretrained(self, folder, fold_weights=fold_weights)

    @classmethod
    def from_pretrained(cls, folder: str | Path, model: nn.Module | Callable[[], nn.Module] | None = None) -> Any:
        """The simulation that `save_pretrained` wrote; the same as `quantsim.export.load_simulation`, which says more.

        Args:
            folder: The folder.
            model: The float model, or a function that builds it; not needed for a model of transformers.
        """
        return importlib.import_module("quantsim.export").load_simulation(folder, model)

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """The simulated model's state, ranges of quantizers included."""
        return self.model.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Takes over a state; unlike torch's, it checks first, so that a state that does not fit changes nothing.

        Args:
            state_dict: What :meth:`state_dict` gave, of a simulation with the same quantizers.
            strict: Names must agree exactly.

        Raises:
            ShapeError: Names or shapes that do not fit; all are listed.
        """
        check_state(self.model.state_dict(), state_dict, strict=strict, where=f"{type(self).__name__}.load_state_dict")
        self.model.load_state_dict(state_dict, strict=strict)

    def __repr__(self) -> str:
        count = sum(1 for _ in self.quantizers())
        return f"{type(self).__name__}({type(self.model).__name__}, config={self.config.name!r}, {count} quantizers)"


def _version(version: EncodingsVersion | str) -> EncodingsVersion:
    try:
        return EncodingsVersion(version)
    except ValueError:
        raise ConfigurationError(
            "there is no such version of encodings files",
            where="save_encodings(version)",
            got=repr(version),
            expected=", ".join(EncodingsVersion),
            fix="leave it out for quantsim's own",
        ) from None

"""The contract as a test class: a plugin inherits it and names itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.testing import data_checks as data
from mlkit_core.testing import part_checks as part
from mlkit_core.testing import plugin_checks
from mlkit_core.testing.subject import ContractError, Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pytest

    from mlkit_core.plugins.specs import ComponentSpec, Kind

_MODULE = (
    part.check_gradients,
    part.check_state_dict,
    part.check_deterministic,
    part.check_batch_of_one,
    part.check_bad_input,
)
CHECKS: Mapping[Kind, tuple[Callable[[Subject], None], ...]] = {
    "encoder": (part.check_encoder_declares, part.check_published_shapes, *_MODULE),
    "fusion": (part.check_published_shapes, *_MODULE),
    "head": (part.check_head_output, *_MODULE),
    "loss": (
        part.check_loss_parts,
        part.check_loss_rows,
        part.check_loss_of_one,
        part.check_gradients,
        part.check_state_dict,
    ),
    "data": (
        data.check_data_declares,
        data.check_data_units,
        data.check_data_load,
        data.check_data_collate,
        data.check_data_cache,
        data.check_data_open,
        data.check_data_bad_input,
    ),
    "metric": (data.check_metric_values, data.check_metric_merges),
    "trainer": (data.check_trainer,),
    "extractor": (data.check_extractor,),
}


class PluginContract:
    """Inherit this as `class TestAcme(PluginContract)` and set `plugin` to your module's name."""

    plugin: str

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one test for each component, and one for each of its checks."""
        if "spec" not in metafunc.fixturenames:
            return
        try:
            specs = plugin_checks.specs_of(self.plugin)
        except ContractError:
            specs = ()  # test_plugin_is_light says why
        if "check" not in metafunc.fixturenames:
            metafunc.parametrize("spec", specs, ids=[f"{s.kind}/{s.name}" for s in specs])
            return
        cases = [(s, check) for s in specs if s.example for check in CHECKS[s.kind]]
        names = [f"{s.kind}/{s.name}-{check.__name__[6:]}" for s, check in cases]
        metafunc.parametrize(("spec", "check"), cases, ids=names)

    def test_plugin_is_light(self) -> None:
        """Importing plugin and configs loads no heavy module."""
        plugin_checks.check_light(self.plugin)

    def test_plugin_states_its_api(self) -> None:
        """MLKIT_API is there and right."""
        plugin_checks.check_api(self.plugin)

    def test_spec_names_what_exists(self, spec: ComponentSpec) -> None:
        """Targets, configs and examples import."""
        plugin_checks.check_spec(spec)

    def test_options_are_keywords(self, spec: ComponentSpec) -> None:
        """The config's fields are the constructor's keywords."""
        plugin_checks.check_options(spec)

    def test_component(
        self,
        spec: ComponentSpec,
        check: Callable[[Subject], None],
        tmp_path: Path,
    ) -> None:
        """One check of one component."""
        check(Subject.of(spec, tmp_path))

"""What mlkit-core itself yields."""

from mlkit_core.config.fields import config_model
from mlkit_core.plugins import Catalogue

CORE = Catalogue.from_plugins({"core": "mlkit_core.plugin"})


def test_core_yields_the_general_components():
    found = {(spec.kind, spec.name) for spec, _ in CORE.components()}
    assert found >= {
        ("encoder", "timm"),
        ("fusion", "none"),
        ("fusion", "film"),
        ("fusion", "cross-attention"),
        ("loss", "bce"),
        ("loss", "dice"),
        ("loss", "focal"),
        ("trainer", "none"),
        ("trainer", "supervised"),
    }
    assert CORE.failures == ()


def test_the_options_of_every_core_component_import_without_torch():
    for spec, _ in CORE.components():
        assert all(field.description for field in config_model(spec).model_fields.values())

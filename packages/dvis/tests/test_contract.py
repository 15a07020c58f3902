from mlkit_core.testing import PluginContract


class TestDvis(PluginContract):
    plugin = "mlkit_dvis.plugin"

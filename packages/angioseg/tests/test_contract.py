from mlkit_core.testing import PluginContract


class TestAngioseg(PluginContract):
    plugin = "mlkit_angioseg.plugin"

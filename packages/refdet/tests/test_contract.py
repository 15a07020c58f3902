from mlkit_core.testing import PluginContract


class TestRefdet(PluginContract):
    plugin = "mlkit_refdet.plugin"

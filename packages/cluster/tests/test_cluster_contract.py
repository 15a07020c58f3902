"""The contract kit on what cluster contributes."""

from mlkit_core.testing import PluginContract


class TestCluster(PluginContract):
    plugin = "mlkit_cluster.plugin"

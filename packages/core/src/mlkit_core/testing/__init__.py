"""The contract kit: what every plugin must keep, as tests that a plugin inherits.

```python
from mlkit_core.testing import PluginContract


class TestAcme(PluginContract):
    plugin = "mlkit_acme.plugin"
```
"""

from __future__ import annotations

from mlkit_core.testing.contract import PluginContract
from mlkit_core.testing.subject import ContractError, Subject, validated

__all__ = ["ContractError", "PluginContract", "Subject", "validated"]

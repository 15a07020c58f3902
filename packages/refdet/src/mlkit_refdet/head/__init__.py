"""The detection head: a standard branch over maps, a prototype branch over pairs."""

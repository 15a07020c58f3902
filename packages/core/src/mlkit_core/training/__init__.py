"""Training: the one loop. Import the modules; this package is light."""

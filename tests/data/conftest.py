"""What lies here is data for tests; the example's own tests run where it is installed."""

collect_ignore_glob = ["*"]

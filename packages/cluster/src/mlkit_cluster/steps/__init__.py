"""What each verb does, for Python too: a run's folder in, plain values out."""

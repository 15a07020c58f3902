"""One module for each family of verbs; imported when one of them is called."""

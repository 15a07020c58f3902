"""What a model makes of the view: FiLM's gamma and beta, and the view embedding, over angles."""

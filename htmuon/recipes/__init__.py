"""Training recipes and the comparison of optimizers on them."""

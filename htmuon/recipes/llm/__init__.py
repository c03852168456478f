"""Language-model recipes."""

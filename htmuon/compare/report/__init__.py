"""The report of a comparison: figures, and the page that they stand in. It alone needs matplotlib and jinja2."""

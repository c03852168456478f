"""What all reports share: figures, the page that they stand in, tables and numbers for readers."""

"""What the spectra of weights and updates look like."""

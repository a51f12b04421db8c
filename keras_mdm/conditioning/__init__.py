"""What a network is conditioned on, and what replaces a condition that is left out."""

"""What a network is conditioned on, and what it gets where a condition is left out."""

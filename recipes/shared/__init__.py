"""What the recipes share: options, data, training, drawing, rehearsals."""

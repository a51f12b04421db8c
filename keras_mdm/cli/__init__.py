"""The command line `keras-mdm`: `main` dispatches to one module per command."""

"""Pictures: how a file becomes a square, folders of them, shards and batches."""

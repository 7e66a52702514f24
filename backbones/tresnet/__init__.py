"""The TResNet family."""

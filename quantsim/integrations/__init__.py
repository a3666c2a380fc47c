"""Works with other programs; one module for each."""
